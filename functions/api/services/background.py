"""Services of runs that begin without a client, from a message or from a point of another run."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services import agents, billing, configuration, files, mcp
from api.services.process import clock, settings
from karma.core.ids import UserId

if TYPE_CHECKING:
    from karma.conversations.attachments import Library
    from karma.runs.background import BackgroundRuns
    from karma.runs.forking import ForkService


@cache
def runs() -> BackgroundRuns:
    """Return what begins runs without a client."""
    from karma.integrations.sqs import SqsQueue
    from karma.runs import known
    from karma.runs.background import BackgroundRuns
    from karma.runs.plan import RunLimits
    from karma.runs.recording import RunRecorder
    from karma.runs.repository import RunRepository
    from karma.runs.watchdog import QueuedExecutions, QueueWatchdog
    from karma.tools.server_tools import declared_tools

    executions = QueuedExecutions(SqsQueue(settings().executions_queue_url))
    recorder = RunRecorder(
        store=RunRepository(),
        watchdog=QueueWatchdog(SqsQueue(settings().runs_queue_url)),
        executions=executions,
        tools=declared_tools(),
        limits=RunLimits(),
        mcp=mcp.tools(),
        agents=agents.catalogue(),
        configuration=configuration.current(),
        library=_library(),
        known=known.reader(mcp.tools(), clock()),
        clock=clock(),
    )
    return BackgroundRuns(recorder, executions)


@cache
def forks() -> ForkService:
    """Return what goes back to points of runs."""
    from karma.integrations.sqs import SqsQueue
    from karma.runs.draft_repository import DraftRepository
    from karma.runs.forking import ForkService
    from karma.runs.plan import RunLimits
    from karma.runs.repository import RunRepository
    from karma.runs.watchdog import QueuedExecutions, QueueWatchdog
    from karma.tools.server_tools import declared_tools

    return ForkService(
        agents.checkpoints(),
        store=RunRepository(),
        watchdog=QueueWatchdog(SqsQueue(settings().runs_queue_url)),
        executions=QueuedExecutions(SqsQueue(settings().executions_queue_url)),
        tools=declared_tools(),
        limits=RunLimits(),
        mcp=mcp.tools(),
        agents=agents.catalogue(),
        configuration=configuration.current(),
        library=_library(),
        allowances=billing.allowances(),
        drafts=DraftRepository(),
        clock=clock(),
    )


def _library() -> Library:
    from karma.conversations.attachments import Library
    from karma.integrations.fetch import Fetcher
    from karma.integrations.s3 import S3Attachments

    return Library(S3Attachments(settings().files_bucket), _OwnFiles(), Fetcher())


class _OwnFiles:
    """Files of devices, for runs; their code is imported when a user first shows one."""

    def read(self, user_id: UserId, device_id: str, file_id: str, *, max_bytes: int) -> bytes:
        """Return a ready file's bytes, as karma.files.reading does."""
        from karma.files.entries import Entries
        from karma.files.reading import FileReader

        entries = Entries(files.repository(), files.device_parent(), clock())
        return FileReader(entries, files.store()).read(user_id, device_id, file_id, max_bytes=max_bytes)
