"""AWS IoT Core: things, certificates, and publishing. A thing is named as its device's serial number.

Errors of AWS become:
Upstream
├─ DeviceServiceThrottled 503     asked to slow down
└─ DeviceServiceUnavailable 503   no answer, an internal error there, or the thing or certificate is being changed
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import orjson

from karma.core import aws
from karma.core.errors import Upstream, ValidationFailed
from karma.core.faults import AWS_FAULTS, code_of, upstream_of
from karma.core.observability import count, logger
from karma.devices.credentials import Certificate, Endpoint
from karma.devices.topics import file_answer_topic, request_topic, response_topic

AMAZON_ROOT_CA_1: Final = "Amazon Root CA 1"

SHADOW: Final = "settings"
"""Name of the shadow that holds a device's settings; the policy of devices has it, too."""
_GONE = frozenset({"ResourceNotFoundException"})
_CHANGING = frozenset(
    {
        "CertificateStateException",
        "ConflictException",
        "ConflictingResourceUpdateException",
        "DeleteConflictException",
        "VersionConflictException",
    }
)
"""Codes of a thing or certificate that somebody else changes, or whose change has not reached all of AWS IoT yet."""
_NEVER_ACTIVE = frozenset({"INACTIVE", "PENDING_ACTIVATION"})
_PENDING_S: Final = 3600.0
"""Life of the token by which a device registers with a certificate that it was given."""


class DeviceServiceThrottled(Upstream):
    """AWS IoT is throttling requests."""

    status = 503
    code = "DEVICE_SERVICE_THROTTLED"
    retry_after_s = 2


class DeviceServiceUnavailable(Upstream):
    """AWS IoT did not answer, or failed."""

    status = 503
    code = "DEVICE_SERVICE_UNAVAILABLE"
    retry_after_s = 1


class IotPublisher:
    """Publishes commands, and answers to what devices ask, through the IoT data endpoint."""

    def __init__(self, *, endpoint_url: str = "") -> None:
        """Make a publisher; `endpoint_url` "": the endpoint is asked for once a process."""
        self._endpoint_url = endpoint_url

    def publish_command(self, thing: str, request: Mapping[str, object], *, command_id: str, expires_in_s: int) -> None:
        """Publish one request, QoS 1, with its expiry, response topic and correlation data.

        Args:
            thing: name of the receiving thing.
            request: the JSON body (docs/mqtt.md).
            command_id: id of the command, sent as correlation data.
            expires_in_s: seconds after which the broker drops the message, at least 1.

        Raises:
            DeviceServiceThrottled, DeviceServiceUnavailable: the request may or may not have been sent.
        """
        client = aws.client("iot-data", endpoint_url=self._endpoint_url or f"https://{data_host()}")
        with device_service_errors():
            client.publish(
                topic=request_topic(thing),
                qos=1,
                payload=orjson.dumps(request),
                contentType="application/json",
                responseTopic=response_topic(thing),
                correlationData=base64.b64encode(command_id.encode()).decode(),
                # 0 would mean that it never expires.
                messageExpiry=max(1, expires_in_s),
            )

    def publish_file_answer(self, thing: str, answer: Mapping[str, object], *, expires_in_s: int) -> None:
        """Publish the answer to a device's ask for its files, QoS 1.

        Args:
            thing: name of the thing that has asked.
            answer: the JSON body (docs/mqtt.md).
            expires_in_s: seconds after which the broker drops it, at least 1: it may hold links.

        Raises:
            DeviceServiceThrottled, DeviceServiceUnavailable: the answer may or may not have been sent.
        """
        client = aws.client("iot-data", endpoint_url=self._endpoint_url or f"https://{data_host()}")
        with device_service_errors():
            client.publish(
                topic=file_answer_topic(thing),
                qos=1,
                payload=orjson.dumps(answer),
                contentType="application/json",
                messageExpiry=max(1, expires_in_s),
            )


class IotRegistry:
    """Things, their certificates and the policy of all devices. Each step may be repeated."""

    def __init__(
        self,
        *,
        policy_name: str,
        mqtt_host: str = "",
        mqtt_port: int = 8883,
        ca_pem: str = "",
        basic_ingest_rule: str = "",
        provisioning_template: str = "",
        data_endpoint_url: str = "",
    ) -> None:
        """Make a registry, without calls of AWS; host, CA and data endpoint, when empty, are looked up at first use."""
        self._policy_name = policy_name
        self._mqtt_host = mqtt_host
        self._mqtt_port = mqtt_port
        self._ca_pem = ca_pem
        self._basic_ingest_rule = basic_ingest_rule
        self._provisioning_template = provisioning_template
        self._data_endpoint_url = data_endpoint_url

    def endpoint(self) -> Endpoint:
        """Return the endpoint to which devices connect.

        Raises:
            DeviceServiceThrottled, DeviceServiceUnavailable: AWS IoT did not tell its host.
        """
        host, ca_pem = self._mqtt_host or data_host(), self._ca_pem or amazon_root_ca()
        return Endpoint(host, self._mqtt_port, ca_pem, self._basic_ingest_rule, self._provisioning_template)

    def create_thing(self, thing: str, *, device_id: str) -> None:
        """Create the thing, or update the one of that name: a unique item in our table has reserved the name."""
        attributes: Any = {"attributes": {"device_id": device_id}}
        client = aws.client("iot")
        with device_service_errors():
            try:
                client.create_thing(thingName=thing, attributePayload=attributes)
            except client.exceptions.ResourceAlreadyExistsException:
                client.update_thing(thingName=thing, attributePayload=attributes)

    def create_certificate(self, *, csr: str = "") -> Certificate:
        """Make an inactive certificate, with a new key pair, or for the key of `csr`.

        Raises:
            ValidationFailed: `csr` is not a certificate signing request that AWS can sign.
        """
        client = aws.client("iot")
        with device_service_errors():
            if not csr:
                made = client.create_keys_and_certificate(setAsActive=False)
                return Certificate(
                    made["certificateId"],
                    made["certificateArn"],
                    made["certificatePem"],
                    made["keyPair"]["PrivateKey"],
                )
            try:
                signed = client.create_certificate_from_csr(certificateSigningRequest=csr, setAsActive=False)
            except client.exceptions.InvalidRequestException as exc:
                raise ValidationFailed.of("csr", "not a certificate signing request that can be signed") from exc
            return Certificate(signed["certificateId"], signed["certificateArn"], signed["certificatePem"], None)

    def attach_certificate(self, thing: str, certificate: Certificate) -> None:
        """Attach a certificate to its thing and to the policy, then activate it.

        The thing comes first: from then on the certificate is found by its thing.
        """
        with device_service_errors():
            aws.client("iot").attach_thing_principal(thingName=thing, principal=certificate.arn)
        self.permit_certificate(certificate)

    def permit_certificate(self, certificate: Certificate) -> None:
        """Attach a certificate to the policy, then activate it."""
        client = aws.client("iot")
        with device_service_errors():
            client.attach_policy(policyName=self._policy_name, target=certificate.arn)
            client.update_certificate(certificateId=certificate.id, newStatus="ACTIVE")

    def remove_certificate(self, certificate_arn: str, *, thing: str = "") -> None:
        """Deactivate, detach and delete a certificate; steps that were done already are skipped.

        One by which another thing speaks as well, which ours do not, is detached from `thing` alone: its other device
        must not end with this one.

        Raises:
            DeviceServiceUnavailable: it is being changed, or is still being detached; try again.
        """
        client = aws.client("iot")
        certificate_id = certificate_arn.rpartition("/")[2]
        if thing and self._others_by(certificate_arn, thing):
            count("CertificateShared")
            logger.error("certificate.shared", certificate_id=certificate_id)
            with device_service_errors(), _absent_is_fine():
                client.detach_thing_principal(thingName=thing, principal=certificate_arn)
            return
        with device_service_errors(), _absent_is_fine():
            client.update_certificate(certificateId=certificate_id, newStatus="INACTIVE")
        with device_service_errors(), _absent_is_fine():
            client.detach_policy(policyName=self._policy_name, target=certificate_arn)
        if thing:
            with device_service_errors(), _absent_is_fine():
                client.detach_thing_principal(thingName=thing, principal=certificate_arn)
        with device_service_errors(), _absent_is_fine():
            client.delete_certificate(certificateId=certificate_id, forceDelete=True)

    def _others_by(self, certificate_arn: str, thing: str) -> bool:
        things: list[str] = []
        with device_service_errors(), _absent_is_fine():
            things = aws.client("iot").list_principal_things(principal=certificate_arn)["things"]
        return any(each != thing for each in things)

    def remove_certificates(self, thing: str) -> None:
        """Remove every certificate of a thing."""
        client = aws.client("iot")
        with device_service_errors(), _absent_is_fine():
            for arn in client.list_thing_principals(thingName=thing)["principals"]:
                self.remove_certificate(arn, thing=thing)

    def remove_thing(self, thing: str) -> None:
        """Remove a thing with its certificates and its settings, which AWS would keep.

        Raises:
            DeviceServiceUnavailable: AWS has not finished detaching the certificates yet; try again.
        """
        # Certificates first: a device that is connected could make the shadow anew.
        self.remove_certificates(thing)
        data = aws.client("iot-data", endpoint_url=self._data_endpoint_url or f"https://{data_host()}")
        with device_service_errors(), _absent_is_fine():
            data.delete_thing_shadow(thingName=thing, shadowName=SHADOW)
        client = aws.client("iot")
        with device_service_errors(), _absent_is_fine():
            try:
                client.delete_thing(thingName=thing)
            except client.exceptions.InvalidRequestException as exc:
                # Detaching is asynchronous there: a thing with principals cannot be deleted.
                raise DeviceServiceUnavailable("The device is still being detached; try again") from exc

    def discard_thing(self, thing: str, *, device_id: str) -> None:
        """Remove a thing that has no certificates, unless it is another device's by now.

        Raises:
            DeviceServiceUnavailable: it has certificates, or was changed at this moment; look again.
        """
        client = aws.client("iot")
        with device_service_errors(), _absent_is_fine():
            found = client.describe_thing(thingName=thing)
            if found.get("attributes", {}).get("device_id") != device_id:
                return
            try:
                client.delete_thing(thingName=thing, expectedVersion=found["version"])
            except (client.exceptions.InvalidRequestException, client.exceptions.VersionConflictException) as exc:
                raise DeviceServiceUnavailable("The device is still being detached; try again") from exc

    def unused_certificates(self, *, older_than_s: float, now_s: float, limit: int) -> list[str]:
        """Return the ARNs of certificates without a thing that were never active, which a crash leaves.

        They are inactive after a crash during a creation. Those of fleet provisioning are pending until their device
        is registered, for which it has an hour; AWS deletes them then, by its documentation, and we do, too.
        Checks the newest `limit` (up to 250) certificates of the account.
        """
        client = aws.client("iot")
        found: list[str] = []
        with device_service_errors():
            for certificate in client.list_certificates(pageSize=limit, ascendingOrder=False)["certificates"]:
                arn = certificate["certificateArn"]
                if certificate["status"] not in _NEVER_ACTIVE:
                    continue
                pending_s = _PENDING_S if certificate["status"] == "PENDING_ACTIVATION" else 0.0
                if certificate["creationDate"].timestamp() > now_s - older_than_s - pending_s:
                    continue
                if not client.list_principal_things(principal=arn)["things"]:
                    found.append(arn)
        return found


_data_host = ""


def data_host() -> str:
    """Return the host of the account's ATS data endpoint, asked for once a process."""
    global _data_host
    if not _data_host:
        with device_service_errors():
            _data_host = aws.client("iot").describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"]
    return _data_host


def amazon_root_ca() -> str:
    """Return Amazon Root CA 1, by which devices verify AWS IoT, in PEM, from certifi's bundle.

    Raises:
        LookupError: the bundle does not contain it any more.
    """
    import certifi  # only creating a device needs it

    bundle = certifi.contents()
    at = bundle.find(f'# Label: "{AMAZON_ROOT_CA_1}"')
    begin = bundle.find("-----BEGIN CERTIFICATE-----", at)
    end = bundle.find("-----END CERTIFICATE-----", begin)
    if at < 0 or begin < 0 or end < 0:
        raise LookupError(f"certifi's bundle has no {AMAZON_ROOT_CA_1}")
    return bundle[begin : end + len("-----END CERTIFICATE-----")] + "\n"


def _forget() -> None:
    global _data_host
    _data_host = ""


@contextmanager
def device_service_errors() -> Iterator[None]:
    """Translate the errors of AWS IoT."""
    try:
        yield
    except AWS_FAULTS as exc:
        if code_of(exc) in _CHANGING:
            raise DeviceServiceUnavailable("The device is being changed; try again") from exc
        public = upstream_of(
            exc, system="The device service", busy=DeviceServiceThrottled, unavailable=DeviceServiceUnavailable
        )
        if public is None:
            raise
        raise public from exc


@contextmanager
def _absent_is_fine() -> Iterator[None]:
    try:
        yield
    except AWS_FAULTS as exc:
        if code_of(exc) not in _GONE:
            raise


aws.on_reset(_forget)
