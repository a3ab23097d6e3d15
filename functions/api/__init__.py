"""The HTTP API: reads requests, asks a context, renders its answer. `deps` builds what routes need."""
