"""Errors of this package that callers see or raise.

DeviceError
├─ SampleInvalid      record() was given a name or a time that no telemetry message can carry
├─ CredentialsInvalid a certificate or key cannot be read, or does not belong to the other
├─ ProvisioningRefused the service gives this device no certificate of its own by its claim
├─ StateFileBusy      another process already runs this device
├─ StateFileUnusable  the state file cannot be opened where it should be
├─ TransferRefused    bytes must not be sent or taken, as its code says
│  ├─ FirmwareRefused a release must not be installed: firmware.py
│  └─ FileRefused     the service does not take or give a file
├─ TransferUnfinished what was to be sent or fetched was not in time; the same call goes on
│  ├─ FirmwareUnfetched   a release: firmware.py
│  └─ FileUnfinished  a file
├─ InvalidParams      raised by a handler: the command is answered `rejected`
└─ CommandFailed      raised by a handler: the command is answered `failed` with its own code
"""

from typing import Any


class DeviceError(Exception):
    """Base of every error this package raises on purpose."""


class SampleInvalid(DeviceError, ValueError):
    """A sample has a bad metric name or time, too many metrics, or exceeds the size of one message."""


class StateFileBusy(DeviceError):
    """The state file is locked by another process that runs the same device."""


class StateFileUnusable(DeviceError, OSError):
    """The state file cannot be opened: a missing right, a folder in its place. A full or broken disk is none."""


class CredentialsInvalid(DeviceError, OSError):
    """A certificate or key cannot be read, is no PEM, or does not belong to the other; the message names which."""


class TransferRefused(DeviceError):
    """Bytes must not be sent or taken; the same call is refused again.

    Args:
        code: Machine-readable reason in capitals, such as `HASH`.
        message: One sentence for a person.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TransferUnfinished(DeviceError):
    """The time was over first; what has come or gone is kept, and the same call goes on behind it."""


class FileRefused(TransferRefused):
    """The service does not take or give the file; `code` is the service's, `details` what it tells besides."""

    def __init__(self, code: str, message: str, details: Any = None) -> None:
        super().__init__(code, message)
        self.details = details


class FileUnfinished(TransferUnfinished):
    """The time was over first; the same call goes on behind what has come or gone."""


class ProvisioningRefused(DeviceError):
    """The service gives this device no certificate of its own; its owner sees the reason at the claim.

    Args:
        code: AWS IoT's code, such as `AccessDenied`: the hook did not allow it.
        message: AWS IoT's words.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class InvalidParams(DeviceError):
    """The handler cannot accept the command's parameters; nothing was done."""


class SettingsRefused(DeviceError):
    """The device cannot have these settings; it stays as it is, and its owner sees the difference."""


class CommandFailed(DeviceError):
    """The command was tried and did not work.

    Args:
        code: Machine-readable reason in capitals, such as `AXIS_LIMIT`.
        message: One sentence for a person.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
