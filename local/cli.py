"""`karma`: runs the backend on this machine, talks to it, and operates it.

    karma dev                      start everything (what `make dev` runs)
    karma down                     stop it; data stay
    karma chat [MESSAGE]           talk to the agent as the demo user
    karma mail [N]                 print the last mails sent since the local environment was started
    karma admin create EMAIL       make an administrator; the password is asked for
    karma inbox list               list events: --status unhandled, unlinked, unnamed, handled, ignored, dismissed
    karma inbox show EVENT_ID      show one with the ids it names
    karma inbox replay EVENT_ID    handle it once more
    karma inbox dismiss EVENT_ID   close it: --reason WORDS
    karma inbox link CUSTOMER USER say which account a customer of Stripe pays for: --from USER, who has it now
    karma run explain RUN_ID       tell what a run did
    karma migrate up|down|status   rewrite stored items after a change of their schema
    karma search fill              let older objects be found; --account USER makes that account's rows anew
    karma keys show|rotate         see, or move one step on, the rotation of the keys that sign access tokens

The last six work on the local environment; with `--stage dev` or another, on that one with the shell's AWS settings.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
import time
import uuid
from collections.abc import Callable, Sequence

import httpx

from local import conversation, prerequisites, seed
from local import places as local_places
from local.api_client import agent_events
from local.conversation import Transcript
from local.deployment import FRONT, SIMULATOR, STREAM, WATCH, Deployment, Given, stop_everything
from local.engine import FAILURES
from local.errors import LocalError
from local.mailbox import delivered
from local.operations import Operations
from local.outputs import Outputs
from local.places import Places
from local.processes import Processes, no_proxy
from local.progress import Progress

_MOST_MAILS = 1000
_RENEWALS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0 on success."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    os.environ.update(no_proxy())
    try:
        return command(arguments)
    except (LocalError, TimeoutError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except httpx.HTTPError as problem:
        print(f"error: the backend does not answer ({problem}); `make dev` starts it", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read the output has seen enough; what is still buffered must not be complained about at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def dev(arguments: argparse.Namespace) -> int:
    """Start everything and run the demo conversation."""
    progress = Progress()
    places = local_places.of_repository()
    print("Karma on this machine", flush=True)
    try:
        installing = prerequisites.ensure(say=progress.say)
    except prerequisites.Missing as missing:
        raise LocalError(str(missing)) from None
    began = time.monotonic()
    if _is_up(places) and not arguments.restart:
        try:
            running = _outputs(places)
        except LocalError:
            print("What is up was started by another version of this code; it is stopped first.")
            stop_everything(Processes(places))
        else:
            if _deployment(places, progress).is_current():
                print("It is up already, and nothing is to be deployed; `make dev-down` stops it.")
                _print_renewals(places)
                _print_addresses(running)
                _print_logs(places)
                return 0
            print("It is up; what its stacks are made of has changed, and is deployed now.")
    # Written again when everything answers: until then nobody may take this environment for a running one.
    places.outputs.unlink(missing_ok=True)
    deployment = _deployment(places, progress)
    deployment.start()
    with progress.step("demo user and device"):
        seeded = seed.seed(deployment)
        seed.start_simulator(deployment, seeded.demo.serial)
        outputs = seed.outputs_of(deployment, seeded.demo)
        seed.wait_online(deployment, seeded.demo)
        deployment.start_watch()
    deployment.processes.release()
    outputs.write(places.outputs)
    print()
    conversation.converse(outputs, deployment.stripe, seed.device_log(deployment), _write)
    print()
    _print_addresses(outputs)
    total = time.monotonic() - began
    beside = f", beside {installing:.1f} s of downloads and installation" if installing else ""
    print(f"\nReady in {total:.1f} s{beside}. It goes on in the background; `make dev-down` stops it.")
    _print_logs(places)
    return 0


def down(_: argparse.Namespace) -> int:
    """Stop everything."""
    places = local_places.of_repository()
    stopped = stop_everything(Processes(places)) if places.base.exists() else []
    print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")
    return 0


def chat(arguments: argparse.Namespace) -> int:
    """Send one message to the agent, or converse line by line."""
    outputs = _outputs(local_places.of_repository())
    thread = str(uuid.uuid4())

    def say(message: str) -> None:
        events = agent_events(outputs.stream_url, message, thread_id=thread, api_key=outputs.demo.api_key)
        Transcript(_write).follow(events)
        print()

    if arguments.message:
        say(" ".join(arguments.message))
        return 0
    while True:
        try:
            message = input("You    ").strip()
        except EOFError:
            print()
            return 0
        if message:
            say(message)


def mail(arguments: argparse.Namespace) -> int:
    """Print the last mails that were sent here, the newest last."""
    found = delivered(_outputs(local_places.of_repository()).endpoint_url)
    for each in found[-arguments.count :]:
        print(f"{each.at:%H:%M:%S}  {each.sender} -> {each.to}\n{each.subject}\n\n{each.text}\n{'-' * 72}")
    if not found:
        print("no mail was sent since the engine started; it keeps none over a restart")
    return 0


def admin_create(arguments: argparse.Namespace) -> int:
    """Create an administrator; asks for the password, or reads it from a pipe."""
    operations = Operations(arguments.stage, local_places.of_repository())
    if sys.stdin.isatty():
        password = getpass.getpass("Password (kept as it is if the account exists): ")
        if getpass.getpass("Again: ") != password:
            raise LocalError("the two are not the same")
    else:
        password = sys.stdin.readline().rstrip("\n")
    user_id = operations.create_admin(arguments.email, password, arguments.name)
    print(f"{arguments.email} is an administrator ({user_id})")
    return 0


def inbox_list(arguments: argparse.Namespace) -> int:
    """List stored Stripe events."""
    for line in Operations(arguments.stage, local_places.of_repository()).list_events(arguments.status):
        print(line)
    return 0


def inbox_show(arguments: argparse.Namespace) -> int:
    """Show a stored Stripe event."""
    print(Operations(arguments.stage, local_places.of_repository()).show_event(arguments.event_id))
    return 0


def inbox_replay(arguments: argparse.Namespace) -> int:
    """Handle a stored Stripe event once more."""
    Operations(arguments.stage, local_places.of_repository()).replay_event(arguments.event_id)
    print(f"{arguments.event_id} is enqueued again")
    return 0


def inbox_dismiss(arguments: argparse.Namespace) -> int:
    """Close a stored Stripe event."""
    Operations(arguments.stage, local_places.of_repository()).dismiss_event(arguments.event_id, arguments.reason)
    print(f"{arguments.event_id} is dismissed")
    return 0


def inbox_link(arguments: argparse.Namespace) -> int:
    """Say which account a customer of Stripe pays for."""
    operations = Operations(arguments.stage, local_places.of_repository())
    operations.link_customer(arguments.customer_id, arguments.user_id, from_user_id=arguments.from_user_id)
    print(f"{arguments.customer_id} pays for {arguments.user_id}, if Stripe has it: its id is not looked up here")
    return 0


def run_explain(arguments: argparse.Namespace) -> int:
    """Describe a run."""
    print(Operations(arguments.stage, local_places.of_repository()).explain_run(arguments.run_id))
    return 0


def migrate(arguments: argparse.Namespace) -> int:
    """Rewrite stored items, or count them."""
    for line in Operations(arguments.stage, local_places.of_repository()).migrate(arguments.direction):
        print(line, flush=True)
    return 0


def search_fill(arguments: argparse.Namespace) -> int:
    """Let objects be found that are older than search."""
    for line in Operations(arguments.stage, local_places.of_repository()).fill_search(arguments.account):
        print(line, flush=True)
    return 0


def keys_show(arguments: argparse.Namespace) -> int:
    """Show the state of the rotation of the signing keys."""
    print(Operations(arguments.stage, local_places.of_repository()).show_keys())
    return 0


def keys_rotate(arguments: argparse.Namespace) -> int:
    """Make the next step of the rotation."""
    print(Operations(arguments.stage, local_places.of_repository()).rotate_keys(early=arguments.now))
    return 0


def _deployment(places: Places, progress: Progress) -> Deployment:
    given = Given(anthropic_api_key=os.environ.get("ANTHROPIC_API_KEY", ""))
    return Deployment(places, persistent=True, given=given, progress=progress)


def _is_up(places: Places) -> bool:
    needed = {"engine", "stripe", FRONT, STREAM, SIMULATOR}
    return places.outputs.exists() and needed <= set(Processes(places).running())


def _outputs(places: Places) -> Outputs:
    try:
        return Outputs.read(places.outputs)
    except (OSError, ValueError, KeyError, TypeError):
        raise LocalError("there is no local environment; `make dev` starts one") from None


def _print_renewals(places: Places) -> None:
    log = Processes(places).log(WATCH)
    for line in log.read_text(errors="replace").splitlines()[-_RENEWALS:] if log.exists() else ():
        print(f"  {line}")


def _print_logs(places: Places) -> None:
    processes = Processes(places)
    print(f"Changed code reaches it within seconds; {processes.log(WATCH)} says what was renewed.")
    print(f"Calls of functions that fail, those of schedules and queues too, are in {processes.log(FAILURES)}.")


def _print_addresses(outputs: Outputs) -> None:
    rows = {
        "API": f"{outputs.api_url}/docs",
        "agent stream": f"{outputs.stream_url}/api/agent",
        "WebSocket": outputs.websocket_url,
        "Stripe": f"{outputs.stripe.base_url}  (key {outputs.stripe.api_key})",
        "Stripe webhook": outputs.billing_webhook_url,
        "MQTT": f"{outputs.mqtt_host}:{outputs.mqtt_port}  (CA {outputs.mqtt_ca})",
        "AWS engine": outputs.endpoint_url,
        "model": outputs.model.base_url or "api.anthropic.com",
        "demo user": f"{outputs.demo.email}  {outputs.demo.password}",
    }
    for name, value in rows.items():
        print(f"  {name:<15} {value}")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST_MAILS):
        raise argparse.ArgumentTypeError(f"a number from 1 to {_MOST_MAILS}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="karma", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    each = commands.add_parser("dev", help="start everything on this machine")
    each.add_argument("--restart", action="store_true", help="even if it is up")
    each.set_defaults(command=dev)
    for name in ("down", "dev-down"):
        commands.add_parser(name, help="stop it; data stay").set_defaults(command=down)
    each = commands.add_parser("chat", help="talk to the agent as the demo user")
    each.add_argument("message", nargs="*")
    each.set_defaults(command=chat)
    each = commands.add_parser("mail", help="print the last mails that the local environment sent since it was started")
    each.add_argument("count", nargs="?", type=_count, default=3)
    each.set_defaults(command=mail)
    stage = argparse.ArgumentParser(add_help=False)
    stage.add_argument("--stage", default="local", help="deployed stage (default: local)")

    admin = commands.add_parser("admin", help="administrators").add_subparsers(required=True, metavar="ACTION")
    each = admin.add_parser("create", parents=[stage], help="make one, or promote an account")
    each.add_argument("email")
    each.add_argument("--name", default="Administrator")
    each.set_defaults(command=admin_create)

    _add_inbox(commands, stage)

    runs = commands.add_parser("run", help="agent runs").add_subparsers(required=True, metavar="ACTION")
    each = runs.add_parser("explain", parents=[stage], help="tell what one did")
    each.add_argument("run_id")
    each.set_defaults(command=run_explain)

    each = commands.add_parser("migrate", parents=[stage], help="rewrite stored items after a change of their schema")
    each.add_argument("direction", choices=("up", "down", "status"))
    each.set_defaults(command=migrate)

    search = commands.add_parser("search", help="rows of search").add_subparsers(required=True, metavar="ACTION")
    each = search.add_parser("fill", parents=[stage], help="let objects be found that are older than search")
    each.add_argument("--account", default="", metavar="USER", help="make the rows of one account anew")
    each.set_defaults(command=search_fill)

    keys = commands.add_parser("keys", help="keys that sign access tokens").add_subparsers(
        required=True, metavar="ACTION"
    )
    each = keys.add_parser("show", parents=[stage], help="tell how far their rotation is")
    each.set_defaults(command=keys_show)
    each = keys.add_parser("rotate", parents=[stage], help="make the next step: add, promote, drop")
    each.add_argument("--now", action="store_true", help="do not wait for it: a key has leaked; requests may fail")
    each.set_defaults(command=keys_rotate)
    return parser


def _add_inbox(commands: argparse._SubParsersAction[argparse.ArgumentParser], stage: argparse.ArgumentParser) -> None:
    inbox = commands.add_parser("inbox", help="stored Stripe events").add_subparsers(required=True, metavar="ACTION")
    each = inbox.add_parser("list", parents=[stage], help="list those of one status")
    each.add_argument("--status", default="unhandled")
    each.set_defaults(command=inbox_list)
    each = inbox.add_parser("show", parents=[stage], help="show one with the ids it names")
    each.add_argument("event_id")
    each.set_defaults(command=inbox_show)
    each = inbox.add_parser("replay", parents=[stage], help="handle one once more")
    each.add_argument("event_id")
    each.set_defaults(command=inbox_replay)
    each = inbox.add_parser("dismiss", parents=[stage], help="close one that nobody will handle")
    each.add_argument("event_id")
    each.add_argument("--reason", required=True)
    each.set_defaults(command=inbox_dismiss)
    each = inbox.add_parser("link", parents=[stage], help="say which account a customer of Stripe pays for")
    each.add_argument("customer_id")
    each.add_argument("user_id")
    each.add_argument("--from", dest="from_user_id", metavar="USER_ID", help="the account that has it now")
    each.set_defaults(command=inbox_link)


if __name__ == "__main__":
    sys.exit(main())
