"""The bucket of device files: private, versioned, TLS only, with lifecycle rules."""

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.config import StageSettings
from infra.constructs.waivers import waive

ARCHIVE_DAYS = (365, 730, 1_825)
"""Days for which plans keep archives of raw telemetry (karma.billing.plans.all_archived_days; a test compares)."""


class FileBucket(Construct):
    """Device files and telemetry archives; browsers upload parts by presigned URL."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: StageSettings) -> None:
        super().__init__(scope, construct_id)
        removal = RemovalPolicy.RETAIN if settings.retain_data else RemovalPolicy.DESTROY
        log_bucket: s3.Bucket | None = None
        if settings.access_logs:
            log_bucket = s3.Bucket(
                self,
                "AccessLogs",
                encryption=s3.BucketEncryption.S3_MANAGED,
                block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
                object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
                enforce_ssl=settings.tls_only,
                versioned=True,
                lifecycle_rules=[
                    s3.LifecycleRule(expiration=Duration.days(90), noncurrent_version_expiration=Duration.days(7))
                ],
                removal_policy=removal,
            )
            waive(
                log_bucket, "AwsSolutions-S1", "it is the bucket that receives access logs; logging it would never end"
            )
        self.bucket = s3.Bucket(
            self,
            "Files",
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            enforce_ssl=settings.tls_only,
            versioned=True,
            server_access_logs_bucket=log_bucket,
            server_access_logs_prefix="files/" if log_bucket else None,
            lifecycle_rules=[
                s3.LifecycleRule(
                    abort_incomplete_multipart_upload_after=Duration.days(2),
                    noncurrent_version_expiration=Duration.days(30),
                ),
                s3.LifecycleRule(
                    # Exported threads and telemetry: their links end after an hour.
                    prefix="exports/",
                    expiration=Duration.days(1),
                    noncurrent_version_expiration=Duration.days(1),
                ),
                *_archives(),
            ],
            cors=[
                s3.CorsRule(
                    allowed_methods=[s3.HttpMethods.GET, s3.HttpMethods.HEAD, s3.HttpMethods.PUT],
                    allowed_origins=[*settings.cors_origins, *settings.loopback_origins],
                    allowed_headers=["content-type", "content-md5", "x-amz-*"],
                    exposed_headers=["etag", "x-amz-checksum-sha256"],
                    max_age=600,
                )
            ],
            removal_policy=removal,
        )


def _archives() -> list[s3.LifecycleRule]:
    """Return the ends of raw telemetry of days, each of which is put a month behind its day."""
    return [
        s3.LifecycleRule(
            prefix=f"archives/{days}/",
            expiration=Duration.days(days),
            noncurrent_version_expiration=Duration.days(30),
        )
        for days in ARCHIVE_DAYS
    ]
