"""Addresses at which a model's server may be: any that an administrator names, but those of metadata services."""

from __future__ import annotations

import ipaddress


def may_serve_models(host: str) -> bool:
    """Tell whether an address may be asked; a name that is no address may, until it is resolved.

    Private networks may, since servers of an own model stand there. Link-local addresses hand out credentials in AWS
    and elsewhere; the others that are refused are no server's.
    """
    try:
        found = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return True
    own = getattr(found, "ipv4_mapped", None) or found
    is_nobody_s = own.is_multicast or own.is_unspecified or own.is_reserved
    return not (own.is_link_local or is_nobody_s or own == _METADATA_6)


_METADATA_6 = ipaddress.ip_address("fd00:ec2::254")
