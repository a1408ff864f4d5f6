"""Fetching what a caller's URL names, from the public internet and from nowhere else.

A host is resolved once. If any of its addresses is not public, nothing is fetched; otherwise the
connection goes to one of these very addresses, so that a second answer of the name server changes
nothing. The HTTP library is given addresses only, and what opens its sockets looks at each once
more. Redirects are not followed; nothing of the gateway goes along, neither cookies nor a proxy of
its environment. Every size and the whole time are bounded, and so is what one principal has under
way.

Texts of exceptions hold no part of a URL: it can be a secret.
"""

from __future__ import annotations

import asyncio
import enum
import ipaddress
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from traghetto import __version__
from traghetto.media.addresses import Address, is_public, is_within, unmapped
from traghetto.media.locators import LocalName, Locator, Malformed, parse

PORTS: Final = (80, 443)
CONNECT_SECONDS_MAX: Final = 3.0
"""For each address of a host."""
ADDRESSES_TRIED_MAX: Final = 3
FETCHES_MAX: Final = 16
"""Connections at the same time; further ones wait, on their own time."""
OWN_FETCHES_MAX: Final = 4
"""Fetches and lookups of one principal at the same time, likewise."""
HEADER_LINE_BYTES_MAX: Final = 16_384
HEADERS_MAX: Final = 100
_READ_BYTES: Final = 262_144
_LOOKUPS_MAX: Final = 32
"""Names looked up at the same time: the system's resolver takes a thread for each, and keeps it
when nobody waits any more."""

AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]
"""As `socket.getaddrinfo` answers it: family, kind, protocol, name, and where to connect to."""
OpenSocket = Callable[[AddressInfo], socket.socket]


class FetchFault(enum.Enum):
    """Why there is nothing. A caller is told whether it was TOO_LARGE, an operator the reason."""

    FORBIDDEN = "forbidden"
    """The URL leads where nothing is fetched from."""
    UNREACHABLE = "unreachable"
    """No such host, no connection, no valid certificate, or a connection that broke."""
    REDIRECTED = "redirected"
    TOO_LARGE = "too_large"
    BAD_STATUS = "bad_status"
    """The server did not answer 200."""
    TIMED_OUT = "timed_out"
    MALFORMED = "malformed"
    """The URL, or the answer, is not what it should be."""


class FetchRefused(Exception):
    """Nothing was fetched. `reason` is in an operator's words, and has nothing of the URL."""

    def __init__(self, kind: FetchFault, reason: str) -> None:
        super().__init__(f"{kind.value}: {reason}")
        self.kind = kind
        self.reason = reason


class Resolver(Protocol):
    """Where the addresses of names come from."""

    def resolve(self, host: str) -> Coroutine[Any, Any, Sequence[str]]:
        """The addresses of `host`; raises OSError if it has none."""
        ...

    def close(self) -> None:
        """Nothing will be asked any more."""
        ...


class SystemResolver:
    """The system's resolver, in threads of its own: slow name servers hold up nothing else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUPS_MAX, thread_name_prefix="media-names")

    async def resolve(self, host: str) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _lookup, host)
        return [str(info[4][0]) for info in found]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Share:
    """What one principal may have done at the same time."""

    def __init__(self, principal: str) -> None:
        self.principal: Final = principal
        self.fetches: Final = asyncio.Semaphore(OWN_FETCHES_MAX)
        self.lookups: Final = asyncio.Semaphore(OWN_FETCHES_MAX)
        self.members = 0
        """Its fetches and lookups, also those that wait."""


class Fetcher:
    """Fetches files by URL. One per gateway; belongs to one event loop."""

    def __init__(
        self,
        *,
        resolver: Resolver | None = None,
        open_socket: OpenSocket | None = None,
        ssl_context: ssl.SSLContext | None = None,
        allow_networks: tuple[str, ...] = (),
        allow_ports: tuple[int, ...] = PORTS,
    ) -> None:
        """`allow_networks` (CIDR) are fetched from although they are not public, on every port.

        Raises ValueError for what is not a network.
        """
        self._resolver = resolver or SystemResolver()
        self._open_socket = open_socket or _open_socket
        self._ssl_context = ssl_context
        self._allow_networks = tuple(map(ipaddress.ip_network, allow_networks))
        self._allow_ports = frozenset(allow_ports)
        self._connections = asyncio.Semaphore(FETCHES_MAX)
        self._shares: dict[str, _Share] = {}
        """Of the principals that fetch, or for whom a name is still looked up."""
        self._lookups: set[asyncio.Task[Sequence[str]]] = set()
        self._session: aiohttp.ClientSession | None = None

    async def fetch(
        self, url: str, *, bytes_max: int, seconds_max: float, principal: str = ""
    ) -> bytes:
        """The body of the answer to a GET; raises FetchRefused.

        `seconds_max` counts from now until the last byte. `principal`, an account, has a share of
        what can be done at once: for one account that is a part of what all have together.
        """
        try:
            locator = parse(url)
        except Malformed as error:
            raise FetchRefused(FetchFault.MALFORMED, str(error)) from None
        except LocalName as error:
            raise FetchRefused(FetchFault.FORBIDDEN, str(error)) from None
        share = self._join(principal)
        try:
            async with asyncio.timeout(seconds_max), share.fetches:
                addresses = await self._addresses(locator, principal)
                async with self._connections:
                    return await self._fetch(locator, addresses, bytes_max)
        except TimeoutError:
            reason = f"not fetched within {seconds_max:g} s"
            raise FetchRefused(FetchFault.TIMED_OUT, reason) from None
        finally:
            self._leave(share)

    async def aclose(self) -> None:
        """Close what is open; fetches that run are cut off."""
        self._resolver.close()
        for lookup in list(self._lookups):
            lookup.cancel()
        await asyncio.gather(*self._lookups, return_exceptions=True)
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def _join(self, principal: str) -> _Share:
        """The share of `principal`, which is kept until whoever has joined has left."""
        share = self._shares.setdefault(principal, _Share(principal))
        share.members += 1
        return share

    def _leave(self, share: _Share) -> None:
        share.members -= 1
        if share.members == 0:
            del self._shares[share.principal]

    async def _resolve(self, host: str, principal: str) -> Sequence[str]:
        """The addresses of `host`; raises OSError.

        A lookup cannot be called off. Its place is free when it has ended, and not when its
        fetch has been given up: who names hosts that hang waits for them, and nobody else.
        """
        share = self._join(principal)
        try:
            await share.lookups.acquire()
        except BaseException:
            self._leave(share)
            raise
        lookup = asyncio.create_task(self._resolver.resolve(host))
        self._lookups.add(lookup)

        def end(_: object) -> None:
            self._lookups.discard(lookup)
            share.lookups.release()
            self._leave(share)
            if not lookup.cancelled():
                lookup.exception()  # looked at, although nobody may wait for it any more

        lookup.add_done_callback(end)
        await asyncio.wait([lookup])  # and leave it alone if there is no time left for it
        if lookup.cancelled():
            raise OSError("nothing is looked up any more")
        return lookup.result()

    async def _addresses(self, locator: Locator, principal: str) -> list[Address]:
        """Where `locator` leads; raises FetchRefused unless all of it may be fetched from."""
        if locator.address is not None:
            found = [locator.address]
        else:
            self._check_port(locator.port, is_allowed=bool(self._allow_networks))
            try:
                answers = await self._resolve(locator.host, principal)
                found = [unmapped(ipaddress.ip_address(answer)) for answer in answers]
            except (OSError, ValueError):  # ValueError: an address with a zone, or a name too odd
                found = []
            if not found:
                raise FetchRefused(FetchFault.UNREACHABLE, "the host has no address")
        for address in found:
            if not self._is_admitted(address):
                raise FetchRefused(FetchFault.FORBIDDEN, "the host has an address inside")
            self._check_port(locator.port, is_allowed=is_within(address, self._allow_networks))
        return list(dict.fromkeys(found))

    def _check_port(self, port: int, *, is_allowed: bool) -> None:
        if port not in self._allow_ports and not is_allowed:
            raise FetchRefused(FetchFault.FORBIDDEN, "nothing is fetched from that port")

    def _is_admitted(self, address: Address) -> bool:
        return is_public(address) or is_within(address, self._allow_networks)

    async def _fetch(self, locator: Locator, addresses: list[Address], bytes_max: int) -> bytes:
        """From the first address that takes a connection."""
        refused = FetchRefused(FetchFault.UNREACHABLE, "no connection to the host")
        for address in addresses[:ADDRESSES_TRIED_MAX]:
            try:
                async with self._request(locator, address) as response:
                    _check_head(response, bytes_max)
                    return await _read_body(response, bytes_max)
            except aiohttp.ClientConnectorCertificateError:
                reason = "the certificate is not valid for the host"
                refused = FetchRefused(FetchFault.UNREACHABLE, reason)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                continue
            except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError):
                raise FetchRefused(FetchFault.MALFORMED, "the answer is not HTTP") from None
            except (aiohttp.ClientError, OSError) as error:
                if isinstance(error, TimeoutError):
                    raise
                raise FetchRefused(FetchFault.UNREACHABLE, "the connection broke") from None
        raise refused

    def _request(self, locator: Locator, address: Address) -> Any:
        """A request to `address`, in the name of the host."""
        host = f"[{address}]" if address.version == 6 else str(address)
        scheme = "https" if locator.is_secure else "http"
        return self._opened_session().get(
            URL(f"{scheme}://{host}:{locator.port}{locator.path}", encoded=True),
            headers={"Host": locator.authority},
            server_hostname=locator.host,
            ssl=self._ssl_context or True,
            allow_redirects=False,
        )

    def _opened_session(self) -> aiohttp.ClientSession:
        # Not in the constructor: a session belongs to a running event loop.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=_NoResolver(),
                    socket_factory=self._guarded_socket,
                    limit=0,
                    force_close=True,
                ),
                headers={"Accept": "*/*", "Accept-Encoding": "identity"}
                | {"User-Agent": f"traghetto/{__version__}"},
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS_MAX),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=_READ_BYTES,
                max_line_size=HEADER_LINE_BYTES_MAX,
                max_field_size=HEADER_LINE_BYTES_MAX,
                max_headers=HEADERS_MAX,
            )
        return self._session

    def _guarded_socket(self, info: AddressInfo) -> socket.socket:
        """The last look at an address, whatever led to it."""
        if not self._is_admitted(ipaddress.ip_address(info[4][0])):
            raise OSError("not an address that is fetched from")
        return self._open_socket(info)


class _NoResolver(AbstractResolver):
    """The library has no names to look up: it is given addresses."""

    async def resolve(self, *_: Any, **__: Any) -> Any:
        raise OSError("names are not looked up here")

    async def close(self) -> None:
        pass


def _check_head(response: aiohttp.ClientResponse, bytes_max: int) -> None:
    """Refuse an answer by its status and headers."""
    if response.status // 100 == 3:
        raise FetchRefused(FetchFault.REDIRECTED, "the server redirects, which is not followed")
    if response.status != 200:
        raise FetchRefused(FetchFault.BAD_STATUS, f"the server answered {response.status}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise FetchRefused(FetchFault.MALFORMED, "the answer is compressed, against our wish")
    if response.content_length is not None and response.content_length > bytes_max:
        raise _too_large(bytes_max)


async def _read_body(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    pieces = []
    size = 0
    while piece := await response.content.readany():
        size += len(piece)
        if size > bytes_max:
            raise _too_large(bytes_max)
        pieces.append(piece)
    return b"".join(pieces)


def _too_large(bytes_max: int) -> FetchRefused:
    return FetchRefused(FetchFault.TOO_LARGE, f"the answer is larger than {bytes_max} bytes")


def _lookup(host: str) -> list[AddressInfo]:
    return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)


def _open_socket(info: AddressInfo) -> socket.socket:
    return socket.socket(info[0], info[1], info[2])
