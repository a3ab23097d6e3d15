"""Runs localstripe, in its own virtual environment, with two of its constants replaced.

It keeps its data in /tmp/localstripe.pickle and listens on every interface; here each environment has its own file,
given as the first argument, and nobody listens beyond loopback. The rest of the arguments are localstripe's. It answers
any web page, and lets anybody decide where events go; here `local.cross_origin` does.
"""

import builtins
import importlib
import runpy
import socket
import sys
from pathlib import Path
from typing import Any

# Of this project only this module.
sys.path.append(str(Path(__file__).parents[2]))
from local import cross_origin

sys.path.pop()

_OPEN = ("/v1/", "/js.stripe.com/")
"""Paths of Stripe's API; other paths control the program."""
_FIXED = "/tmp/localstripe.pickle"  # noqa: S108 -- localstripe's own constant
_store = sys.argv.pop(1)
_open = builtins.open
_bind = socket.socket.bind


def _open_store(file: Any, *args: Any, **kwargs: Any) -> Any:
    return _open(_store if file == _FIXED else file, *args, **kwargs)


class _LoopbackSocket(socket.socket):
    def bind(self, address: Any) -> None:
        # The IPv4 loopback address as an IPv6 socket spells it: the program insists on IPv6.
        _bind(self, ("::ffff:127.0.0.1", address[1]) if address[0] == "::" else address)


async def _refuse_cross_origin(request: Any, handler: Any) -> Any:
    kind = cross_origin.Kind.CALL if request.path.startswith(_OPEN) else cross_origin.Kind.CONTROL
    why = cross_origin.refusal(request.headers.items(), method=request.method, kind=kind)
    if why:
        return web.Response(status=403, body=cross_origin.body(why), content_type="application/json")
    return await handler(request)


setattr(builtins, "open", _open_store)  # noqa: B010 -- the type of open is overloaded, a plain assignment does not check
setattr(socket, "socket", _LoopbackSocket)  # noqa: B010
web: Any = importlib.import_module("aiohttp.web")
importlib.import_module("localstripe.server").app.middlewares.insert(0, web.middleware(_refuse_cross_origin))
runpy.run_module("localstripe", run_name="__main__")
