"""Fetching by URL: no way in, whatever is asked; and every answer bounded.

Connections are recorded by what opens the sockets, so that it is the connections that are judged,
and not the fetcher's own opinion of an address.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from media.bypasses import RESOLVED_INSIDE, urls
from traghetto.media import fetching
from traghetto.media.addresses import is_public
from traghetto.media.fetching import Fetcher, FetchFault, FetchRefused, SystemResolver

LOOPBACK = ("127.0.0.0/8", "::1/128")
PUBLIC = "93.184.216.34"
BYTES_MAX = 1_000_000
SECONDS = 30.0

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Names:
    """A name server: what it says, one answer after another, and what it was asked.

    Ours, because no real one would lie as these have to.
    """

    def __init__(self, answers: dict[str, list[str]], *later: dict[str, list[str]]) -> None:
        self._answers = [answers, *later]
        self.asked: list[str] = []
        self.is_closed = False

    async def resolve(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        answers = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if host not in answers:
            raise OSError("no such host")
        return answers[host]

    def close(self) -> None:
        self.is_closed = True


class Recorder:
    """Opens sockets to the loopback only, and remembers where each was meant to go."""

    def __init__(self) -> None:
        self.addresses: list[str] = []

    def __call__(self, info: fetching.AddressInfo) -> socket.socket:
        self.addresses.append(info[4][0])
        if not ipaddress.ip_address(info[4][0]).is_loopback:
            raise OSError("the network ends here")
        return socket.socket(*info[:3])


def run(
    test: Callable[[], Awaitable[None]],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(test())


@contextlib.asynccontextmanager
async def fetcher(**options) -> AsyncIterator[Fetcher]:
    made = Fetcher(**options)
    try:
        yield made
    finally:
        await made.aclose()


@contextlib.asynccontextmanager
async def server(
    handler: Handler, host: str = "127.0.0.1", context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A server for one request per connection; yields its port."""

    tasks: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await handler(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(answer(reader, writer)))

    listening = await asyncio.start_server(accept, host, 0, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answering(*pieces: bytes, seen: list[bytes] | None = None, pause: float = 0.0) -> Handler:
    """Sends `pieces`, with a pause after each."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(request)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return handler


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A body without a length and without an end."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(bytes(65_536))
        await writer.drain()


def response(*headers: str, body: bytes = b"", status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


async def fault(fetch: Awaitable[bytes]) -> FetchFault:
    with pytest.raises(FetchRefused) as caught:
        await fetch
    return caught.value.kind


async def fetch_from(port: int, *, host: str = "127.0.0.1", **bounds) -> bytes:
    bounds = {"bytes_max": BYTES_MAX, "seconds_max": SECONDS} | bounds
    async with fetcher(allow_networks=LOOPBACK) as made:
        return await made.fetch(f"http://{host}:{port}/a", **bounds)


def test_the_corpus_is_large():
    """Hundreds of spellings, none twice."""
    assert len(urls()) > 400
    assert len(set(urls())) == len(urls())


def test_nobody_gets_in():
    """Of all the URLs that lead inside, none opens a connection there, and none is fetched."""

    async def test():
        names, recorder = Names(RESOLVED_INSIDE), Recorder()
        async with fetcher(resolver=names, open_socket=recorder) as made:
            for url in urls():
                with pytest.raises(FetchRefused) as caught:
                    await made.fetch(url, bytes_max=BYTES_MAX, seconds_max=SECONDS)
                assert caught.value.kind in {
                    FetchFault.FORBIDDEN,
                    FetchFault.MALFORMED,
                    FetchFault.UNREACHABLE,
                }, url
        assert recorder.addresses == []
        assert set(names.asked) <= set(RESOLVED_INSIDE), "a name was looked up that is none"

    run(test)


def test_the_corpus_finds_a_way_in_where_there_is_one():
    """With a fetcher that takes every address for public, it gets in: the check above can fail."""

    async def test():
        recorder = Recorder()
        everywhere = ("0.0.0.0/0", "::/0")
        async with fetcher(
            resolver=Names(RESOLVED_INSIDE), open_socket=recorder, allow_networks=everywhere
        ) as made:
            for url in urls():
                with contextlib.suppress(FetchRefused):
                    await made.fetch(url, bytes_max=BYTES_MAX, seconds_max=0.5)
        inside = {text for text in recorder.addresses if not is_public(ipaddress.ip_address(text))}
        assert len(inside) > 15

    run(test)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://a.example.com", PUBLIC),
        ("HTTPS://A.EXAMPLE.COM/", PUBLIC),
        ("http://a.example.com:443/x?y=/../@127.0.0.1#@127.0.0.1", PUBLIC),
        ("http://a.example.com?http://127.0.0.1/", PUBLIC),
        ("http://a.example.com/@127.0.0.1", PUBLIC),
        ("http://a.example.com#@127.0.0.1/", PUBLIC),
        ("http://1.1.1.1/", "1.1.1.1"),
        ("http://[2606:4700:4700::1111]/", "2606:4700:4700::1111"),
        ("http://[2606:4700:4700:0:0:0:0:1111]:80/", "2606:4700:4700::1111"),
        ("http://mapped.example.com/", PUBLIC),
        ("http://xn--bcher-kva.example.com/", PUBLIC),
    ],
)
def test_the_public_internet_is_reached(url, address):
    """The connection goes to the address that was looked up, or that was named."""

    async def test():
        recorder = Recorder()
        names = Names(
            {
                "a.example.com": [PUBLIC],
                "mapped.example.com": [f"::ffff:{PUBLIC}"],
                "xn--bcher-kva.example.com": [PUBLIC],
            }
        )
        async with fetcher(resolver=names, open_socket=recorder) as made:
            fetch = made.fetch(url, bytes_max=BYTES_MAX, seconds_max=SECONDS)
            assert await fault(fetch) is FetchFault.UNREACHABLE
        assert recorder.addresses == [address]

    run(test)


def test_a_name_is_looked_up_once():
    """A second answer of the name server, which leads inside, is never asked for."""

    async def test():
        names = Names({"a.example.com": [PUBLIC]}, {"a.example.com": ["127.0.0.1"]})
        recorder = Recorder()
        async with fetcher(resolver=names, open_socket=recorder) as made:
            for expected in (FetchFault.UNREACHABLE, FetchFault.FORBIDDEN):
                fetch = made.fetch("http://a.example.com/", bytes_max=9, seconds_max=SECONDS)
                assert await fault(fetch) is expected
        assert recorder.addresses == [PUBLIC]
        assert names.asked == ["a.example.com"] * 2
        assert names.is_closed

    run(test)


def test_what_opens_sockets_looks_again(monkeypatch):
    """Were everything before it to fail, no socket would be opened to a place inside."""
    monkeypatch.setattr(Fetcher, "_addresses", lambda *_: addresses())

    async def addresses():
        return [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]

    async def test():
        recorder = Recorder()
        async with fetcher(resolver=Names({}), open_socket=recorder) as made:
            fetch = made.fetch("http://a.example.com/", bytes_max=9, seconds_max=SECONDS)
            assert await fault(fetch) is FetchFault.UNREACHABLE
        assert recorder.addresses == []

    run(test)


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_file_is_fetched(host, loop_factory):
    """Its bytes, whole; the request says who asks, and nothing else of us."""

    async def test():
        seen: list[bytes] = []
        sent = answering(response("Content-Length: 5", body=b"bytes"), seen=seen)
        async with server(sent, host) as port:
            shown = f"[{host}]" if ":" in host else host
            assert await fetch_from(port, host=shown) == b"bytes"
        lines = seen[0].decode().split("\r\n")
        assert lines[0] == "GET /a HTTP/1.1"
        names = {line.partition(":")[0].lower() for line in lines[1:-2]}
        assert names == {"host", "accept", "accept-encoding", "user-agent", "connection"}
        assert f"Host: {shown}:{port}" in lines
        assert "Accept-Encoding: identity" in lines

    run(test, loop_factory)


def test_a_host_with_several_addresses_is_tried_at_each():
    """One that takes no connection does not make the file unreachable."""

    async def test():
        names = Names({"a.example.com": ["127.0.0.2", "127.0.0.1"]})
        async with (
            server(answering(response("Content-Length: 2", body=b"ok"))) as port,
            fetcher(resolver=names, allow_networks=LOOPBACK) as made,
        ):
            url = f"http://a.example.com:{port}/"
            assert await made.fetch(url, bytes_max=9, seconds_max=SECONDS) == b"ok"

    run(test)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("/a?q=a b", None),
        ("/ä/\U0001f30b?x=ü", "/%C3%A4/%F0%9F%8C%8B?x=%C3%BC"),
        ("/a%20b%2Fc%zz/../d?x=%26", "/a%20b%2Fc%zz/../d?x=%26"),
        ("/a#fragment", "/a"),
        ("?x", "/?x"),
        ("", "/"),
    ],
)
def test_a_path_is_sent_as_it_is_written(url, target):
    """Signed URLs are strict about every character."""

    async def test():
        seen: list[bytes] = []
        async with (
            server(answering(response("Content-Length: 0"), seen=seen)) as port,
            fetcher(allow_networks=LOOPBACK) as made,
        ):
            fetch = made.fetch(f"http://127.0.0.1:{port}{url}", bytes_max=9, seconds_max=SECONDS)
            if target is None:
                assert await fault(fetch) is FetchFault.MALFORMED
            else:
                assert await fetch == b""
                assert seen[0].startswith(f"GET {target} HTTP/1.1\r\n".encode())

    run(test)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300, 304])
def test_redirects_are_not_followed(status):
    """Not even to the place that was asked."""

    async def test():
        seen: list[bytes] = []
        recorder = Recorder()
        head = response("Location: http://10.0.0.1/", "Content-Length: 0", status=f"{status} X")
        async with (
            server(answering(head, seen=seen)) as port,
            fetcher(allow_networks=LOOPBACK, open_socket=recorder) as made,
        ):
            url = f"http://127.0.0.1:{port}/"
            fetch = made.fetch(url, bytes_max=9, seconds_max=SECONDS)
            assert await fault(fetch) is FetchFault.REDIRECTED
        assert len(seen) == 1
        assert recorder.addresses == ["127.0.0.1"]

    run(test)


CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        pytest.param(answering(response(status="404 X")), FetchFault.BAD_STATUS, id="404"),
        pytest.param(answering(response(status="500 X")), FetchFault.BAD_STATUS, id="500"),
        pytest.param(answering(response(status="206 X")), FetchFault.BAD_STATUS, id="206"),
        pytest.param(answering(response(status="204 X")), FetchFault.BAD_STATUS, id="204"),
        pytest.param(
            answering(
                response("Content-Encoding: gzip", "Content-Length: 3", body=b"\x1f\x8b\x08")
            ),
            FetchFault.MALFORMED,
            id="compressed",
        ),
        pytest.param(
            answering(response("Content-Length: 1000001", body=b"x")),
            FetchFault.TOO_LARGE,
            id="says that it is too large",
        ),
        pytest.param(endless, FetchFault.TOO_LARGE, id="endless"),
        pytest.param(
            answering(response(CHUNKED), *[b"10000\r\n" + bytes(65_536) + b"\r\n"] * 20),
            FetchFault.TOO_LARGE,
            id="endless chunks",
        ),
        pytest.param(
            answering(response("Content-Length: 1000", body=b"x")),
            FetchFault.MALFORMED,
            id="shorter than it says",
        ),
        pytest.param(
            answering(response(CHUNKED, body=b"5\r\nab")), FetchFault.MALFORMED, id="cut chunk"
        ),
        pytest.param(
            answering(response(CHUNKED, body=b"zz\r\nab")), FetchFault.MALFORMED, id="no chunk"
        ),
        pytest.param(answering(b"SSH-2.0-x\r\n"), FetchFault.MALFORMED, id="not HTTP"),
        pytest.param(answering(b""), FetchFault.UNREACHABLE, id="no answer"),
        pytest.param(
            answering(response("X: " + "x" * 100_000)), FetchFault.MALFORMED, id="a long header"
        ),
        pytest.param(
            answering(response(*[f"X-{n}: x" for n in range(1000)])),
            FetchFault.MALFORMED,
            id="many headers",
        ),
        pytest.param(
            answering(b"HTTP/1.1 200 " + b"x" * 100_000), FetchFault.MALFORMED, id="a long status"
        ),
    ],
)
def test_answers_that_are_none(handler, expected):
    """Whatever a server sends instead of a file has its kind, and is bounded."""

    async def test():
        async with server(handler) as port:
            assert await fault(fetch_from(port)) is expected

    run(test)


def test_a_body_longer_than_its_length_is_cut_or_refused():
    """What a server sends beyond is not part of the file, and shows that something is wrong."""

    async def test():
        async with server(answering(response("Content-Length: 2", body=b"ok and more"))) as port:
            try:
                assert await fetch_from(port) == b"ok"
            except FetchRefused as refused:
                assert refused.kind is FetchFault.MALFORMED  # noqa: PT017 - either will do

    run(test)


def test_the_last_byte_that_is_taken():
    """A limit itself is taken, with a length and without."""

    async def test():
        for head in (response("Content-Length: 9"), response("Connection: close")):
            async with server(answering(head + b"x" * 9)) as port:
                assert await fetch_from(port, bytes_max=9) == b"x" * 9
                assert await fault(fetch_from(port, bytes_max=8)) is FetchFault.TOO_LARGE

    run(test)


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(answering(b"", pause=60), id="no head"),
        pytest.param(answering(*map(bytes, zip(response())), pause=0.05), id="a slow head"),
        pytest.param(
            answering(*[b"HTTP/1.1 103 X\r\n\r\n"] * 1000, pause=0.01), id="hints without end"
        ),
        pytest.param(
            answering(response("Content-Length: 99"), *[b"x"] * 99, pause=0.05), id="a slow body"
        ),
    ],
)
def test_the_whole_time_is_bounded(handler):
    """A deadline is for the last byte, and not for each."""

    async def test():
        async with server(handler) as port:
            started = time.monotonic()
            assert await fault(fetch_from(port, seconds_max=0.3)) is FetchFault.TIMED_OUT
            assert time.monotonic() - started < 10

    run(test)


def test_a_slow_name_server_is_bounded():
    """Looking up a name counts."""

    class Silent(Names):
        async def resolve(self, host: str) -> Sequence[str]:
            await asyncio.sleep(60)
            return []

    async def test():
        async with fetcher(resolver=Silent({})) as made:
            fetch = made.fetch("http://a.example.com/", bytes_max=9, seconds_max=0.1)
            assert await fault(fetch) is FetchFault.TIMED_OUT

    run(test)


def test_fetches_at_the_same_time_are_bounded():
    """Further ones wait, on their own time."""

    async def test():
        most = now = 0

        async def handler(reader, writer):
            nonlocal most, now
            now += 1
            most = max(most, now)
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.05)
            now -= 1
            writer.write(response("Content-Length: 2", body=b"ok"))

        async with (
            server(handler) as port,
            fetcher(allow_networks=LOOPBACK) as made,
        ):
            url = f"http://127.0.0.1:{port}/"
            fetches = (
                made.fetch(url, bytes_max=9, seconds_max=SECONDS, principal=str(number % 10))
                for number in range(60)
            )
            assert await asyncio.gather(*fetches) == [b"ok"] * 60
            assert most == fetching.FETCHES_MAX
            most = 0
            own = (made.fetch(url, bytes_max=9, seconds_max=SECONDS) for _ in range(20))
            assert await asyncio.gather(*own) == [b"ok"] * 20
            assert most == fetching.OWN_FETCHES_MAX
            assert made._shares == {}

    run(test)


class Stuck(Names):
    """Names below `stuck.example` are looked up for ever, as by threads: no deadline ends it."""

    def __init__(self, answers: dict[str, list[str]]) -> None:
        super().__init__(answers)
        self.stuck = asyncio.Event()
        self.waiting = 0

    async def resolve(self, host: str) -> Sequence[str]:
        if host.endswith(".stuck.example"):
            self.waiting += 1
            try:
                await self.stuck.wait()
            finally:
                self.waiting -= 1
        return await super().resolve(host)


def test_names_that_hang_hold_up_nobody_else():
    """One account has a few lookups at once, also of fetches that were given up; the others go on."""

    async def test():
        names = Stuck({"fine.example": ["127.0.0.1"], "0.stuck.example": ["127.0.0.1"]})
        async with (
            server(answering(response("Content-Length: 2", body=b"ok"))) as port,
            fetcher(resolver=names, allow_networks=LOOPBACK) as made,
        ):

            def fetch(host: str, principal: str, seconds_max: float):
                url = f"http://{host}:{port}/"
                return made.fetch(url, bytes_max=9, seconds_max=seconds_max, principal=principal)

            for start in (0, 20):
                stuck = [
                    fault(fetch(f"{number}.stuck.example", "slow", 0.2))
                    for number in range(start, start + 20)
                ]
                assert set(await asyncio.gather(*stuck)) == {FetchFault.TIMED_OUT}
                assert names.waiting == fetching.OWN_FETCHES_MAX
                assert await fetch("fine.example", "other", SECONDS) == b"ok"
            assert await fault(fetch("fine.example", "slow", 0.2)) is FetchFault.TIMED_OUT
            names.stuck.set()
            assert await fetch("fine.example", "slow", SECONDS) == b"ok"
            assert made._shares == {}

    run(test)


def test_closing_ends_lookups():
    """A fetch whose name is still looked up is cut off, and nothing is left behind."""

    async def test():
        names = Stuck({})
        async with fetcher(resolver=names) as made:
            fetch = made.fetch("http://0.stuck.example/", bytes_max=9, seconds_max=SECONDS)
            fetching_it = asyncio.ensure_future(fault(fetch))
            while names.waiting == 0:
                await asyncio.sleep(0)
        assert names.waiting == 0
        assert await fetching_it is FetchFault.UNREACHABLE
        assert made._shares == {}

    run(test)


def test_proxies_of_the_environment_are_ignored(monkeypatch):
    """The operator's proxy may lead inside."""

    async def test():
        async with server(answering(response("Content-Length: 2", body=b"no"))) as proxy:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
            async with server(answering(response("Content-Length: 2", body=b"ok"))) as port:
                assert await fetch_from(port) == b"ok"

    run(test)


def test_cookies_are_forgotten():
    """One caller's fetch leaves nothing for another's."""

    async def test():
        seen: list[bytes] = []
        head = response("Set-Cookie: a=b", "Content-Length: 0")
        async with (
            server(answering(head, seen=seen)) as port,
            fetcher(allow_networks=LOOPBACK) as made,
        ):
            for _ in range(2):
                await made.fetch(f"http://127.0.0.1:{port}/", bytes_max=9, seconds_max=SECONDS)
        assert len(seen) == 2
        assert b"cookie" not in seen[1].lower()

    run(test)


def test_an_allowed_network_is_the_only_exception():
    """Its neighbours stay forbidden, and so do other ports of public hosts."""

    async def test():
        names = Names({"a.example.com": [PUBLIC], "b.example.com": ["127.0.0.1", PUBLIC]})
        recorder = Recorder()
        async with fetcher(
            resolver=names, open_socket=recorder, allow_networks=("127.0.0.1/32",)
        ) as made:
            for url, expected in {
                "http://127.0.0.1:1/": FetchFault.UNREACHABLE,
                "http://127.0.0.2:1/": FetchFault.FORBIDDEN,
                "http://127.0.0.2/": FetchFault.FORBIDDEN,
                "http://10.0.0.1/": FetchFault.FORBIDDEN,
                "http://a.example.com:8080/": FetchFault.FORBIDDEN,
                "http://b.example.com:8080/": FetchFault.FORBIDDEN,
                "http://localhost:1/": FetchFault.FORBIDDEN,
            }.items():
                fetch = made.fetch(url, bytes_max=9, seconds_max=SECONDS)
                assert await fault(fetch) is expected, url
        assert recorder.addresses == ["127.0.0.1"]

    run(test)


def test_no_text_has_anything_of_the_url():
    """A URL can be a secret: signatures are in its query."""

    async def test():
        async with fetcher(resolver=Names({}), allow_networks=LOOPBACK) as made:
            for url in (
                "http://secret.example.com/secret?secret=secret",
                "http://127.0.0.1:1/secret?secret",
                "http://secret@127.0.0.1/",
                "secret://secret",
                "http://secret:99999/",
            ):
                with pytest.raises(FetchRefused) as caught:
                    await made.fetch(url, bytes_max=9, seconds_max=SECONDS)
                assert "secret" not in str(caught.value)
                assert "secret" not in repr(caught.value.__cause__)

    run(test)


def test_the_system_resolver_answers():
    """The real one, with the one name that every system knows, and one that none has."""

    async def test():
        resolver = SystemResolver()
        assert {"127.0.0.1", "::1"} & set(await resolver.resolve("localhost"))
        with pytest.raises(OSError, match=r"."):
            await resolver.resolve("does-not-exist.invalid")
        resolver.close()

    run(test)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server with a certificate for `a.example.com`, and a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.example.com")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.example.com")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(file)
    return serving, ssl.create_default_context(cafile=str(file))


def test_a_certificate_is_checked_against_the_name(certificate):
    """And not against the address to which the connection goes."""
    serving, trusting = certificate
    asked: list[str | None] = []
    serving.sni_callback = lambda _socket, name, _context: asked.append(name)
    names = Names({"a.example.com": ["127.0.0.1"], "b.example.com": ["127.0.0.1"]})

    async def test():
        sent = answering(response("Content-Length: 2", body=b"ok"))
        async with server(sent, context=serving) as port:

            async def fetch(host: str, context: ssl.SSLContext | None) -> bytes:
                options = {"resolver": names, "allow_networks": LOOPBACK, "ssl_context": context}
                async with fetcher(**options) as made:
                    url = f"https://{host}:{port}/"
                    return await made.fetch(url, bytes_max=9, seconds_max=SECONDS)

            assert await fetch("a.example.com", trusting) == b"ok"
            assert asked == ["a.example.com"]
            for host, context in (
                ("b.example.com", trusting),
                ("127.0.0.1", trusting),
                ("a.example.com", None),
            ):
                assert await fault(fetch(host, context)) is FetchFault.UNREACHABLE

    run(test)
