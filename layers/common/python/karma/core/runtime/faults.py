"""Failures as they are reported to the Runtime API and in one log line."""

from __future__ import annotations

import base64
import json
import sys
import traceback
from collections.abc import Mapping

from karma.core.records import Record

ERROR_TYPE_HEADER = "Lambda-Runtime-Function-Error-Type"
ERROR_BODY_TRAILER = "Lambda-Runtime-Function-Error-Body"

BEFORE_SNAPSHOT_ERROR = "Runtime.BeforeSnapshotError"
AFTER_RESTORE_ERROR = "Runtime.AfterRestoreError"
IMPORT_ERROR = "Runtime.ImportModuleError"
HANDLER_NOT_FOUND = "Runtime.HandlerNotFound"
UNSUPPORTED_EVENT = "Runtime.UnsupportedEvent"

# Lambda cuts error bodies at 256 KB; a recursion error's trace alone can pass the limit of a header line.
_TRACE_LINES = 60
_MESSAGE_CHARACTERS = 4096


class Fault(Record):
    """A failure as Lambda reports it to the invoker and to CloudWatch; never shown to a function URL's caller."""

    error_type: str
    message: str
    trace: tuple[str, ...]

    @classmethod
    def of(cls, error: BaseException, error_type: str = "") -> Fault:
        """Describe an exception; `error_type` replaces its class name where Lambda defines one."""
        trace = "".join(traceback.format_exception(error)).splitlines()[-_TRACE_LINES:]
        # The type becomes a header: a class may be named in any script.
        name = (error_type or type(error).__name__).encode("ascii", "backslashreplace").decode("ascii")
        return cls(name, _text_of(error)[:_MESSAGE_CHARACTERS], tuple(trace))

    def body(self) -> bytes:
        """Return the error as JSON, with the keys that AWS's own streaming client sends."""
        fields = {"errorType": self.error_type, "errorMessage": self.message, "trace": self.trace}
        return json.dumps(fields, separators=(",", ":")).encode()

    def trailers(self) -> dict[str, str]:
        """Return the error as trailers of a response that has begun."""
        return {ERROR_TYPE_HEADER: self.error_type, ERROR_BODY_TRAILER: base64.b64encode(self.body()).decode("ascii")}


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the process edge: an exception that cannot be shown is reported all the same
        return "<this exception has no text>"


def log_fault(event: str, fault: Fault, keys: Mapping[str, str]) -> None:
    """Write one JSON line to stderr; the process edge may not import the logging library."""
    line = {"level": "ERROR", "message": event, **keys, "error_type": fault.error_type, "stack": "\n".join(fault.trace)}
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()
