"""Services of threads."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services.process import clock, settings

if TYPE_CHECKING:
    from karma.threads.deletion import ThreadRemover
    from karma.threads.export import ThreadExports
    from karma.threads.service import ThreadService
    from karma.threads.waiting import WaitingService


@cache
def service() -> ThreadService:
    """Return the use cases of threads."""
    from karma.conversations.repository import ThreadRepository
    from karma.threads.service import ThreadService

    return ThreadService(ThreadRepository(), clock())


@cache
def waiting() -> WaitingService:
    """Return the lists of what goes on in threads."""
    from karma.conversations.repository import ThreadRepository
    from karma.runs.removal_repository import RunRemovalRepository
    from karma.runs.repository import RunRepository
    from karma.threads.waiting import WaitingService

    return WaitingService(ThreadRepository(), RunRepository(), RunRemovalRepository(), clock())


@cache
def remover() -> ThreadRemover:
    """Return the use case of deleting a thread."""
    from karma.conversations.deletion_repository import ThreadDeletionRepository
    from karma.conversations.repository import ThreadRepository
    from karma.integrations.sqs import SqsQueue
    from karma.runs.repository import RunRepository
    from karma.threads.deletion import ThreadRemover

    return ThreadRemover(
        threads=ThreadRepository(),
        deletions=ThreadDeletionRepository(),
        wishes=RunRepository(),
        queue=SqsQueue(settings().deletions_queue_url),
        clock=clock(),
    )


@cache
def exports() -> ThreadExports:
    """Return the exports of threads."""
    from karma.conversations.repository import ThreadRepository
    from karma.integrations.s3 import S3Attachments, S3Exports
    from karma.runs.removal_repository import RunRemovalRepository
    from karma.threads.export import ThreadExports

    bucket = settings().files_bucket
    return ThreadExports(
        threads=ThreadRepository(),
        runs=RunRemovalRepository(),
        attachments=S3Attachments(bucket),
        store=S3Exports(bucket),
        clock=clock(),
    )
