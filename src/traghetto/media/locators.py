"""Reading a URL that a stranger wrote: one spelling of each, and nothing to argue about.

Parsers of URLs disagree about user names, backslashes, short and octal addresses, full-width
digits and dots; what one of them checks another one connects to. So only what all of them read
alike is read here, and the rest is refused.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from typing import Final

import msgspec

from traghetto.media.addresses import Address

URL_CHARACTERS_MAX: Final = 8192
HOST_CHARACTERS_MAX: Final = 253

_URL: Final = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?"
    r"(?P<rest>[/?][^#]*)?"
    r"(?:#.*)?",
    re.IGNORECASE | re.ASCII,  # or else the long s is an s, and the sign for kelvin a k
)
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_UNWANTED: Final = re.compile(r"[\x00-\x20\x7f\\]")
"""Control characters, blanks and backslashes: some parsers drop or turn them, others do not."""
_PATH_CHARACTERS: Final = "".join(map(chr, range(0x21, 0x7F)))
"""What is sent as it is; the rest is percent-encoded."""

_LOCAL_DOMAINS: Final = frozenset(
    {
        "arpa",  # also home.arpa
        "consul",
        "corp",
        "docker",
        "home",
        "internal",  # metadata.google.internal, and what is like it
        "intranet",
        "invalid",
        "lan",
        "local",
        "localdomain",
        "localhost",
        "onion",
        "private",
        "svc",
        "test",
    }
)
"""Last labels that mean something inside a network, and nothing outside of it."""


class Malformed(ValueError):
    """Not a URL in its one spelling; the text says which rule it breaks, and nothing of it."""


class LocalName(ValueError):
    """The host is a name that has no meaning on the public internet."""


class Locator(msgspec.Struct, frozen=True, kw_only=True):
    """A URL, taken apart."""

    is_secure: bool
    host: str
    """In lower case; an IPv6 address without its brackets."""
    address: Address | None
    """Where the host is an address itself."""
    port: int
    path: str
    """Percent-encoded, with its query; begins with a slash."""

    @property
    def authority(self) -> str:
        """What the `Host` header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_secure else 80) else f"{host}:{self.port}"


def parse(url: str) -> Locator:
    """`url`, taken apart; raises Malformed and LocalName."""
    if len(url) > URL_CHARACTERS_MAX:
        raise Malformed("the URL is too long")
    if _UNWANTED.search(url):
        raise Malformed("the URL has blanks, backslashes or control characters in it")
    found = _URL.fullmatch(url)
    if found is None:
        raise Malformed("the URL is not http(s)://host[:port]/path, with nothing else in it")
    is_secure = found["scheme"].lower() == "https"
    port = int(found["port"] or (443 if is_secure else 80))
    if port > 65_535:
        raise Malformed("there is no such port")
    host, address = _host(found["host"].lower())
    rest = found["rest"] or "/"
    try:
        path = urllib.parse.quote(rest, safe=_PATH_CHARACTERS)
    except UnicodeEncodeError:
        raise Malformed("the URL has half a character in it") from None
    return Locator(
        is_secure=is_secure,
        host=host,
        address=address,
        port=port,
        path=path if path.startswith("/") else f"/{path}",
    )


def _host(host: str) -> tuple[str, Address | None]:
    if host.startswith("["):
        return _version_6(host[1:-1])
    labels = host.split(".")
    if len(host) > HOST_CHARACTERS_MAX or not all(map(_LABEL.fullmatch, labels)):
        raise Malformed("the host is not a name of letters, digits and hyphens")
    if _is_number(labels[-1]):
        # The standard for browsers reads every such host as an IPv4 address, in whatever base.
        return _version_4(host)
    if len(labels) == 1 or labels[-1] in _LOCAL_DOMAINS:
        raise LocalName("the host has a name that is not of the public internet")
    return host, None


def _is_number(label: str) -> bool:
    return label.isdigit() or re.fullmatch(r"0x[0-9a-f]*", label) is not None


def _version_4(host: str) -> tuple[str, Address]:
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        raise Malformed("the host is an address in another spelling than 1.2.3.4") from None
    return host, address


def _version_6(host: str) -> tuple[str, Address]:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        raise Malformed("the host is not an IPv6 address") from None
    if "." in host or address.ipv4_mapped is not None:
        raise Malformed("the host is an IPv4 address in the clothes of an IPv6 address")
    return str(address), address
