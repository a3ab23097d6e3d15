"""Alarms: what an account wants to be told of its devices, and when it was the case (docs/adr/0062).

- **Rule**: a condition on a metric of one device, or of all that have a tag; or on a device's being silent or offline.
- **Alarm**: a rule's condition on one device, from the sample that raised it to the one that cleared it. Its id derives
  from rule, revision, device and begin, so the same alarm is raised once, however often its samples come.

        raised ──> acknowledged    somebody has seen it
        raised, acknowledged ──> cleared       by samples, or by a message after silence
                             └─> superseded    its rule was changed, paused or deleted

- **Machine** (`engine.py`): decides by samples, in event time, beside the newest values of a device and without its
  history. **Absence** (`absence.py`): looks each minute for devices that say nothing, or are not connected.
- **Silence**: times of the week in which alarms are recorded and nobody is told; what is still raised then, is told.
"""
