"""IAM actions that a function's role needs for each call of AWS, and the resources they are needed on.

Resources have the names of the variables that tell the function of them, which are those of infra/grants.py:

    table/<name>  index/<name>/<index>   from <NAME>_TABLE        queue/<name>          from <NAME>_QUEUE_URL
    secret/<name>                        from <NAME>_SECRET_ARN   bucket/files          from FILES_BUCKET
    object/files/<key>                   from FILES_BUCKET        ses/sender            from MAIL_SENDER
    thing/{thing}  cert/{cert}           of the account's IoT     ses/configuration     from MAIL_CONFIGURATION_SET
    topic/<topic>, the device as {thing}                          *                     AWS knows no resource
    key/vault                            from VAULT_KEY_ARN
    job/{job}                            of the account's IoT     role/firmware         from FIRMWARE_ROLE_ARN
    websocket/connections                of our WebSocket API, to be closed
    websocket/messages                   the same, to be sent to

In keys, ids are written as {id} and digests as {sha256}.

So a name that is not the function's own is no resource of its. Sources: "Actions, resources, and condition keys" of
each service in AWS's Service Authorization Reference; S3's multipart calls: "Multipart upload API and permissions".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from infra.catalog import FUNCTIONS, FunctionName

Params = Mapping[str, Any]
ANY = "*"
NOT_FOUND = ":404"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SHA256 = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_STATEMENT = re.compile(r'(INSERT|UPDATE)(?: INTO)? "([^"]+)" ')
_DEVICE_TOPIC = re.compile(r"(cmd|file)/karma/[^/]+/")


class Need(NamedTuple):
    """One action on one resource."""

    action: str
    resource: str


class Unmapped(LookupError):
    """The IAM actions of a call are not in `NEEDS`, or it names a resource that the function has no variable for."""


@dataclass(frozen=True)
class Told:
    """Resources that a function's variables name."""

    function: FunctionName
    environment: Mapping[str, str]

    def table(self, name: str) -> str:
        return f"table/{self._stem('_TABLE', name).lower()}"

    def index(self, params: Params) -> str:
        return self.table(params["TableName"]).replace("table/", "index/") + f"/{params['IndexName']}"

    def queue(self, params: Params) -> str:
        return f"queue/{self._stem('_QUEUE_URL', params['QueueUrl']).lower().replace('_', '-')}"

    def secret(self, params: Params) -> str:
        return f"secret/{self._stem('_SECRET_ARN', params['SecretId']).lower().replace('_', '-')}"

    def bucket(self, params: Params) -> str:
        return f"bucket/{self._stem('_BUCKET', params['Bucket']).lower()}"

    def object(self, params: Params, key: str) -> str:
        return f"object{self.bucket(params).removeprefix('bucket')}/{_SHA256.sub('{sha256}', _UUID.sub('{id}', key))}"

    def of(self, variable: str, value: str, resource: str) -> str:
        if variable not in FUNCTIONS[self.function].environment or self.environment.get(variable) != value:
            raise Unmapped(f"{self.function} is told of no resource {value!r} by the variable {variable}")
        return resource

    def _stem(self, suffix: str, value: str) -> str:
        for variable in FUNCTIONS[self.function].environment:
            if variable.endswith(suffix) and self.environment.get(variable) == value:
                return variable.removesuffix(suffix)
        raise Unmapped(f"{self.function} is told of no resource {value!r} by a variable *{suffix}")


Mapper = Callable[[Told, Params], Iterator[Need]]


def _on(action: str, resource: Callable[[Told, Params], str]) -> Mapper:
    def needs(told: Told, params: Params) -> Iterator[Need]:
        yield Need(action, resource(told, params))

    return needs


def _table(told: Told, params: Params) -> str:
    return told.table(params["TableName"])


def _query(told: Told, params: Params) -> Iterator[Need]:
    # Reading by an index asks for the index only, not for its table.
    yield Need("dynamodb:Query", told.index(params) if params.get("IndexName") else _table(told, params))


def _each_table(action: str) -> Mapper:
    def needs(told: Told, params: Params) -> Iterator[Need]:
        for name in params["RequestItems"]:
            yield Need(action, told.table(name))

    return needs


_PARTS = {"Put": "PutItem", "Update": "UpdateItem", "Delete": "DeleteItem", "ConditionCheck": "ConditionCheckItem"}


def _transaction(told: Told, params: Params) -> Iterator[Need]:
    """Yield the needs of each part of a transaction: IAM has no action TransactWriteItems."""
    for item in params["TransactItems"]:
        for kind, part in item.items():
            yield Need(f"dynamodb:{_PARTS[kind]}", told.table(part["TableName"]))


def _statements(told: Told, params: Params) -> Iterator[Need]:
    """Yield what each PartiQL statement asks for."""
    for each in params.get("Statements", (params,)):
        found = _STATEMENT.match(each["Statement"])
        if found is None:
            raise Unmapped(f"say what IAM asks for at {each['Statement'][:30]!r}")
        yield Need(f"dynamodb:PartiQL{found[1].capitalize()}", told.table(found[2]))


def _object(told: Told, params: Params) -> str:
    return told.object(params, params["Key"])


def _versioned(action: str) -> Mapper:
    def needs(told: Told, params: Params) -> Iterator[Need]:
        yield Need(f"{action}Version" if params.get("VersionId") else action, _object(told, params))

    return needs


def _delete_objects(told: Told, params: Params) -> Iterator[Need]:
    """Yield the right to delete, and that over versions for each object that is named by one (S3's reference)."""
    for each in params["Delete"]["Objects"]:
        resource = told.object(params, each["Key"])
        yield Need("s3:DeleteObject", resource)
        if each.get("VersionId"):
            yield Need("s3:DeleteObjectVersion", resource)


def _send_email(told: Told, params: Params) -> Iterator[Need]:
    yield Need("ses:SendEmail", told.of("MAIL_SENDER", params["FromEmailAddress"], "ses/sender"))
    if rules := params.get("ConfigurationSetName"):
        yield Need("ses:SendEmail", told.of("MAIL_CONFIGURATION_SET", rules, "ses/configuration"))


def _topic(_: Told, params: Params) -> str:
    topic = _DEVICE_TOPIC.sub(lambda found: f"{found[1]}/karma/{{thing}}/", params["topic"])
    return f"topic/{topic}"


def _fixed(resource: str) -> Callable[[Told, Params], str]:
    return lambda _told, _params: resource


_THING, _CERT, _JOB, _NONE = _fixed("thing/{thing}"), _fixed("cert/{cert}"), _fixed("job/{job}"), _fixed(ANY)
_SOCKETS, _MESSAGES = _fixed("websocket/connections"), _fixed("websocket/messages")


def _key(told: Told, params: Params) -> str:
    return told.of("VAULT_KEY_ARN", params["KeyId"], "key/vault")


def _policy_target(_: Told, params: Params) -> str:
    if ":cert/" not in params["target"]:
        raise Unmapped(f"a policy of IoT is attached to {params['target']!r}, which is no certificate")
    return "cert/{cert}"


def _create_job(told: Told, params: Params) -> Iterator[Need]:
    yield Need("iot:CreateJob", "job/{job}")
    for _ in params["targets"]:
        yield Need("iot:CreateJob", "thing/{thing}")
    if signer := params.get("presignedUrlConfig", {}).get("roleArn"):
        yield Need("iam:PassRole", told.of("FIRMWARE_ROLE_ARN", signer, "role/firmware"))


def _of_job_and_thing(action: str) -> Mapper:
    def needs(_: Told, __: Params) -> Iterator[Need]:
        yield Need(action, "job/{job}")
        yield Need(action, "thing/{thing}")

    return needs


NEEDS: Mapping[tuple[str, str], Mapper] = {
    **{
        ("dynamodb", name): _on(f"dynamodb:{name}", _table)
        for name in ("GetItem", "PutItem", "UpdateItem", "DeleteItem", "Scan", "DescribeTable")
    },
    ("dynamodb", "Query"): _query,
    ("dynamodb", "BatchGetItem"): _each_table("dynamodb:BatchGetItem"),
    ("dynamodb", "BatchWriteItem"): _each_table("dynamodb:BatchWriteItem"),
    ("dynamodb", "TransactWriteItems"): _transaction,
    ("dynamodb", "ExecuteStatement"): _statements,
    ("dynamodb", "BatchExecuteStatement"): _statements,
    ("sqs", "SendMessage"): _on("sqs:SendMessage", Told.queue),
    ("sqs", "SendMessageBatch"): _on("sqs:SendMessage", Told.queue),
    ("sqs", "GetQueueAttributes"): _on("sqs:GetQueueAttributes", Told.queue),
    ("kms", "Encrypt"): _on("kms:Encrypt", _key),
    ("kms", "Decrypt"): _on("kms:Decrypt", _key),
    ("secretsmanager", "GetSecretValue"): _on("secretsmanager:GetSecretValue", Told.secret),
    ("s3", "HeadBucket"): _on("s3:ListBucket", Told.bucket),
    ("s3", "ListObjectVersions"): _on("s3:ListBucketVersions", Told.bucket),
    ("s3", "ListMultipartUploads"): _on("s3:ListBucketMultipartUploads", Told.bucket),
    ("s3", "GetObject"): _versioned("s3:GetObject"),
    ("s3", "HeadObject"): _versioned("s3:GetObject"),
    # Whoever may not list a bucket is told that a missing object is forbidden.
    ("s3", "GetObject:404"): _on("s3:ListBucket", Told.bucket),
    ("s3", "HeadObject:404"): _on("s3:ListBucket", Told.bucket),
    ("s3", "PutObject"): _on("s3:PutObject", _object),
    ("s3", "DeleteObject"): _versioned("s3:DeleteObject"),
    ("s3", "DeleteObjects"): _delete_objects,
    ("s3", "CreateMultipartUpload"): _on("s3:PutObject", _object),
    ("s3", "UploadPart"): _on("s3:PutObject", _object),
    ("s3", "CompleteMultipartUpload"): _on("s3:PutObject", _object),
    ("s3", "ListParts"): _on("s3:ListMultipartUploadParts", _object),
    ("s3", "AbortMultipartUpload"): _on("s3:AbortMultipartUpload", _object),
    ("sesv2", "SendEmail"): _send_email,
    ("iot", "CreateThing"): _on("iot:CreateThing", _THING),
    ("iot", "UpdateThing"): _on("iot:UpdateThing", _THING),
    ("iot", "DeleteThing"): _on("iot:DeleteThing", _THING),
    ("iot", "DescribeThing"): _on("iot:DescribeThing", _THING),
    ("iot", "ListThingPrincipals"): _on("iot:ListThingPrincipals", _THING),
    ("iot", "AttachThingPrincipal"): _on("iot:AttachThingPrincipal", _CERT),
    ("iot", "DetachThingPrincipal"): _on("iot:DetachThingPrincipal", _CERT),
    ("iot", "ListPrincipalThings"): _on("iot:ListPrincipalThings", _CERT),
    ("iot", "UpdateCertificate"): _on("iot:UpdateCertificate", _CERT),
    ("iot", "DeleteCertificate"): _on("iot:DeleteCertificate", _CERT),
    ("iot", "AttachPolicy"): _on("iot:AttachPolicy", _policy_target),
    ("iot", "DetachPolicy"): _on("iot:DetachPolicy", _policy_target),
    ("iot", "CreateKeysAndCertificate"): _on("iot:CreateKeysAndCertificate", _NONE),
    ("iot", "CreateCertificateFromCsr"): _on("iot:CreateCertificateFromCsr", _NONE),
    ("iot", "ListCertificates"): _on("iot:ListCertificates", _NONE),
    ("iot", "DescribeEndpoint"): _on("iot:DescribeEndpoint", _NONE),
    ("iot", "CreateJob"): _create_job,
    ("iot", "CancelJob"): _on("iot:CancelJob", _JOB),
    ("iot", "DeleteJob"): _on("iot:DeleteJob", _JOB),
    ("iot", "ListJobExecutionsForJob"): _on("iot:ListJobExecutionsForJob", _JOB),
    ("iot", "CancelJobExecution"): _of_job_and_thing("iot:CancelJobExecution"),
    ("iot", "DescribeJobExecution"): _of_job_and_thing("iot:DescribeJobExecution"),
    ("iot-data", "GetThingShadow"): _on("iot:GetThingShadow", _THING),
    ("iot-data", "UpdateThingShadow"): _on("iot:UpdateThingShadow", _THING),
    ("iot-data", "DeleteThingShadow"): _on("iot:DeleteThingShadow", _THING),
    ("iot-data", "Publish"): _on("iot:Publish", _topic),
    ("apigatewaymanagementapi", "DeleteConnection"): _on("execute-api:ManageConnections", _SOCKETS),
    ("apigatewaymanagementapi", "PostToConnection"): _on("execute-api:ManageConnections", _MESSAGES),
}
"""By botocore's names of service and operation; with `:404` what is asked besides when nothing is found."""


def needs_of(told: Told, service: str, operation: str, params: Params) -> list[Need]:
    """Return the IAM actions and resources that a call needs.

    Raises:
        LookupError: a parameter that names a resource is missing.
        Unmapped: the call is not in `NEEDS`, or names a resource that is not the function's.
    """
    mapper = NEEDS.get((service, operation))
    if mapper is None and operation.endswith(NOT_FOUND):
        return []
    if mapper is None:
        raise Unmapped(f"say in {__name__} what IAM asks for at {service}.{operation}")
    return list(mapper(told, params))
