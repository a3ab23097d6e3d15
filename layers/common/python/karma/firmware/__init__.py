"""Firmware: what devices of an account may run, and how it is brought to them, in waves (docs/adr/0064).

- **Release**: bytes in S3 and a manifest about them, signed by the account's own key, which this service never has. The
  cloud checks signature and hash at publication, a device once more before it installs.

        draft ──> published        for good: neither manifest nor bytes change

- **Rollout**: brings a release to devices in waves. Its **batches** hold up to a hundred devices each, with what became
  of each of them; a batch is one job of AWS IoT a round, whose id derives from both. A resume begins a **round**.

        running <──> paused                  by a person
           │  └────> aborted ──> running     too many have failed; a person resumes
           │            └──> cancelled       by a person, from any of the three; or the rollout's time is over
           └──> completed                    no device is left
           ^        │
           └────────┘                        by a person, who has failed devices tried once more (`retry.py`)

- **The truth** of what a device did are the executions of AWS IoT Jobs: a sweep reads them each minute
  (`advance.py`), and no step depends on an event that may be lost. Each step writes its intent first, under a version.
- A device that has begun goes on to its end, whatever becomes of its rollout: jobs are cancelled without force.
"""
