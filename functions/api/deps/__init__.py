"""Composition root of the API: what lives as long as the process, one module a context.

Each builder is cached and builds on first use, with what only it needs imported then; tests clear them.
"""

from api.deps import (
    agents,
    avatars,
    billing,
    configuration,
    devices,
    files,
    health,
    identity,
    mail,
    notices,
    process,
    projects,
    realtime,
    tasks,
)

__all__ = [
    "agents",
    "avatars",
    "billing",
    "configuration",
    "devices",
    "files",
    "health",
    "identity",
    "mail",
    "notices",
    "process",
    "projects",
    "realtime",
    "tasks",
]
