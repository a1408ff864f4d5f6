"""Which addresses are the public internet, and which a stranger's URL must never lead to.

`ipaddress.is_global` is asked last and trusted least: it follows the registry as of the Python
version, and the registry calls some addresses global that lead inside again. The table is ours, so
that every Python answers alike.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NOT_PUBLIC: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' own; also the metadata service of some clouds
        "127.0.0.0/8",
        "168.63.129.16/32",  # the inside of a cloud under a public number
        "169.254.0.0/16",  # this link; metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # groups
        "240.0.0.0/4",  # reserved, and broadcast
        "::/96",  # unspecified, loopback, and IPv4 in an old disguise
        "::ffff:0:0/96",  # IPv4 in disguise; see `unmapped`
        "::ffff:0:0:0/96",  # IPv4 translated
        "64:ff9b::/96",  # IPv4 behind a translator
        "64:ff9b:1::/48",  # the same, locally
        "100::/64",  # discarded
        "100:0:0:1::/64",  # dummy
        "2001::/23",  # protocol assignments; Teredo, which holds an IPv4 address, and others
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which holds an IPv4 address
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "fc00::/7",  # private; metadata services
        "fe80::/10",  # this link
        "fec0::/10",  # this site, as it once was
        "ff00::/8",  # groups
    )
)
_GLOBAL_UNICAST: Final = ipaddress.ip_network("2000::/3")
"""All that has been given to anybody in IPv6: what lies outside is nobody's, or special."""


def unmapped(address: Address) -> Address:
    """`address`, or the IPv4 address in it that the system would connect to (`::ffff:1.2.3.4`)."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could have this address, and nobody inside."""
    address = unmapped(address)
    if isinstance(address, ipaddress.IPv6Address) and (
        address.scope_id is not None or address not in _GLOBAL_UNICAST
    ):
        return False
    return address.is_global and not is_within(address, NOT_PUBLIC)


def is_within(address: Address, networks: Iterable[Network]) -> bool:
    """Whether `address` belongs to one of `networks`."""
    return any(address.version == network.version and address in network for network in networks)
