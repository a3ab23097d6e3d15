"""The demo user, their API key and their simulated device. Running it again changes nothing that is there."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.api_client import ApiClient, ApiRefused
from local.deployment import SIMULATOR, Deployment
from local.errors import LocalError
from local.mailbox import delivered
from local.outputs import Demo, Model, Outputs, Stripe, write_private
from local.processes import Program, clean_environment, python
from local.stripe_peer import API_KEY as STRIPE_KEY
from local.waiting import until

EMAIL = "demo@example.com"
_MODEL = "EOS-3A"


@dataclass(frozen=True)
class Seeded:
    """The demo user with key and device, and whether the account is new."""

    demo: Demo
    created: bool


def seed(deployment: Deployment) -> Seeded:
    """Make sure that the demo user, their key and their device exist.

    Raises:
        LocalError: the account exists and its password is lost.
    """
    remembered = deployment.places.secrets / "demo.json"
    known: dict[str, str] = json.loads(remembered.read_text()) if remembered.exists() else {}
    with ApiClient(deployment.addresses.api_url) as api:
        created = _enter(api, remembered, known)
        me = api.call("GET", "/users/me")["user"]
        known["user_id"] = me["id"]
        if not me["email_verified"]:
            verify_email(api, deployment.engine.endpoint_url, me["email"])
        if not _key_works(deployment, known.get("api_key", "")):
            known["api_key"] = str(api.call("POST", "/api-keys", {"name": "demo"})["key"])
        if not _device_exists(api, known.get("device_id", "")):
            known |= _create_device(api, deployment)
        write_private(remembered, json.dumps(known))
    return Seeded(Demo(**known), created)


def verify_email(api: ApiClient, endpoint_url: str, email: str) -> None:
    """Ask for a verification mail, and use the newest token that was sent to the address.

    Raises:
        LocalError: no mail was sent in time.
    """

    def token() -> str | None:
        links = (mail.token for mail in reversed(delivered(endpoint_url)) if mail.to == email and mail.token)
        return next(links, None)

    api.call("POST", "/auth/verify-email/resend")
    try:
        found = until(token, deadline_s=60, what=f"mail to {email}", pause_s=0.1)
    except TimeoutError as late:
        raise LocalError(str(late)) from None
    api.call("POST", "/auth/verify-email", {"token": found})


def start_simulator(deployment: Deployment, serial: str) -> None:
    """Start the simulated device in the background with the credentials that creating it gave."""
    places = deployment.places
    state = places.state / "device"
    state.mkdir(exist_ok=True)
    credentials = _credentials(deployment, serial)
    # The broker may have moved since they were given: another program can have taken its port.
    known = json.loads(credentials.read_text())
    write_private(credentials, json.dumps({**known, "mqtt_port": deployment.broker.port}))
    command = [python(), "-m", "karma_device.simulator", "--credentials", str(credentials)]
    command += ["--state-dir", str(state), "--model", _MODEL, "--log", str(device_log(deployment))]
    env = clean_environment(PYTHONPATH=str(places.root / "sdk" / "device"))
    deployment.processes.start(Program(SIMULATOR, command, env, places.root))


def device_log(deployment: Deployment) -> Path:
    """Return the file in which the simulated device logs its commands."""
    return deployment.places.logs / "device.jsonl"


def wait_online(deployment: Deployment, demo: Demo) -> dict[str, Any]:
    """Wait until the API shows the device online with readings; return it.

    Raises:
        LocalError: the device did not come online in time.
    """
    with ApiClient(deployment.addresses.api_url, api_key=demo.api_key) as api:

        def online() -> dict[str, Any] | None:
            device: dict[str, Any] = api.call("GET", f"/devices/{demo.device_id}")["device"]
            return device if device["status"] == "online" and device.get("latest") else None

        try:
            return until(online, deadline_s=30, what=f"device {demo.serial} online", pause_s=0.1)
        except TimeoutError as late:
            raise LocalError(f"{late}; see {deployment.processes.log(SIMULATOR)}") from None


def outputs_of(deployment: Deployment, demo: Demo) -> Outputs:
    """Describe the environment for people and programs."""
    addresses, engine, broker = deployment.addresses, deployment.engine, deployment.broker
    return Outputs(
        api_url=addresses.api_url,
        stream_url=addresses.stream_url,
        websocket_url=addresses.websocket_url,
        billing_webhook_url=addresses.billing_webhook_url,
        mqtt_host=broker.host,
        mqtt_port=broker.port,
        mqtt_ca=str(broker.ca_path.resolve()),
        region=engine.region,
        endpoint_url=engine.endpoint_url,
        stage="local",
        tables=deployment.tables,
        bucket=deployment.outputs["BucketName"],
        demo=demo,
        stripe=Stripe(base_url=deployment.stripe.url, api_key=STRIPE_KEY, webhook_secret=deployment.webhook_secret),
        model=Model(base_url=deployment.model.url if deployment.model else ""),
    )


def _enter(api: ApiClient, remembered: Path, known: dict[str, str]) -> bool:
    """Log in, registering first if need be; tell whether the account is new."""
    if known:
        try:
            api.log_in(known["email"], known["password"])
            return False
        except ApiRefused as refused:
            if refused.status != 401:
                raise
        # The engine's data were thrown away, the file was not.
        known.clear()
    known |= {"email": EMAIL, "password": secrets.token_urlsafe(18)}
    # Before the account exists: a password that is lost in between could not be found out.
    write_private(remembered, json.dumps(known))
    api.call("POST", "/auth/register", {**known, "name": "Demo"})
    try:
        api.log_in(known["email"], known["password"])
    except ApiRefused as refused:
        if refused.status == 401:  # registering does not tell
            raise LocalError(f"{EMAIL} exists but its password is lost; `make clean` starts anew") from None
        raise
    return True


def _key_works(deployment: Deployment, api_key: str) -> bool:
    if not api_key:
        return False
    with ApiClient(deployment.addresses.api_url, api_key=api_key) as api:
        try:
            api.call("GET", "/users/me")
        except ApiRefused as refused:
            if refused.status != 401:
                raise
            return False
    return True


def _device_exists(api: ApiClient, device_id: str) -> bool:
    if not device_id:
        return False
    try:
        api.call("GET", f"/devices/{device_id}")
    except ApiRefused as refused:
        if refused.status != 404:
            raise
        return False
    return True


def _create_device(api: ApiClient, deployment: Deployment) -> dict[str, str]:
    serial = f"{_MODEL}-{secrets.token_hex(3).upper()}"
    # 02: an address that no maker gave out.
    mac = ":".join(["02", *(f"{byte:02x}" for byte in secrets.token_bytes(5))])
    body = {"name": "Bench robot", "model": _MODEL, "mac": mac, "serial_number": serial}
    data = api.call("POST", "/devices", body)
    write_private(_credentials(deployment, serial), json.dumps(data["credentials"]))
    return {"device_id": str(data["device"]["id"]), "serial": serial}


def _credentials(deployment: Deployment, serial: str) -> Path:
    return deployment.places.secrets / f"{serial}.json"
