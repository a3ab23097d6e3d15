"""AWS clients: built on first use, once a process, from one botocore session, with explicit time-outs.

botocore rather than boto3: the same clients without the resource layer, and PynamoDB takes them as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, overload

import botocore
import botocore.session
from botocore.config import Config

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_iot import IoTClient
    from mypy_boto3_iot_data import IoTDataPlaneClient
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sesv2 import SESV2Client
    from mypy_boto3_sqs import SQSClient

# A Lambda behind API Gateway has 29 s; three attempts of 5 s and their pauses stay below 20 s.
# With a name of ours, since botocore composes its own anew, twice for each request: an eighth of a call's CPU.
_CONFIG = Config(
    connect_timeout=2,
    read_timeout=5,
    retries={"total_max_attempts": 3, "mode": "standard"},
    user_agent=f"karma Botocore/{botocore.__version__}",
)
# The service checks what we send; validating it here as well costs half of the CPU of a BatchWrite.
_DYNAMODB = _CONFIG.merge(Config(parameter_validation=False, max_pool_connections=50))

# Presigned URLs need version 4 in every region. Checksums are ours to ask for: botocore would put its own into URLs.
_S3 = _CONFIG.merge(
    Config(
        read_timeout=10,
        retries={"total_max_attempts": 2, "mode": "standard"},
        signature_version="s3v4",
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
)
# Called after the work is done, while the caller waits: one try; a closed socket that this misses is found at the next
# message.
_SOCKETS = _CONFIG.merge(
    Config(
        connect_timeout=1,
        read_timeout=2,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=16,  # as many as karma.realtime closes at once
    )
)
_CONFIGS = {"dynamodb": _DYNAMODB, "s3": _S3, "apigatewaymanagementapi": _SOCKETS}

_session: botocore.session.Session | None = None
_clients: dict[tuple[str, str], Any] = {}
_reset_hooks: list[Callable[[], None]] = []


@overload
def client(service: Literal["dynamodb"], *, endpoint_url: str = "") -> DynamoDBClient: ...
@overload
def client(service: Literal["sqs"], *, endpoint_url: str = "") -> SQSClient: ...
@overload
def client(service: Literal["secretsmanager"], *, endpoint_url: str = "") -> SecretsManagerClient: ...
@overload
def client(service: Literal["iot"], *, endpoint_url: str = "") -> IoTClient: ...
@overload
def client(service: Literal["s3"], *, endpoint_url: str = "") -> S3Client: ...
@overload
def client(service: Literal["sesv2"], *, endpoint_url: str = "") -> SESV2Client: ...
@overload
def client(service: Literal["iot-data"], *, endpoint_url: str = "") -> IoTDataPlaneClient: ...
@overload
def client(service: Literal["kms"], *, endpoint_url: str = "") -> KMSClient: ...
@overload
def client(service: Literal["apigatewaymanagementapi"], *, endpoint_url: str = "") -> Any: ...
def client(service: str, *, endpoint_url: str = "") -> Any:
    """Return the process's client of a service; region and credentials come from the environment.

    `endpoint_url` is for services whose host is an account's own (IoT data); empty means the service's usual one.
    """
    key = (service, endpoint_url)
    if key not in _clients:
        _clients[key] = _own_session().create_client(
            service, config=_CONFIGS.get(service, _CONFIG), endpoint_url=endpoint_url or None
        )
    return _clients[key]


def credentials() -> ReadOnlyCredentials:
    """Return the credentials of now, for a client of ours that signs by itself (karma.integrations.pushes)."""
    found = _own_session().get_credentials()
    assert found is not None  # noqa: S101  as for any client, the environment has them
    return found.get_frozen_credentials()


def region() -> str:
    """Return the region that clients sign for."""
    return str(_own_session().get_config_variable("region"))


def _own_session() -> botocore.session.Session:
    global _session
    if _session is None:
        _session = botocore.session.Session()
    return _session


def on_reset(hook: Callable[[], None]) -> None:
    """Register a hook that drops state together with the clients (a cached secret, a bound connection)."""
    _reset_hooks.append(hook)


def reset() -> None:
    """Drop every client, socket and credential, then run the hooks that `on_reset` registered.

    Runs after a SnapStart restore, because clones must not share them, and between tests.
    """
    global _session
    for each in _clients.values():
        each.close()
    _clients.clear()
    _session = None
    for hook in _reset_hooks:
        hook()
