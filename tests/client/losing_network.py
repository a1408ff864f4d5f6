"""A network between a client and a server that loses the first answer, after it was given."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

SECONDS_MAX = 10.0
WHOLE = (b"0\r\n\r\n", b"[DONE]\n\n", b"}")
"""How a whole answer ends: a stream as it is written, one that is given again, or JSON."""


@contextlib.contextmanager
def losing_first_answer(server: tuple[str, int]) -> Iterator[str]:
    """The URL of a relay to `server` whose first connection breaks instead of bringing an answer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        relay = threading.Thread(target=_relay, args=(listening, server), name="relay")
        relay.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            relay.join()


def _relay(listening: socket.socket, server: tuple[str, int]) -> None:
    loses = True
    while True:
        try:
            client, _ = listening.accept()
        except OSError:
            return
        with client, socket.create_connection(server, timeout=SECONDS_MAX) as behind:
            client.settimeout(SECONDS_MAX)
            behind.sendall(_request(client))
            answer = b""
            while not answer.endswith(WHOLE) and (piece := behind.recv(65536)):
                answer += piece
            if not loses:
                client.sendall(answer)
            loses = False


def _request(client: socket.socket) -> bytes:
    """One request with a body of declared length."""
    received = b""
    while True:
        head, end, body = received.partition(b"\r\n\r\n")
        if end:
            length = next(
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            )
            if len(body) >= length:
                return received
        piece = client.recv(65536)
        assert piece, "the client left in the middle of its request"
        received += piece
