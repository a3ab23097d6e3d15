"""Schedules: runs of agents that begin, and commands that are sent, at times that their owner names (docs/adr/0050).

- **Schedule**: belongs to one account, and goes with it. It says when (`timing`: a cron expression in a time zone, or
  one moment), what (`run`: the request for a run, but for whose turn it is; or `command`: a command and its devices),
  and what to do when a fire meets the run, or command, before (`overlap`) or comes late (`catch_up`). Its item is the
  truth: it waits for one fire, `next_fire_at`.
- **Fire**: a schedule and the moment for which it was due. The id of its run derives from both, so a fire that is
  delivered twice finds the run of its first delivery.
- **Sweep** (`sweeps.py`): each minute asks an index for the schedules that are due within the next minute, and sends
  each fire to a queue, to arrive when it is due. What it sends is a hint.
- **Consumer** (`firing.py`): reads the schedule, and begins the run in the transaction that moves `next_fire_at` on. So
  a run was begun if and only if its fire is over, whoever dies when; a fire of a schedule that was edited, paused or
  deleted meanwhile finds another `next_fire_at`, or none, and does nothing.
- **Command** (`commanding.py`, docs/adr/0068): a fire of it stores a bulk command in that transaction instead of a run.
- **Rights** (`rights.py`): those which the person, or the API key, who last wrote the schedule has at that moment.

States: it waits (`next_fire_at`), is paused (by its owner), stopped (by us, after failures in a row) or ended (no fire
comes any more). Mistakes that remain possible: a fire is late while the sweep or the queue is, and is left out when it
is later than its schedule allows; it is then counted as missed.
"""
