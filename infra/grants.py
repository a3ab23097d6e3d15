"""Permissions of the functions: the only table from which their roles are built.

To let a function do more, add the action to its line here and to `tests/infra/golden/grants.json` (the test that
compares them says how). An action stays only while a test of the integration ring is seen to use it
(`tests/infra/test_recorded_calls.py`, docs/adr/0018). No function gets `Scan`, and `*` appears only in the resources of
`WILDCARDS`, each with its reason. One file of more than 450 lines: it is one table, which is read as a whole.

Resources are written as `kind/name`:

    table/<name>            the table                index/<name>         its index gsi1
    stream/<name>           its DynamoDB stream      queue/<name>         an SQS queue of ours
    bucket/<name>           a bucket                 objects/<name>       see `OBJECT_PREFIXES`
    secret/<name>           a Secrets Manager secret iot/<what>           see `IOT_RESOURCES`
    key/vault               the KMS key of secrets that users give us
    websocket/connections   connections of our WebSocket API, to be closed
    websocket/messages      the same, to be sent to
    ses/sender              the domain of our mail   ses/configuration    the set of rules it is sent under
    role/firmware           the role by which AWS IoT signs links to releases
    any/<what>              actions that AWS offers no resource for
"""

from dataclasses import dataclass

from infra.catalog import FunctionName

GET = "dynamodb:GetItem"
BATCH_GET = "dynamodb:BatchGetItem"
QUERY = "dynamodb:Query"
PUT = "dynamodb:PutItem"
UPDATE = "dynamodb:UpdateItem"
DELETE = "dynamodb:DeleteItem"
BATCH_WRITE = "dynamodb:BatchWriteItem"
"""Cannot be restricted by conditions: only for the function that deletes whole partitions of deleted objects."""
PARTIQL_INSERT = "dynamodb:PartiQLInsert"
PARTIQL_UPDATE = "dynamodb:PartiQLUpdate"
"""Statements, by which a call makes several conditional writes that have nothing to do with each other."""
CHECK = "dynamodb:ConditionCheckItem"
"""A condition check inside a transaction; IAM names its writes by the actions above."""

CONSUME = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")
"""Actions with which Lambda polls a queue, the same as in AWSLambdaSQSQueueExecutionRole."""
SEND = ("sqs:SendMessage",)
READ_STREAM = ("dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator")
SECRET = ("secretsmanager:GetSecretValue",)
SEE = ("s3:ListBucket",)
"""Without it a missing object is answered 403, not 404; HeadBucket needs it, too."""
REMOVE_LISTED = ("s3:ListBucketVersions", "s3:ListBucketMultipartUploads")
"""Actions that list the objects to remove."""
REMOVE = ("s3:DeleteObject", "s3:DeleteObjectVersion", "s3:AbortMultipartUpload")
"""Objects are removed by version, since S3 would otherwise only hide them; DeleteObjects needs both actions."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Actions that a function may call on one resource."""

    resource: str
    actions: tuple[str, ...]


GRANTS: dict[FunctionName, tuple[Grant, ...]] = {
    FunctionName.API: (
        Grant("table/identity", (GET, BATCH_GET, QUERY, PUT, UPDATE, DELETE, CHECK)),
        Grant("index/identity", (QUERY,)),
        Grant("table/devices", (GET, BATCH_GET, QUERY, PUT, UPDATE, DELETE, CHECK)),
        Grant("index/devices", (QUERY,)),
        Grant("table/telemetry", (GET, QUERY, PUT, UPDATE)),
        Grant("table/work", (GET, BATCH_GET, QUERY, PUT, UPDATE, DELETE, CHECK)),
        Grant("index/work", (QUERY,)),
        Grant("table/agents", (GET, BATCH_GET, QUERY, PUT, UPDATE, DELETE, CHECK)),
        Grant("index/agents", (QUERY,)),
        Grant("table/billing", (GET, BATCH_GET, QUERY, PUT, UPDATE, DELETE, CHECK)),
        Grant("index/billing", (QUERY,)),
        Grant("table/realtime", (GET, BATCH_GET, QUERY, PUT, UPDATE, DELETE, CHECK)),
        Grant("table/search", (GET, BATCH_GET, QUERY)),
        Grant("queue/segments", SEND),
        Grant("objects/segments", ("s3:GetObject",)),
        Grant("websocket/connections", ("execute-api:ManageConnections",)),
        Grant("queue/inbox", (*SEND, "sqs:GetQueueAttributes")),
        Grant("queue/deletions", SEND),
        Grant("queue/webhooks", SEND),
        Grant("queue/files", SEND),
        Grant("queue/ingest", SEND),
        Grant("queue/runs", SEND),
        Grant("queue/executions", SEND),
        Grant("queue/telemetry", SEND),
        Grant("bucket/files", (*SEE, *REMOVE_LISTED)),
        Grant("objects/files", (*REMOVE, "s3:GetObject", "s3:PutObject", "s3:ListMultipartUploadParts")),
        Grant("objects/attachments", ("s3:GetObject", "s3:PutObject")),
        Grant("objects/exports", ("s3:GetObject", "s3:PutObject")),
        Grant("objects/firmware", ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion")),
        Grant("iot/jobs", ("iot:CancelJob",)),
        Grant("objects/archives", ("s3:GetObject",)),
        Grant("queue/mail", SEND),
        Grant("key/vault", ("kms:Encrypt", "kms:Decrypt")),
        Grant("secret/auth", SECRET),
        Grant("secret/oauth", SECRET),
        Grant("secret/origin", SECRET),
        Grant(
            "iot/things",
            (
                "iot:CreateThing",
                "iot:UpdateThing",
                "iot:DeleteThing",
                "iot:ListThingPrincipals",
                # Shadows are named by their things.
                "iot:GetThingShadow",
                "iot:UpdateThingShadow",
                "iot:DeleteThingShadow",
            ),
        ),
        Grant(
            "iot/certificates",
            ("iot:AttachPolicy", "iot:DetachPolicy", "iot:UpdateCertificate", "iot:DeleteCertificate"),
        ),
        Grant(
            "any/iot-attachments", ("iot:AttachThingPrincipal", "iot:DetachThingPrincipal", "iot:ListPrincipalThings")
        ),
        Grant("iot/requests", ("iot:Publish",)),
        Grant(
            "any/iot-account", ("iot:CreateKeysAndCertificate", "iot:CreateCertificateFromCsr", "iot:DescribeEndpoint")
        ),
    ),
    FunctionName.AGENT_STREAM: (
        Grant("table/identity", (GET, BATCH_GET, UPDATE, CHECK)),
        Grant("table/devices", (GET, BATCH_GET, QUERY, PUT, UPDATE, DELETE, CHECK)),
        Grant("table/agents", (GET, BATCH_GET, QUERY, PUT, UPDATE, DELETE, CHECK)),
        Grant("table/billing", (GET, BATCH_GET, QUERY, UPDATE, CHECK)),
        Grant("table/search", (GET, BATCH_GET, QUERY)),
        Grant("queue/segments", SEND),
        Grant("objects/segments", ("s3:GetObject",)),
        Grant("table/realtime", (GET, BATCH_GET, QUERY, PUT, UPDATE, DELETE, CHECK)),
        Grant("table/work", (GET, BATCH_GET, QUERY)),
        Grant("index/work", (QUERY,)),
        Grant("queue/runs", SEND),
        Grant("queue/executions", SEND),
        Grant("queue/short-work", SEND),
        Grant("queue/ingest", SEND),
        Grant("bucket/files", SEE),
        Grant("objects/files", ("s3:GetObject", "s3:ListMultipartUploadParts")),
        Grant("objects/attachments", ("s3:GetObject", "s3:PutObject")),
        Grant("key/vault", ("kms:Decrypt",)),
        Grant("secret/auth", SECRET),
        Grant("secret/model", SECRET),
        Grant("secret/origin", SECRET),
        Grant("iot/requests", ("iot:Publish",)),
        Grant("any/iot-account", ("iot:DescribeEndpoint",)),
    ),
    FunctionName.EXECUTION: (
        Grant("queue/executions", (*CONSUME, *SEND)),
        Grant("queue/free-runs", (*CONSUME, *SEND)),
        Grant("queue/short-work", (*CONSUME, *SEND)),
        Grant("queue/runs", SEND),
        Grant("table/identity", (GET, CHECK)),
        Grant("table/devices", (GET, BATCH_GET, QUERY, PUT, UPDATE, DELETE, CHECK)),
        Grant("table/agents", (GET, BATCH_GET, QUERY, PUT, UPDATE, DELETE, CHECK)),
        Grant("table/billing", (BATCH_GET, QUERY, UPDATE)),
        Grant("table/search", (GET, BATCH_GET, QUERY)),
        Grant("table/work", (BATCH_GET, QUERY)),
        Grant("index/work", (QUERY,)),
        Grant("queue/segments", SEND),
        Grant("objects/segments", ("s3:GetObject",)),
        Grant("queue/ingest", SEND),
        Grant("bucket/files", SEE),
        Grant("objects/files", ("s3:GetObject", "s3:ListMultipartUploadParts")),
        Grant("objects/attachments", ("s3:GetObject", "s3:PutObject")),
        Grant("key/vault", ("kms:Decrypt",)),
        Grant("secret/model", SECRET),
        Grant("iot/requests", ("iot:Publish",)),
        Grant("any/iot-account", ("iot:DescribeEndpoint",)),
    ),
    FunctionName.DEVICE_INGEST: (
        Grant("queue/ingest", (*CONSUME, *SEND)),
        Grant("table/devices", (GET, QUERY, PUT, UPDATE, DELETE, CHECK, PARTIQL_UPDATE)),
        Grant("table/telemetry", (QUERY, PUT, PARTIQL_INSERT)),
        Grant("table/work", (BATCH_GET,)),
        Grant("index/work", (QUERY,)),
        Grant("iot/requests", ("iot:Publish",)),
        Grant("any/iot-account", ("iot:DescribeEndpoint",)),
    ),
    FunctionName.DEVICE_FILES: (
        Grant("queue/asks", CONSUME),
        Grant("table/identity", (GET,)),
        Grant("table/devices", (GET, BATCH_GET, QUERY, PUT, UPDATE, CHECK)),
        Grant("index/devices", (QUERY,)),
        Grant("table/billing", (QUERY, UPDATE)),
        Grant("queue/files", SEND),
        Grant("bucket/files", SEE),
        Grant(
            "objects/files",
            ("s3:GetObject", "s3:PutObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"),
        ),
        Grant("iot/file-answers", ("iot:Publish",)),
        Grant("any/iot-account", ("iot:DescribeEndpoint",)),
    ),
    FunctionName.PROVISIONING: (
        Grant("table/identity", (CHECK,)),
        Grant("table/devices", (GET, BATCH_GET, PUT, UPDATE, CHECK)),
        Grant("table/billing", (QUERY, UPDATE)),
    ),
    FunctionName.BILLING_WEBHOOK: (
        Grant("table/billing", (PUT,)),
        Grant("queue/inbox", SEND),
        Grant("secret/stripe-webhook", SECRET),
    ),
    FunctionName.REALTIME: (
        Grant("table/identity", (CHECK,)),
        Grant("table/realtime", (GET, QUERY, PUT, UPDATE, DELETE, CHECK)),
        Grant("table/devices", (QUERY,)),
        Grant("table/work", (GET, BATCH_GET)),
        Grant("index/work", (QUERY,)),
        Grant("table/agents", (GET, QUERY)),
    ),
    FunctionName.INBOX: (
        Grant("queue/inbox", CONSUME),
        Grant("table/identity", (PUT, CHECK)),
        Grant("table/billing", (GET, QUERY, PUT, UPDATE, DELETE, CHECK)),
        Grant("index/billing", (QUERY,)),
        Grant("secret/stripe-api", SECRET),
    ),
    FunctionName.RUNS: (
        Grant("queue/runs", (*CONSUME, *SEND)),
        Grant("queue/executions", SEND),
        Grant("table/agents", (GET, BATCH_GET, QUERY, PUT, UPDATE)),
        Grant("table/billing", (UPDATE,)),
    ),
    FunctionName.FILES: (
        Grant("queue/files", (*CONSUME, *SEND)),
        Grant("table/devices", (GET, BATCH_GET, QUERY, PUT, UPDATE, DELETE, CHECK)),
        Grant("table/billing", (UPDATE,)),
        Grant("bucket/files", (*SEE, *REMOVE_LISTED)),
        Grant("objects/files", (*REMOVE, "s3:GetObject")),
    ),
    FunctionName.PREVIEWS: (
        Grant("queue/previews", CONSUME),
        Grant("table/devices", (GET, UPDATE)),
        Grant("bucket/files", (*SEE, *REMOVE_LISTED)),
        Grant("objects/files", ("s3:GetObject",)),
        Grant("objects/previews", ("s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion")),
    ),
    FunctionName.SEGMENTS: (
        Grant("queue/segments", CONSUME),
        Grant("table/search", (GET, QUERY, UPDATE)),
        Grant("bucket/files", REMOVE_LISTED),
        Grant("objects/segments", ("s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion")),
    ),
    FunctionName.DELETION: (
        Grant("queue/deletions", (*CONSUME, *SEND)),
        Grant("queue/executions", SEND),
        Grant("table/identity", (GET, QUERY, UPDATE, BATCH_WRITE)),
        Grant("index/identity", (QUERY,)),
        Grant("table/devices", (QUERY, PUT, UPDATE, DELETE, BATCH_WRITE)),
        Grant("index/devices", (QUERY,)),
        Grant("table/telemetry", (QUERY, UPDATE, DELETE, BATCH_WRITE)),
        Grant("bucket/files", REMOVE_LISTED),
        Grant("objects/files", REMOVE),
        Grant("objects/archives", ("s3:DeleteObject", "s3:DeleteObjectVersion")),
        Grant("objects/attachments", ("s3:DeleteObject", "s3:DeleteObjectVersion")),
        Grant("objects/firmware", ("s3:DeleteObject", "s3:DeleteObjectVersion")),
        Grant("objects/exports", REMOVE),
        Grant("objects/segments", ("s3:DeleteObject", "s3:DeleteObjectVersion")),
        Grant("iot/jobs", ("iot:DeleteJob",)),
        Grant("table/work", (GET, QUERY, UPDATE, DELETE, CHECK, BATCH_WRITE)),
        Grant("index/work", (QUERY,)),
        Grant("table/agents", (GET, QUERY, PUT, UPDATE, DELETE, CHECK, BATCH_WRITE)),
        Grant("index/agents", (QUERY,)),
        Grant("table/billing", (GET, BATCH_GET, QUERY, UPDATE, DELETE, BATCH_WRITE)),
        Grant("table/realtime", (QUERY, BATCH_WRITE)),
        Grant("index/realtime", (QUERY,)),
        Grant("table/search", (QUERY, BATCH_WRITE)),
        Grant("secret/stripe-api", SECRET),
        Grant("iot/things", ("iot:DeleteThing", "iot:DeleteThingShadow", "iot:ListThingPrincipals")),
        Grant("any/iot-account", ("iot:DescribeEndpoint",)),
        Grant("iot/certificates", ("iot:DetachPolicy", "iot:UpdateCertificate", "iot:DeleteCertificate")),
        Grant("any/iot-attachments", ("iot:DetachThingPrincipal", "iot:ListPrincipalThings")),
    ),
    FunctionName.ROUTER: (
        Grant("stream/devices", READ_STREAM),
        Grant("any/streams", ("dynamodb:ListStreams",)),
        Grant("queue/router-failures", SEND),
        Grant("table/identity", (PUT, CHECK)),
        Grant("table/devices", (GET, QUERY, UPDATE)),
        Grant("table/realtime", (GET, QUERY, PUT, UPDATE, CHECK)),
        Grant("table/search", (UPDATE,)),
        Grant("queue/pushes", SEND),
        Grant("queue/webhooks", SEND),
        Grant("queue/mail", SEND),
        Grant("queue/previews", SEND),
        Grant("queue/fires", SEND),
    ),
    FunctionName.WORK_ROUTER: (
        Grant("stream/work", READ_STREAM),
        Grant("any/streams", ("dynamodb:ListStreams",)),
        Grant("queue/work-router-failures", SEND),
        Grant("table/identity", (CHECK,)),
        Grant("table/work", (BATCH_GET, QUERY)),
        Grant("index/work", (QUERY,)),
        Grant("table/search", (UPDATE,)),
        Grant("table/realtime", (GET, BATCH_GET, QUERY, UPDATE, DELETE)),
        Grant("queue/pushes", SEND),
    ),
    FunctionName.IDENTITY_ROUTER: (
        Grant("stream/identity", READ_STREAM),
        Grant("any/streams", ("dynamodb:ListStreams",)),
        Grant("queue/identity-router-failures", SEND),
        Grant("table/identity", (GET, CHECK)),
        Grant("table/realtime", (GET, BATCH_GET, QUERY, UPDATE, DELETE)),
        Grant("websocket/connections", ("execute-api:ManageConnections",)),
        Grant("queue/pushes", SEND),
    ),
    FunctionName.PUSHES: (
        Grant("queue/pushes", CONSUME),
        Grant("table/realtime", (GET, BATCH_GET, QUERY, UPDATE, DELETE)),
        Grant("websocket/messages", ("execute-api:ManageConnections",)),
    ),
    FunctionName.METRICS: (
        Grant("stream/agents", READ_STREAM),
        Grant("any/streams", ("dynamodb:ListStreams",)),
        Grant("queue/metrics-failures", SEND),
        Grant("table/identity", (CHECK,)),
        Grant("table/agents", (BATCH_GET, PUT, UPDATE)),
    ),
    FunctionName.SAMPLES: (
        Grant("stream/telemetry", ("dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator")),
        Grant("any/streams", ("dynamodb:ListStreams",)),
        Grant("queue/samples-failures", SEND),
        Grant("table/telemetry", (UPDATE,)),
    ),
    FunctionName.EVENTS: (
        Grant("stream/agents", READ_STREAM),
        Grant("any/streams", ("dynamodb:ListStreams",)),
        Grant("queue/events-failures", SEND),
        Grant("table/identity", (CHECK,)),
        Grant("table/realtime", (GET, QUERY, PUT, UPDATE, CHECK)),
        Grant("table/search", (UPDATE,)),
        Grant("queue/webhooks", SEND),
        Grant("queue/pushes", SEND),
    ),
    FunctionName.WEBHOOKS: (
        Grant("queue/webhooks", (*CONSUME, *SEND)),
        Grant("table/identity", (GET, PUT)),
        Grant("table/realtime", (GET, BATCH_GET, QUERY, PUT, UPDATE, DELETE)),
        Grant("key/vault", ("kms:Decrypt",)),
    ),
    FunctionName.MAIL: (
        Grant("queue/mail", CONSUME),
        Grant("table/identity", (GET, PUT, UPDATE, DELETE, CHECK)),
        Grant("ses/sender", ("ses:SendEmail",)),
        Grant("ses/configuration", ("ses:SendEmail",)),
    ),
    FunctionName.SCHEDULES: (
        Grant("queue/fires", (*CONSUME, *SEND)),
        Grant("queue/runs", SEND),
        Grant("queue/executions", SEND),
        Grant("queue/ingest", SEND),
        Grant("table/identity", (GET, PUT, CHECK)),
        Grant("table/devices", (GET, BATCH_GET, QUERY, PUT, UPDATE)),
        Grant("table/agents", (GET, BATCH_GET, QUERY, PUT, UPDATE)),
        Grant("table/billing", (GET, BATCH_GET, UPDATE)),
        Grant("bucket/files", SEE),
        Grant("objects/files", ("s3:GetObject",)),
        Grant("objects/attachments", ("s3:GetObject", "s3:PutObject")),
        Grant("key/vault", ("kms:Decrypt",)),
        Grant("table/work", (BATCH_GET,)),
        Grant("index/work", (QUERY,)),
    ),
    FunctionName.TELEMETRY: (
        Grant("queue/telemetry", (*CONSUME, *SEND)),
        Grant("table/telemetry", (GET, QUERY, PUT, UPDATE, DELETE, CHECK)),
        Grant("table/devices", (GET,)),
        Grant("table/billing", (GET,)),
        Grant("bucket/files", (*SEE, *REMOVE_LISTED)),
        Grant("objects/exports", ("s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload")),
        Grant("objects/archives", ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion")),
        Grant("table/work", (BATCH_GET,)),
        Grant("index/work", (QUERY,)),
    ),
    FunctionName.QUEUE_SWEEPS: (
        Grant("table/identity", (UPDATE,)),
        Grant("index/identity", (QUERY,)),
        Grant("table/billing", (UPDATE,)),
        Grant("index/billing", (QUERY,)),
        Grant("table/devices", (GET, QUERY, PUT, UPDATE, DELETE)),
        Grant("index/devices", (QUERY,)),
        Grant("table/agents", (UPDATE,)),
        Grant("index/agents", (QUERY,)),
        Grant("table/realtime", (UPDATE,)),
        Grant("index/realtime", (QUERY,)),
        Grant("table/telemetry", (UPDATE,)),
        Grant("index/telemetry", (QUERY,)),
        Grant("queue/inbox", SEND),
        Grant("queue/mail", SEND),
        Grant("queue/webhooks", SEND),
        Grant("queue/deletions", SEND),
        Grant("queue/ingest", SEND),
        Grant("queue/short-work", SEND),
        Grant("queue/fires", SEND),
        Grant("queue/telemetry", SEND),
    ),
    FunctionName.TABLE_SWEEPS: (
        Grant("table/work", (BATCH_GET, QUERY, UPDATE, DELETE, CHECK)),
        Grant("index/work", (QUERY,)),
        Grant("table/agents", (GET, QUERY, PUT, UPDATE)),
        Grant("index/agents", (QUERY,)),
        Grant("table/billing", (BATCH_GET, UPDATE, DELETE)),
    ),
    FunctionName.FILE_SWEEP: (
        Grant("table/devices", (UPDATE, DELETE)),
        Grant("index/devices", (QUERY,)),
        Grant("table/billing", (UPDATE,)),
        Grant("queue/files", SEND),
        Grant("bucket/files", REMOVE_LISTED),
        Grant("objects/files", REMOVE),
    ),
    FunctionName.DEVICE_SWEEP: (
        Grant("table/devices", (GET, QUERY, PUT, UPDATE, DELETE)),
        Grant("index/devices", (QUERY,)),
        Grant("table/telemetry", (QUERY, UPDATE, DELETE)),
        Grant("table/billing", (UPDATE,)),
        Grant("table/work", (UPDATE, DELETE, CHECK)),
        Grant("index/work", (QUERY,)),
        Grant("bucket/files", REMOVE_LISTED),
        Grant("objects/files", REMOVE),
        Grant("objects/archives", ("s3:DeleteObject", "s3:DeleteObjectVersion")),
        Grant(
            "iot/things", ("iot:DescribeThing", "iot:DeleteThing", "iot:DeleteThingShadow", "iot:ListThingPrincipals")
        ),
        Grant("any/iot-account", ("iot:DescribeEndpoint",)),
        Grant("iot/certificates", ("iot:DetachPolicy", "iot:UpdateCertificate", "iot:DeleteCertificate")),
        Grant("any/iot-attachments", ("iot:DetachThingPrincipal", "iot:ListCertificates", "iot:ListPrincipalThings")),
    ),
    FunctionName.FIRMWARE_SWEEP: (
        Grant("table/devices", (GET, BATCH_GET, QUERY, PUT, UPDATE, DELETE)),
        Grant("index/devices", (QUERY,)),
        Grant(
            "iot/jobs",
            (
                "iot:CreateJob",
                "iot:CancelJob",
                "iot:CancelJobExecution",
                "iot:DescribeJobExecution",
                "iot:ListJobExecutionsForJob",
            ),
        ),
        # These name the things, too.
        Grant("iot/things", ("iot:CreateJob", "iot:CancelJobExecution", "iot:DescribeJobExecution")),
        Grant("role/firmware", ("iam:PassRole",)),
    ),
}

WEBSOCKETS_ONLY = frozenset({"websocket/connections", "websocket/messages"})
"""Resources that exist only in stages with a WebSocket API."""
EDGE_ONLY = frozenset({"secret/origin"})
"""Resources that exist only in stages with CloudFront; their grants are left out elsewhere."""

IOT_RESOURCES: dict[str, tuple[str, ...]] = {
    "iot/things": ("thing/*",),
    "iot/certificates": ("cert/*",),
    "iot/jobs": ("job/*",),
    "iot/requests": ("topic/cmd/karma/*/request",),
    "iot/file-answers": ("topic/file/karma/*/answer",),
}
"""ARN tails of the IoT resources."""

OBJECT_PREFIXES: dict[str, str] = {
    "objects/files": "devices/*",
    "objects/previews": "devices/*/*/previews/*",
    "objects/attachments": "attachments/*",
    "objects/exports": "exports/*",
    "objects/firmware": "firmware/*",
    "objects/segments": "segments/*",
    "objects/archives": "archives/*",
}
"""Key prefixes in the bucket of files."""

WILDCARDS: dict[str, str] = {
    "objects/files": "objects are made at run time, one a file; the pattern holds device files and nothing else",
    "objects/previews": "as objects/files; the pattern holds what is made of device files, and none of these",
    "objects/attachments": "as objects/files; the pattern holds what conversations refer to and nothing else",
    "objects/exports": "as objects/files; the pattern holds what was exported and nothing else",
    "objects/firmware": "as objects/files; the pattern holds releases of firmware and nothing else",
    "objects/segments": "as objects/files; the pattern holds indexes of search and nothing else",
    "objects/archives": "as objects/files; the pattern holds archived telemetry and nothing else",
    "websocket/connections": "connection ids are minted by API Gateway; the pattern closes connections of our API only",
    "websocket/messages": "as websocket/connections; the pattern sends to connections of our API only",
    "iot/things": "things are created at run time, one a device; their names are the devices' serials",
    "iot/jobs": "jobs are made at run time, one a round and batch of a rollout; their ids derive from the rollout's",
    "iot/certificates": "certificate ids are minted by AWS IoT at run time",
    "any/iot-attachments": "AWS IoT defines no resource type for ties between things and certificates, nor for lists",
    "iot/file-answers": "one answer topic a device; the pattern holds answers about their own files alone",
    "iot/requests": "one request topic a device; the pattern holds command requests and nothing else",
    "any/iot-account": "AWS IoT defines no resource type for making certificates and for describing the endpoint",
    "any/streams": "dynamodb:ListStreams knows no resource",
    "any/tracing": "X-Ray's write actions know no resource",
    "own/logs": "log streams of the function's own log group are named by Lambda",
}
"""The only places where `*` may stand in a policy, with the reason."""
