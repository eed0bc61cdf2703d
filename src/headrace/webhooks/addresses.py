"""Whom a webhook may call: the addresses that belong to the public Internet, and the URLs that may name them.

Owns the list of refused networks and the first look at a URL, when a webhook is made. `check_url` refuses what is
refused for certain (an address or a name of this machine or of a private network); a name's addresses are looked at
again each time somebody connects, by `webhooks.connecting`, because what a name means is its owner's to change.
IPv6 is refused unless it is global unicast of no special use: so are the forms that carry an IPv4 address inside
(mapped, compatible, NAT64, 6to4, Teredo), whatever that address is. Never read a URL otherwise than by `read_target`:
two readers that differ in one character are a hole.
Sources: IANA's special-purpose registries for IPv4 and IPv6 (RFC 6890), and the clouds' own for their metadata.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from headrace.errors import FieldError, InvalidInputError
from headrace.webhooks.target import OTHER_PROTOCOLS, Target, read_target

Address = IPv4Address | IPv6Address

_REFUSED_4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; Linux connects 0.0.0.0 to itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, and metadata of Alibaba Cloud
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's agent: a public address that means the host
        "169.254.0.0/16",  # link-local, and metadata of nearly every cloud
        "172.16.0.0/12",
        "192.0.0.0/24",  # IETF protocol assignments, and metadata of Oracle Cloud
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_GLOBAL_6: Final = IPv6Network("2000::/3")
_REFUSED_6: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocol assignments: Teredo, benchmarking, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address inside
        "3fff::/20",  # documentation
    )
)
_LOCAL_NAMES: Final = ("localhost", "local", "internal", "localdomain", "home.arpa")
"""Names that RFC 6761, 6762, 8375 and ICANN keep for private networks, with all names below them."""


def is_public(address: Address) -> bool:
    """Return whether `address` is a unicast address of the public Internet, of no special use."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_4)
    return address in _GLOBAL_6 and not any(address in network for network in _REFUSED_6)


def is_any(address: Address) -> bool:  # noqa: ARG001 - stands where `is_public` does, under HEADRACE_WEBHOOK_ALLOW_PRIVATE
    """Return True: an operator who allows private addresses allows all."""
    return True


def check_url(url: str, *, allow_private: bool, field: str = "url") -> Target:
    """Return what `url` names, for the making of a webhook; nothing is looked up.

    Raises:
        InvalidInputError: it is no URL that a webhook can have, or names a private address; names `field`.

    """
    target = read_target(url, field=field)
    if allow_private:
        return target
    if target.port in OTHER_PROTOCOLS:
        message = f"port {target.port} belongs to another protocol than HTTP"
        raise InvalidInputError(message, (FieldError(field, message),))
    if target.address is not None and not is_public(target.address):
        raise private(field, str(target.address))
    if any(target.host == name or target.host.endswith(f".{name}") for name in _LOCAL_NAMES):
        raise private(field, target.host)
    return target


def private(field: str, what: str) -> InvalidInputError:
    """Return the error that says of `what` that it is not public."""
    message = f"{what} is not an address of the public Internet (see HEADRACE_WEBHOOK_ALLOW_PRIVATE)"
    return InvalidInputError(message, (FieldError(field, message),))
