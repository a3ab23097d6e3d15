"""Runs the embedded engine (MiniStack) in its own virtual environment, so that only this machine reaches it.

Nine things differ from its own launcher; tests/integration/local/test_loopback.py and tests/e2e/test_listeners.py
check the first four, test_watch.py the fifth and the last, tests/integration/integrations/test_iot.py the sixth:

* All listeners are on 127.0.0.1: its MQTT broker asks for every interface, whatever BIND_HOST says.
* A device without a certificate does not get through the TLS handshake, as with AWS: the engine would let it in.
* A web page of another site reaches nothing (`local.cross_origin`). The engine lets any page call it and believes any
  signature, so that a page in the browser of whoever runs this could deploy code of its own.
* MQTT over WebSocket is refused. It carries no certificate, and the engine does not check signatures in its place.
* Instances of functions end after the call that they carry out.
* A message that Python's parser cannot read is acknowledged and passed on.
* A statement of PartiQL asks for the rights that AWS names (`PartiQLInsert`), and what it writes is told to the table's
  stream. tests/integration/realtime/test_push.py and tests/e2e/test_devices.py check it.
* Fleet provisioning signs a device's own key, too (`$aws/certificates/create-from-csr/json`): the engine's answers
  `create/json` alone. tests/e2e/test_provisioning.py checks it.
* A call of a function that fails is written to a file, whoever made it: a schedule or a queue tells nobody. So is one
  that ends well, but gives messages of a batch back.

    python -P launch.py PORT FAILURES
"""

import argparse
import asyncio
import json
import secrets
import ssl
import sys
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import uvicorn
from ministack.app import app
from ministack.core import iam_actions, lambda_runtime
from ministack.services import dynamodb, iot, lambda_svc

# Of this project only this module: its other packages are not the engine's.
sys.path.append(str(Path(__file__).parents[2]))
from local import cross_origin

sys.path.pop()

_LOOPBACK = "127.0.0.1"
_SERVER_ERROR = 500
_POLICY_VIOLATION = 1008


# asyncio's own loop, not uvloop: some devices do not get through the latter's TLS.
class LoopbackLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers can be reached from this machine only."""

    async def create_server(self, protocol_factory: Any, host: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Bind to loopback, whatever address was given; a given socket is bound already."""
        asked = host if kwargs.get("sock") is not None else _LOOPBACK
        return await super().create_server(protocol_factory, asked, *args, **kwargs)


def require_certificates() -> None:
    """Make the broker's TLS require a certificate of every client, instead of accepting clients without one."""
    optional = iot._mtls_build_ssl_context  # noqa: SLF001 -- the engine has no setting for it

    def required() -> ssl.SSLContext:
        context: ssl.SSLContext = optional()
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    iot._mtls_build_ssl_context = required  # noqa: SLF001


def let_calls_finish() -> None:
    """Let instances finish their call before they end, as in AWS; the engine would interrupt it.

    They get no further call, and the next one finds a new instance. The wait is at most the function's own time limit,
    at which the engine ends the call.
    """
    kill = lambda_runtime.kill_workers

    def end(worker: Any) -> None:
        with worker._lock:  # noqa: SLF001 -- the engine holds it from an instance's start to the end of its call
            kill([worker])

    def end_all(workers: Iterable[Any]) -> None:
        idle = []
        for worker in workers:
            if worker is not None and worker._lock.locked():  # noqa: SLF001
                threading.Thread(target=end, args=(worker,), daemon=True).start()
            else:
                idle.append(worker)
        kill(idle)

    lambda_runtime.kill_workers = end_all


def protect_runtime_apis() -> None:
    """Let the engine's other HTTP servers, from which functions fetch calls, refuse what `local.cross_origin` does."""
    parse = BaseHTTPRequestHandler.parse_request

    def parse_request(handler: BaseHTTPRequestHandler) -> bool:
        return parse(handler) and not cross_origin.refuse(handler)

    setattr(BaseHTTPRequestHandler, "parse_request", parse_request)  # noqa: B010 -- a method


def take_any_message() -> None:
    """Make rules treat a message that Python's parser cannot read (depth, digits) as one that is not JSON.

    The engine would drop the device's connection without an acknowledgement, and again each time that it sends it anew.
    """
    read = iot._rule_message  # noqa: SLF001

    def message(payload: bytes) -> Any:
        try:
            return read(payload)
        except (RecursionError, ValueError):
            return payload.decode()

    iot._rule_message = message  # noqa: SLF001


def sign_for_devices() -> None:
    """Answer requests for a certificate of a key that a device keeps, as the engine does those for a key of AWS's.

    Documented: the certificate is PENDING_ACTIVATION, and a token lets its device register with it within the hour. A
    request that AWS cannot sign is rejected with a code of which the documentation says only that there is one.
    """
    parse, reply = iot._parse_fleet_provisioning_topic, iot._fleet_provisioning_reply  # noqa: SLF001

    def parsed(topic: str) -> Any:
        return ("sign", None) if topic == "$aws/certificates/create-from-csr/json" else parse(topic)

    async def replied(account_id: str, region: str, operation: str, template: Any, payload: bytes, asker: Any) -> Any:
        if operation != "sign":
            return await reply(account_id, region, operation, template, payload, asker)
        try:
            asked = json.loads(payload)["certificateSigningRequest"]
        except (KeyError, RecursionError, TypeError, ValueError):
            return iot._fleet_rejected("InvalidPayload", "Message cannot be parsed")  # noqa: SLF001
        with iot.request_scope(account_id, region):
            try:
                pem = iot.sign_certificate_request(*iot._ensure_ca(), asked)  # noqa: SLF001
            except (TypeError, ValueError):
                return iot._fleet_rejected("InvalidCertificateSigningRequest", "CSR violates constraints")  # noqa: SLF001
            return "accepted", _pending(pem)

    iot._parse_fleet_provisioning_topic = parsed  # noqa: SLF001
    iot._fleet_provisioning_reply = replied  # noqa: SLF001


def _pending(pem: str) -> dict[str, str]:
    """Register a certificate that nobody may connect by yet; return what its device is told."""
    certificate_id, token = iot.get_certificate_id(pem), secrets.token_urlsafe(48)
    iot._certificates[certificate_id] = iot._certificate_record(certificate_id, pem, "PENDING_ACTIVATION")  # noqa: SLF001
    iot._drop_expired(iot._ownership_tokens)  # noqa: SLF001
    expiration = time.time() + iot._OWNERSHIP_TOKEN_SECONDS  # noqa: SLF001
    iot._ownership_tokens[token] = {"certificateId": certificate_id, "expiration": expiration}  # noqa: SLF001
    return {"certificateId": certificate_id, "certificatePem": pem, "certificateOwnershipToken": token}


def write_failures(file: Path) -> None:
    """Append what a function wrote during a call that failed, beside the engine's own copy in CloudWatch Logs.

    A call has failed too when it names messages, or records of a stream, that are to be delivered to it again, and when
    it answers a request by a status of 500 or above.
    """
    keep = lambda_svc._emit_lambda_logs  # noqa: SLF001 -- the one place where each call ends
    execute = lambda_svc._execute_function  # noqa: SLF001 -- and the one that has its answer

    def append(func: Any, said: str, log_text: str) -> None:
        name = (func.get("config") or func).get("FunctionName", "?")
        lines = log_text.strip().splitlines() or ["it has written nothing"]
        with file.open("a", encoding="utf-8", errors="replace") as log:
            log.write("\n  ".join([f"{time.strftime('%H:%M:%S')} {name} {said}", *lines]) + "\n")

    def emit(func: Any, request_id: str, log_text: str, error: bool, duration_ms: int, **more: Any) -> None:
        keep(func, request_id, log_text, error, duration_ms, **more)
        if error:
            append(func, f"failed after {duration_ms} ms, request {request_id}", log_text)

    def executed(func: Any, event: Any, *args: Any, **more: Any) -> Any:
        result = execute(func, event, *args, **more)
        said = "" if result.get("error") else _failure(result.get("body"), event)
        if said:
            append(func, said, result.get("log", ""))
        return result

    lambda_svc._emit_lambda_logs = emit  # noqa: SLF001
    lambda_svc._execute_function = executed  # noqa: SLF001


def _failure(body: Any, event: Any) -> str:
    """Return what an answer says that did not succeed; "": nothing."""
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except (RecursionError, ValueError):
            return ""
    if not isinstance(body, dict):
        return ""
    named, status = body.get("batchItemFailures"), body.get("statusCode")
    if isinstance(named, list) and named:
        return f"gave {len(named)} of {len(event.get('Records', ()))} back"
    if isinstance(status, int) and status >= _SERVER_ERROR:
        return f"answered {status} to {event.get('rawPath', 'a request')}"
    return ""


async def without_mqtt(scope: cross_origin.Scope, receive: cross_origin.Receive, send: cross_origin.Send) -> None:
    """Serve the engine's application, but refuse WebSockets for MQTT."""
    offered = [
        protocol.strip().lower()
        for name, value in scope.get("headers", ())
        if name.lower() == b"sec-websocket-protocol"
        for protocol in value.decode("latin-1").split(",")
    ]
    if scope["type"] == "websocket" and any(protocol.startswith("mqtt") for protocol in offered):
        await receive()
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        return
    await app(scope, receive, send)


def tell_of_statements() -> None:
    """Put what statements insert and update into the streams."""
    engine: dict[str, Any] = vars(dynamodb)
    store, at_work = engine["_set_item"], threading.local()

    def stored(table: Any, pk: str, sk: str, item: Any) -> Any:
        old = store(table, pk, sk, item)
        if getattr(at_work, "statement", False):
            engine["_emit_stream_event"](table["TableName"], "MODIFY" if old else "INSERT", old, item)
        return old

    def telling(run: Any) -> Any:
        def told(*given: Any) -> Any:
            at_work.statement = True
            try:
                return run(*given)
            finally:
                at_work.statement = False

        return told

    engine["_set_item"] = stored
    for name in ("_partiql_insert", "_partiql_update"):
        engine[name] = telling(engine[name])


def authorise_statements() -> None:
    """Ask of a statement for the right to what it does to its table, as of each part of a transaction."""
    engine: dict[str, Any] = vars(iam_actions)
    parts = engine["dynamodb_transaction_checks"]

    def checks(action: str, body: bytes, region: str, account: str) -> list[tuple[str, str]]:
        if action not in {"dynamodb:ExecuteStatement", "dynamodb:BatchExecuteStatement"}:
            return parts(action, body, region, account)  # type: ignore[no-any-return]
        sent = json.loads(body)
        asked = []
        for each in sent.get("Statements", (sent,)):
            verb, table, _ = each["Statement"].split('"', 2)
            right = f"dynamodb:PartiQL{verb.split()[0].capitalize()}"
            asked.append((right, f"arn:aws:dynamodb:{region}:{account}:table/{table}"))
        return asked

    engine["dynamodb_transaction_checks"] = checks


def main() -> None:
    """Serve until SIGTERM; the engine writes its state then."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("failures", type=Path)
    given = parser.parse_args()
    require_certificates()
    let_calls_finish()
    protect_runtime_apis()
    take_any_message()
    sign_for_devices()
    tell_of_statements()
    authorise_statements()
    write_failures(given.failures)
    config = uvicorn.Config(
        cross_origin.CrossOriginProtection(without_mqtt),
        host=_LOOPBACK,
        port=given.port,
        # A quarter less CPU for each call than with Hypercorn, the engine's own server.
        http="httptools",
        ws="wsproto",
        access_log=False,
        # The application writes these by itself, as AWS does, and knows itself whom it believes about addresses.
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    with asyncio.Runner(loop_factory=LoopbackLoop) as runner:
        runner.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
