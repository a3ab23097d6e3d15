"""Entry point of the local function URL.

    python -m local.streamhost --function-dir functions/agent_stream --env-file .local/agent_stream.json --port 4600

Prints one line of JSON with the URL when it is ready; ends, with its workers, on SIGTERM or SIGINT; on SIGHUP workers
are started anew, to read changed code.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from local.streamhost.host import WORKER_LIMIT, HostConfig, StreamHost
from local.streamhost.worker import FunctionSpec

_COMMON_LAYER = Path(__file__).resolve().parents[2] / "layers" / "common" / "python"


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until a signal ends it."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    environment = json.loads(arguments.env_file.read_text()) if arguments.env_file else {}
    function = FunctionSpec(
        function_dir=arguments.function_dir.resolve(),
        environment={str(name): str(value) for name, value in environment.items()},
        python_path=tuple(path.resolve() for path in arguments.python_path or [_COMMON_LAYER]),
        handler=arguments.handler,
        timeout_s=arguments.timeout,
        log_file=arguments.log_file,
    )
    config = HostConfig(
        function,
        port=arguments.port,
        prewarm=arguments.prewarm,
        max_workers=arguments.max_workers,
        allow_origins=tuple(arguments.allow_origin),
    )
    asyncio.run(_serve_until_told_to_stop(config))


async def _serve_until_told_to_stop(config: HostConfig) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with StreamHost(config) as host:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, host.renew)
        sys.stdout.write(json.dumps({"url": host.url}) + "\n")
        sys.stdout.flush()
        await stop.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local.streamhost", description="A function URL on this machine.")
    parser.add_argument("--function-dir", type=Path, required=True, help="folder with the executable bootstrap")
    parser.add_argument("--env-file", type=Path, help="the function's environment, a JSON object")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--handler", default="agent_stream.app:app", help="module:attribute of the ASGI app")
    parser.add_argument("--python-path", type=Path, action="append", help="import root; default layers/common/python")
    parser.add_argument("--prewarm", type=int, default=1)
    parser.add_argument("--max-workers", type=int, default=WORKER_LIMIT)
    parser.add_argument("--timeout", type=float, default=900, help="seconds an invocation may take")
    parser.add_argument("--log-file", type=Path, help="workers' output; default stderr")
    parser.add_argument(
        "--allow-origin", action="append", default=[], help="CORS origin; `:*` for any port; repeatable"
    )
    return parser


if __name__ == "__main__":
    main()
