# ruff: noqa: RUF001 - letters and digits that look like others are the point
"""URLs by which people have got past checks of addresses, in all the spellings we could think of.

Deterministic, and importable by tests of a running gateway. Every one of them leads, to somebody's
eyes, to a place inside; none may ever be connected to there.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator

INSIDE = (
    *("127.0.0.1", "127.0.0.53", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.0.1"),
    *("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    *("198.18.0.1", "224.0.0.1", "255.255.255.255"),
)
INSIDE_6 = (
    *("::1", "::", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:169.254.169.254"),
    *("::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b:1::7f00:1", "2002:7f00:1::"),
    *("2001:0:7f00:1::", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1"),
    *("0:0:0:0:0:0:0:1", "0000:0000:0000:0000:0000:0000:0000:0001", "fe80::1%25eth0", "::1%250"),
    *("fe80::1%eth0", "2606:4700::1111%1", "::ffff:0x7f.1", "::1]", "[::1"),
)
NAMES = (
    *("localhost", "LOCALHOST", "localhost.", "LocalHost.localdomain", "localhost.localdomain"),
    *("ip6-localhost", "a.localhost", "metadata", "metadata.google.internal", "instance-data"),
    *("metadata.google.internal.", "instance-data.ec2.internal", "kubernetes.default.svc"),
    *("kubernetes.default.svc.cluster.local", "host.docker.internal", "router.lan", "printer.home"),
    *("broadcasthost", "gateway.docker.internal", "consul.service.consul", "vault.corp"),
    *("a.home.arpa", "1.0.0.127.in-addr.arpa", "wpad.localdomain", "x.test", "x.invalid"),
)
RESOLVED_INSIDE = {
    "one.example.com": ["127.0.0.1"],
    "two.example.com": ["93.184.216.34", "127.0.0.1"],
    "three.example.com": ["10.1.2.3", "93.184.216.34"],
    "four.example.com": ["::1"],
    "five.example.com": ["::ffff:127.0.0.1"],
    "six.example.com": ["2606:4700::1111", "fe80::1"],
    "seven.example.com": ["169.254.169.254"],
    "eight.example.com": ["64:ff9b::a9fe:a9fe"],
    "nine.example.com": ["fe80::1%2"],
    "ten.example.com": ["0.0.0.0"],
    "eleven.example.com": [],
    "twelve.example.com": ["not an address"],
    "127.0.0.1.nip.example.com": ["127.0.0.1"],
    "xn--n3h.example.com": ["192.168.1.1"],
    "localtest.example.com": ["::"],
}
"""Names of the public internet, and what their name server says."""

_FULL_WIDTH = str.maketrans("0123456789.", "０１２３４５６７８９．")
_CIRCLED = str.maketrans("0123456789", "⓪①②③④⑤⑥⑦⑧⑨")
_MATHEMATICAL = str.maketrans("0123456789", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗")


def spellings(address: str) -> Iterator[str]:
    """An IPv4 address as one parser or another may read it."""
    number = int(ipaddress.IPv4Address(address))
    parts = [int(part) for part in address.split(".")]
    a, b, c, d = parts
    yield address
    yield f"{address}."
    yield f"{number}"
    yield f"0x{number:x}"
    yield f"0X{number:08X}"
    yield f"0{number:o}"
    yield f"000000{number:o}"
    yield ".".join(f"0x{part:x}" for part in parts)
    yield ".".join(f"0{part:o}" for part in parts)
    yield ".".join(f"{part:03d}" for part in parts)
    yield f"{a}.{(b << 16) + (c << 8) + d}"
    yield f"{a}.{b}.{(c << 8) + d}"
    yield f"0x{a:x}.{b}.0{c:o}.{d}"
    yield f"{a + 256}.{b}.{c}.{d}"
    yield f"{number + 2**32}"
    yield address.translate(_FULL_WIDTH)
    yield address.translate(_CIRCLED)
    yield address.translate(_MATHEMATICAL)
    yield address.replace(".", "。")
    yield address.replace(".", "｡")
    yield address.replace(".", "%2e")
    yield "".join(f"%{ord(character):02x}" for character in address)
    yield f"{a}.{b}.{c}.{d}\u00ad"
    yield f"\u200b{address}"


def urls() -> list[str]:
    """All of them, without repetitions; some resolve by `RESOLVED_INSIDE`."""
    found = [f"http://{spelling}/" for address in INSIDE for spelling in spellings(address)]
    found += [f"http://[{address}]/" for address in INSIDE_6]
    found += [f"https://{host}/latest/meta-data/" for host in (*NAMES, *RESOLVED_INSIDE)]
    found += _user_names()
    found += _separators()
    found += _schemes()
    found += _ports()
    return list(dict.fromkeys(found))


def _user_names() -> list[str]:
    """Which host is meant, before or after the sign?"""
    one, other = "example.com", "127.0.0.1"
    return [
        f"http://{first}{sign}{second}/"
        for first, second in ((one, other), (other, one))
        for sign in (
            "@",
            ":@",
            ":x@",
            "%40",
            "@@",
            "#@",
            "?@",
            "/@",
            "\\@",
            "&@",
            ";@",
            "\t@",
            " @",
        )
        if not (first == one and sign in ("#@", "?@", "/@", "%40"))  # these are public
    ]


def _separators() -> list[str]:
    """Characters that some parsers drop, and some take for others."""
    host = "127.0.0.1"
    return [
        *(f"http:{slashes}{host}/" for slashes in ("", "/", "///", "////", "\\\\", "/\\", "\\/")),
        *(
            f"http://{mark}{host}/"
            for mark in ("\t", "\n", "\r", " ", "\0", "\x0b", "\u3000", "\xa0")
        ),
        *(
            f"http://{host}{mark}/"
            for mark in ("\t", "\n", "\r\n", " ", "\0", "\\", "%00", "%0a", "%20")
        ),
        *(
            f"http://{host}{mark}example.com/"
            for mark in ("\\", "\\@", "%2f", "%5c", "%23", "\0", "\r\n")
        ),
        f" http://{host}/",
        f"\0http://{host}/",
        f"ht\ntp://{host}/",
        f"http\t://{host}/",
        f"http://{host}\r\nHost: example.com\r\n\r\n",
        f"http://exa\u00admple.com@{host}/",
        "http:///127.0.0.1",
        "http://",
        "http://:80/",
        "http://.../",
        "http://-/",
        "http://_/",
        "http://example.com..localhost/",
        "http://[127.0.0.1]/",
        "http://[::1/",
        "http://::1/",
        "http://::1]:80/",
        "http://[::1]x/",
        "http://[]/",
    ]


def _schemes() -> list[str]:
    schemes = (
        *("file", "ftp", "gopher", "dict", "ldap", "tftp", "sftp", "jar", "netdoc", "data", "ws"),
        *("httpx", "http+unix", "unix", "about", "javascript", "view-source", "blob", "httpſ", ""),
    )
    pairs = itertools.product(schemes, ("127.0.0.1", "/etc/passwd", "localhost:6379/_FLUSHALL"))
    return [f"{scheme}://{rest}" for scheme, rest in pairs] + [
        "//127.0.0.1/",
        "127.0.0.1",
        "/etc/passwd",
    ]


def _ports() -> list[str]:
    ports = (
        *("22", "25", "6379", "8080", "9200", "8000", "0", "00080", "080", "+80", "-1", "65536"),
        *("80a", "８０", "4294967376", "", "80:80", "0x50", " 80", "80%20"),
    )
    return [
        f"http://{host}:{port}/" for host in ("127.0.0.1", "1.1.1.1", "[::1]") for port in ports
    ]
