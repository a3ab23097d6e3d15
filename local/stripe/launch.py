"""Runs localstripe, a program of its own in a virtual environment of its own, with two of its constants replaced.

It keeps its data in /tmp/localstripe.pickle and listens on every interface; here each environment has its own file,
given as the first argument, and nobody listens beyond loopback. The rest of the arguments are localstripe's.
"""

import builtins
import runpy
import socket
import sys
from typing import Any

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


setattr(builtins, "open", _open_store)  # noqa: B010 -- the type of open is overloaded, a plain assignment does not check
setattr(socket, "socket", _LoopbackSocket)  # noqa: B010
runpy.run_module("localstripe", run_name="__main__")
