"""Workers of queues, streams and schedules: Stripe's inbox, runs, files, mail, deletions, counters, sweeps."""
