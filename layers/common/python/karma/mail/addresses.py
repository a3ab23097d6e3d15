"""Spelling of an address for mail providers: its domain in ASCII letters, by IDNA 2008.

An address is stored with its domain in Unicode (`ada@straße.example`), for which DNS has one other spelling
(`xn--strae-oqa.example`). Python's own codec "idna" is of 2003: it takes `ß` for `ss` and a final sigma for any other
one, so that its mail would go to somebody else's domain.
"""

from __future__ import annotations


class AddressUnmailable(ValueError):
    """No mail reaches the address: its domain has no ASCII spelling, or the part before the @ is not ASCII."""


def mailable(address: str) -> str:
    """Spell a stored address as mail providers accept it.

    Raises:
        AddressUnmailable: the address has no such spelling.
    """
    import idna  # local: only what sends mail needs it

    local, _, domain = address.rpartition("@")
    if not local.isascii():
        raise AddressUnmailable("providers take ASCII letters only before the @")
    try:
        return f"{local}@{idna.encode(domain, uts46=True).decode()}"
    except idna.IDNAError as exc:
        raise AddressUnmailable(str(exc)) from exc
