"""The demo conversation at the end of `make dev`, which shows that all parts work together.

A user asks the agent to find the online device and move it; the device moves, as its telemetry shows; the Stripe peer
sells a subscription, of which a signed webhook tells the backend.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from local.api_client import ApiClient, agent_events
from local.errors import LocalError
from local.link import link
from local.outputs import Outputs
from local.stripe_peer import StripePeer
from local.waiting import until

_WAIT_S = 30
_PLAN = "karma_enterprise_month"
_REACH_MM = 250


class Transcript:
    """Prints a run as it streams, and keeps the data for checks."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._fresh = True
        self.text = ""
        self.deltas = 0
        self.tools: list[str] = []
        self.outcome = ""

    def follow(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Print every event of a run until it ends.

        Raises:
            LocalError: the run failed, or its stream ended without an end of the run.
        """
        names: dict[str, str] = {}
        arguments: dict[str, str] = {}
        for event in events:
            match event["type"]:
                case "SUBAGENT_STARTED":
                    self._line(f"   asks {event['name']}\n")
                case _ if "subagentRunId" in event:
                    pass  # the run's own agent tells what came of it
                case "TEXT_MESSAGE_START":
                    self._line("Agent  ")
                case "TEXT_MESSAGE_CONTENT":
                    self.deltas += 1
                    self.text += event["delta"]
                    self._write(event["delta"])
                    self._fresh = False
                case "TEXT_MESSAGE_END":
                    self._line("")
                case "TOOL_CALL_START":
                    names[event["toolCallId"]] = event["toolCallName"]
                    arguments[event["toolCallId"]] = ""
                    self.tools.append(event["toolCallName"])
                case "TOOL_CALL_ARGS":
                    arguments[event["toolCallId"]] += event["delta"]
                case "TOOL_CALL_END":
                    call = event["toolCallId"]
                    self._line(f"   calls {names[call]} {arguments[call]}\n")
                case "TOOL_CALL_RESULT":
                    self._line(f"   answer {_short(str(event['content']))}\n")
                case "RUN_ERROR":
                    raise LocalError(f"the run failed: {event.get('code', '')} {event['message']}")
                case "RUN_FINISHED":
                    self.outcome = event.get("outcome", {}).get("type", "success")
        if not self.outcome:
            raise LocalError("the stream ended before the run did")

    def _line(self, start: str) -> None:
        if not self._fresh:
            self._write("\n")
        self._write(start)
        self._fresh = start.endswith("\n") or start == ""


def converse(outputs: Outputs, stripe: StripePeer, device_log: Path, write: Callable[[str], None]) -> None:
    """Hold the conversation, and check its effects.

    Raises:
        LocalError: an expected effect did not happen.
    """
    move_device(outputs, device_log, write)
    change_subscription(outputs, stripe, write)


def move_device(outputs: Outputs, device_log: Path, write: Callable[[str], None]) -> None:
    """Let the agent move the device, then check the device's log and its telemetry."""
    before = len(commands_in(device_log))
    # Each time another place, so that a reading of it is from now.
    place = 10 + secrets.randbelow(_REACH_MM)
    message = f"Which of my devices is online? Move it {place} mm to the right, please."
    write(f"You    {message}\n")
    transcript = Transcript(write)
    transcript.follow(agent_events(outputs.stream_url, message, api_key=outputs.demo.api_key))
    write("\n")
    if "controlDevice" not in transcript.tools:
        raise LocalError("the agent controlled no device")
    done = until(
        lambda: commands_in(device_log)[before:] or None, deadline_s=_WAIT_S, what="the command in the device's log"
    )
    moves = [line for line in done if line["command"] == "move"]
    if len(moves) != 1:
        raise LocalError(f"the device's log shows the command {len(moves)} times: {moves}")
    write(f"Device log   {json.dumps(moves[0])}   (once)\n")
    wanted = float(moves[0]["params"].get("x", 0))
    with ApiClient(outputs.api_url, api_key=outputs.demo.api_key) as api:

        def arrived() -> dict[str, Any] | None:
            latest: dict[str, Any] = api.call("GET", f"/devices/{outputs.demo.device_id}")["device"]["latest"]
            return latest if latest.get("x", {}).get("value") == wanted else None

        latest = until(arrived, deadline_s=_WAIT_S, what=f"a reading of x = {wanted:g}", pause_s=0.1)
        points = api.call(
            "GET", f"/devices/{outputs.demo.device_id}/telemetry", metric="x", resolution="raw", limit=100
        )["points"]
    shown = {axis: latest[axis]["value"] for axis in ("x", "y", "z")}
    write(f"API          it is at {json.dumps(shown)} mm; its last {len(points)} readings of x are read back\n")


def change_subscription(outputs: Outputs, stripe: StripePeer, write: Callable[[str], None]) -> None:
    """Sell the demo user a subscription at the Stripe peer and wait until the backend shows it."""
    with ApiClient(outputs.api_url, api_key=outputs.demo.api_key) as api:
        before = api.call("GET", "/subscriptions/current")["subscription"]
        sold = sell(stripe, outputs.demo.user_id, outputs.demo.email)
        write(f"Stripe       sold {sold['id']} ({_PLAN}), it was {before['plan']} {before['status']}\n")

        def changed() -> dict[str, Any] | None:
            current: dict[str, Any] = api.call("GET", "/subscriptions/current")["subscription"]
            return current if current["stripe_subscription_id"] == sold["id"] else None

        after = until(changed, deadline_s=_WAIT_S, what="the subscription that Stripe posted", pause_s=0.2)
    write(f"API          subscription is {after['plan']} {after['status']} until {after['current_period_end']}\n")


def sell(stripe: StripePeer, user_id: str, email: str, *, plan: str = _PLAN) -> dict[str, Any]:
    """Sell a plan to a new customer, which is linked to the user first, as by a checkout; return Stripe's subscription.

    Earlier subscriptions of the user are cancelled, since the largest plan would count; they are found by their
    metadata.
    """
    _make_plan(stripe, plan)
    for old in stripe.call("GET", "/v1/customers")["data"]:
        if old.get("metadata", {}).get("user_id") == user_id:
            for held in stripe.call("GET", "/v1/subscriptions?" + f"customer={old['id']}")["data"]:
                if held["status"] not in ("canceled", "incomplete_expired"):
                    stripe.call("DELETE", f"/v1/subscriptions/{held['id']}")
    customer = stripe.call("POST", "/v1/customers", email=email, **{"metadata[user_id]": user_id})
    link(stripe.places, str(customer["id"]), user_id)
    card = stripe.call("POST", "/v1/payment_methods", type="card", **_CARD)
    stripe.call("POST", f"/v1/payment_methods/{card['id']}/attach", customer=customer["id"])
    stripe.call(
        "POST", f"/v1/customers/{customer['id']}", **{"invoice_settings[default_payment_method]": str(card["id"])}
    )
    return stripe.call("POST", "/v1/subscriptions", customer=customer["id"], **{"items[0][plan]": plan})


_CARD = {
    "card[number]": "4242424242424242",
    "card[exp_month]": "12",
    "card[exp_year]": "2040",
    "card[cvc]": "123",
}


def _make_plan(stripe: StripePeer, plan: str) -> None:
    known = {each["id"] for each in stripe.call("GET", "/v1/plans")["data"]}
    if plan not in known:
        name = plan.split("_")[1]
        terms = {"amount": "29900", "currency": "usd", "interval": "month", "product[name]": plan}
        terms["metadata[karma_plan]"] = name
        stripe.call("POST", "/v1/plans", id=plan, **terms)


def commands_in(device_log: Path) -> list[dict[str, Any]]:
    """Return the commands that the device carried out, oldest first, from its log."""
    if not device_log.exists():
        return []
    lines = [json.loads(line) for line in device_log.read_text().split("\n") if line.endswith("}")]
    return [line for line in lines if line["event"] == "command"]


def _short(text: str) -> str:
    return text if len(text) <= 160 else text[:157] + "..."
