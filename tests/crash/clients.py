"""Clients of the gateway over real sockets, and the log that each of them keeps.

They are cheap on purpose, because they share the processors with the gateway: what arrives is only
collected, and looked at once, when the request has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from decimal import Decimal
from typing import Any

from crash.history import ClientLog, Credit, End, Sent
from crash.scenario import CREDIT, REPEATED_MAX, USD, Key, Request, draw_keyed, draw_wish
from crash.server import Operator
from traghetto.money import Currency

LAST_CHUNK = b"\r\n0\r\n\r\n"
READ_BYTES = 64 * 1024
REFUSED_PAUSE_SECONDS = 0.05
CREDIT_SECONDS = 0.06
"""Between two credits."""

Address = tuple[str, int]


class Client:
    """One client with at most one connection, which it keeps as long as it can."""

    def __init__(self, address: Address, life: int, log: ClientLog) -> None:
        self._address, self._life, self._log = address, life, log
        self._line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def keep_asking(
        self, rng: random.Random, number: int, keys: tuple[Key, ...], enough: asyncio.Event
    ) -> None:
        """Ask for one thing after the other until the gateway is gone, or it is enough."""
        try:
            for count in itertools.count():
                if enough.is_set():
                    return
                wish = draw_wish(rng, number, count, keys)
                sent = await self.send(wish.request, wish.patience_seconds)
                if sent is None or sent.end is End.CUT:
                    return
                refused = sent.end is End.REFUSED
                await asyncio.sleep(wish.pause_seconds + refused * REFUSED_PAUSE_SECONDS)
        finally:
            self.hang_up()

    async def keep_asking_once(
        self, rng: random.Random, number: int, key: Key, enough: asyncio.Event
    ) -> None:
        """Repeat what this client sent in the life before, then ask under fresh keys."""
        earlier = [
            sent.request
            for sent in self._log.sent
            if sent.request.idempotency_key is not None
            and sent.request.idempotency_key.startswith(f"client-{number}-")
        ]
        # The last one may have been cut; of the others some, in any order.
        repeated = [*earlier[-1:], *rng.sample(earlier, min(len(earlier), REPEATED_MAX - 1))]
        fresh = (draw_keyed(rng, number, self._life, count, key) for count in itertools.count())
        try:
            for request in itertools.chain(repeated, fresh):
                if enough.is_set():
                    return
                sent = await self.send(request)
                if sent is None or sent.end is End.CUT:
                    return
        finally:
            self.hang_up()

    async def send(self, request: Request, patience_seconds: float | None = None) -> Sent | None:
        """What became of one sending of `request`; None if nobody was there to be asked."""
        if self._line is None:
            try:
                self._line = await asyncio.open_connection(*self._address)
            except OSError:
                return None
        reader, writer = self._line
        sent = Sent(request, self._life, time.time_ns())
        self._log.sent.append(sent)
        answer = _Answer(sent)
        try:
            writer.write(request.payload())
            async with asyncio.timeout(patience_seconds):
                await answer.receive(reader)
        except TimeoutError:
            sent.end = End.LEFT
            self.hang_up()
        except (OSError, asyncio.IncompleteReadError):
            sent.end = End.CUT
            self.hang_up()
        sent.ended_ns = time.time_ns()
        answer.conclude()
        return sent

    def hang_up(self) -> None:
        """Close the connection now, wherever it stands."""
        if self._line is not None:
            self._line[1].transport.abort()
            self._line = None


class _Answer:
    """The bytes of an answer, until they are written down in the log."""

    def __init__(self, sent: Sent) -> None:
        self._sent = sent
        self._body = bytearray()
        self._chunked = False

    async def receive(self, reader: asyncio.StreamReader) -> None:
        """Read to the end of the answer; raises IncompleteReadError if there is none."""
        head = await reader.readuntil(b"\r\n\r\n")
        headers = self._read_head(head.decode("latin-1"))
        body = self._body
        if (length := headers.get("content-length")) is not None:
            body += await reader.readexactly(int(length))
            return
        self._chunked = True
        while not body.endswith(LAST_CHUNK):
            piece = await reader.read(READ_BYTES)
            if not piece:
                raise asyncio.IncompleteReadError(b"", None)
            body += piece

    def _read_head(self, head: str) -> dict[str, str]:
        status_line, *lines = head.rstrip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        sent = self._sent
        sent.status = int(status_line.split(" ")[1])
        sent.request_id = headers["x-request-id"]
        sent.replayed = headers.get("idempotent-replayed") == "true"
        for currency in Currency:
            amount = headers.get(f"x-venice-balance-{currency.value.lower()}")
            if amount is not None:
                sent.spendable[currency] = _nano(amount)
        return headers

    def conclude(self) -> None:
        """Write down what the answer said, as far as it came."""
        sent = self._sent
        if sent.status not in {0, 200}:
            if sent.end is End.OPEN:
                sent.end = End.REFUSED
            return
        if self._chunked:
            self._body = bytearray(_unchunked(self._body))
        if sent.request.idempotency_key is not None:
            sent.content = bytes(self._body)
        said_done = self._read_stream() if sent.request.stream else self._read_whole()
        if said_done and sent.cost and sent.tokens is not None:
            # Also if the client hung up, or the gateway died, right behind it.
            sent.end = End.COMPLETE
        elif sent.end is End.OPEN:
            sent.end = End.BROKEN

    def _read_whole(self) -> bool:
        if not self._body:
            return False
        answer = json.loads(self._body, parse_float=Decimal)
        self._note(answer)
        self._sent.output = self._sent.tokens[1] if self._sent.tokens else 0
        return True

    def _read_stream(self) -> bool:
        """Whether it said `[DONE]`, and no error before it."""
        *frames, _ = self._body.split(b"\n\n")
        for frame in frames:
            payload = frame.removeprefix(b"data: ")
            if payload == b"[DONE]":
                return True
            if payload.startswith(b":"):
                continue
            event = json.loads(payload, parse_float=Decimal)
            if "error" in event:
                return False
            self._note(event)
            for choice in event.get("choices", ()):
                self._sent.output += bool(choice["delta"].get("content"))
        return False

    def _note(self, said: dict[str, Any]) -> None:
        if (usage := said.get("usage")) is not None:
            self._sent.tokens = (usage["prompt_tokens"], usage["completion_tokens"])
        if (cost := said.get("cost")) is not None:
            self._sent.cost = {Currency(name.upper()): _nano(part) for name, part in cost.items()}


async def keep_crediting(
    operator: Operator, account_id: str, log: ClientLog, enough: asyncio.Event
) -> None:
    """Add money to an account again and again, each time under a name of its own."""
    with contextlib.suppress(OSError):
        while not enough.is_set():
            credit = Credit(account_id, CREDIT, f"credit {len(log.credits)}")
            log.credits.append(credit)
            await operator.perform(
                "accounts.credit",
                account=account_id,
                usd=str(Decimal(CREDIT) / USD),
                reason=credit.reason,
            )
            credit.acknowledged = True
            await asyncio.sleep(CREDIT_SECONDS)


def _unchunked(body: bytes | bytearray) -> bytes:
    """The content of a chunked body; a last chunk that was cut is kept as far as it came."""
    content, at = b"", 0
    while (end := body.find(b"\r\n", at)) > 0:
        size = int(body[at:end], 16)
        content += body[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
    return content


def _nano(usd: Any) -> int:
    """An amount of USD or DIEM in nano_usd; fails if it is not exact."""
    nano = Decimal(usd) * USD
    assert nano == int(nano), usd
    return int(nano)
