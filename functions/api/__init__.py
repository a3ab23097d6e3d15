"""The HTTP API: reads requests, asks a context, renders its answer. `services` builds what routes need."""
