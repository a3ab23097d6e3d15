"""AWS IoT Jobs: one job a round and batch of a rollout, whose document is the signed manifest and a link to the bytes.

AWS makes the link when a device asks for the document, so that it is fresh (`${aws:iot:s3-presigned-url:...}`), by a
role that reads releases and nothing else. Jobs abort by themselves and are cancelled, but neither pause nor go on:
rollouts are made of them by karma.firmware. Errors are those of karma.integrations.iot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from karma.core import aws
from karma.core.faults import AWS_FAULTS, code_of
from karma.firmware.domain import JobExecution, Release
from karma.integrations.iot import device_service_errors
from karma.integrations.s3_firmware import release_key

URL_TIME_S: Final = 3_600
"""Seconds for which a link is valid: the longest that AWS signs. A device asks for the document again then."""
_ABSENT: Final = frozenset({"ResourceNotFoundException"})
_PAGE: Final = 250


class IotJobs:
    """Jobs of the account's AWS IoT."""

    def __init__(self, *, bucket: str = "", role_arn: str = "") -> None:
        """Make it; `bucket` and `role_arn`, whose bytes the links name and who signs them, are needed to start jobs."""
        self._bucket = bucket
        self._role_arn = role_arn

    def start(self, job_id: str, *, serials: Sequence[str], release: Release, timeout_minutes: int) -> bool:
        """Offer a release to devices; False: one of them does not exist. A job that exists stays as it is.

        Raises:
            DeviceServiceThrottled, DeviceServiceUnavailable: the job may or may not have been made; start it again.
        """
        client = aws.client("iot")
        things = self._things(serials)
        with device_service_errors():
            try:
                client.create_job(
                    jobId=job_id,
                    targets=things,
                    document=self.document(release),
                    targetSelection="SNAPSHOT",
                    presignedUrlConfig={"roleArn": self._role_arn, "expiresInSec": URL_TIME_S},
                    timeoutConfig={"inProgressTimeoutInMinutes": timeout_minutes},
                )
            except AWS_FAULTS as exc:
                if code_of(exc) == "ResourceAlreadyExistsException":
                    return True
                if code_of(exc) in _ABSENT:
                    return False
                raise
        return True

    def document(self, release: Release) -> str:
        """Return the document of a job, with the place for the link."""
        place = f"https://s3.{aws.region()}.amazonaws.com/{self._bucket}/{release_key(release.user_id, release.id)}"
        said: dict[str, Any] = {
            "operation": "firmware",
            "release_id": release.id,
            "version": release.release_version,
            "manifest": release.manifest,
            "signature": release.signature,
            "key_id": release.key_id,
            "url": f"${{aws:iot:s3-presigned-url:{place}}}",
        }
        return orjson.dumps(said).decode()

    def executions(self, job_id: str) -> Mapping[str, JobExecution] | None:
        """Return what became of the devices of a job, by serial number; None: there is no such job."""
        client, found = aws.client("iot"), dict[str, JobExecution]()
        more: dict[str, Any] = {}
        with device_service_errors():
            while True:
                try:
                    page = client.list_job_executions_for_job(jobId=job_id, maxResults=_PAGE, **more)
                except AWS_FAULTS as exc:
                    if code_of(exc) in _ABSENT:
                        return None
                    raise
                for each in page.get("executionSummaries", []):
                    serial = each["thingArn"].rpartition("/")[2]
                    found[serial] = JobExecution(status=each["jobExecutionSummary"]["status"])
                if not page.get("nextToken"):
                    return found
                more = {"nextToken": page["nextToken"]}

    def note(self, job_id: str, serial: str) -> str:
        """Return what a device said of its end, "code: message"; "": nothing."""
        with device_service_errors():
            try:
                told = aws.client("iot").describe_job_execution(jobId=job_id, thingName=serial)
            except AWS_FAULTS as exc:
                if code_of(exc) in _ABSENT:
                    return ""
                raise
        details = told["execution"].get("statusDetails", {}).get("detailsMap", {})
        return ": ".join(part for part in (details.get("code", ""), details.get("message", "")) if part)

    def withdraw(self, job_id: str, serial: str) -> None:
        """Take a job back from one device, also if it has begun; of an absent or ended one nothing."""
        with device_service_errors():
            try:
                aws.client("iot").cancel_job_execution(jobId=job_id, thingName=serial, force=True)
            except AWS_FAULTS as exc:
                # InvalidStateTransitionException: it has ended.
                if code_of(exc) not in {*_ABSENT, "InvalidStateTransitionException"}:
                    raise

    def cancel(self, job_id: str) -> None:
        """Take the offer back from those that have not begun; of an absent or ended job nothing."""
        with device_service_errors():
            try:
                aws.client("iot").cancel_job(jobId=job_id, reasonCode="ROLLOUT_STOPPED")
            except AWS_FAULTS as exc:
                # InvalidRequestException: it is cancelled, or all have ended.
                if code_of(exc) not in {*_ABSENT, "InvalidRequestException"}:
                    raise

    def remove(self, job_id: str) -> None:
        """Remove a job whatever its state; an absent one counts as removed."""
        with device_service_errors():
            try:
                aws.client("iot").delete_job(jobId=job_id, force=True)
            except AWS_FAULTS as exc:
                # InvalidStateTransitionException: AWS is removing it already.
                if code_of(exc) not in {*_ABSENT, "InvalidStateTransitionException"}:
                    raise

    def _things(self, serials: Sequence[str]) -> list[str]:
        # The ARN of the role has partition and account, so that nobody need be asked who we are.
        _, partition, _, _, account, _ = self._role_arn.split(":", 5)
        return [f"arn:{partition}:iot:{aws.region()}:{account}:thing/{serial}" for serial in serials]
