"""Runs a seed: one set of books, on which a gateway is killed again and again amid requests."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crash.clients import Client, keep_crediting
from crash.history import ClientLog, Credit, End, Life, Moment
from crash.oracle import violations
from crash.scenario import (
    ACCOUNTS,
    CLIENTS,
    LIMITS,
    PERIODS,
    PLENTY,
    REPEATING_CLIENTS,
    SCARCE,
    Account,
    Key,
    Keys,
    configuration,
    policy_of,
    probe,
)
from crash.server import NotReady, Operator, Server, read_books
from traghetto.money import LimitPeriod, format_usd

LOAD_SECONDS = (0.1, 0.6)
"""How long clients ask before a kill."""
START_KILLS_SHARE = 0.15
START_KILL_SECONDS = (0.1, 0.5)
"""Some are killed while they start: in their imports, or in their recovery."""
NOTICE_SECONDS_MAX = 20.0
"""How long clients may take to notice that the gateway is gone."""


@dataclass(slots=True)
class Outcome:
    """What became of a seed."""

    seed: int
    log: ClientLog
    kills: int = 0
    orphans: int = 0
    """Holds that kills left behind."""
    violations: list[str] = field(default_factory=list)

    @property
    def complete(self) -> int:
        """Answers that clients received completely."""
        return sum(sent.end is End.COMPLETE for sent in self.log.sent)

    def report(self) -> str:
        """For people: what is wrong."""
        head = f"seed {self.seed}, after {self.kills} kills (overdraft = {self.log.policy!r}):"
        return "\n  ".join([head, *self.violations])


def run(seed: int, folder: Path, kills: int, *, bug: str | None = None) -> Outcome:
    """Kill a gateway `kills` times on books in `folder`, let a last one stop, and judge.

    It ends early at the first snapshot that is wrong.
    """
    return asyncio.run(_Run(seed, folder, bug).through(kills))


class _Run:
    """A seed under way."""

    def __init__(self, seed: int, folder: Path, bug: str | None) -> None:
        self._rng = random.Random(seed)
        self._folder, self._bug = folder, bug
        self._log = ClientLog(policy_of(seed))
        self._outcome = Outcome(seed, self._log)
        self._keys = Keys((), ())
        (folder / "traghetto.toml").write_text(configuration(self._log.policy))

    async def through(self, kills: int) -> Outcome:
        """Live `kills` lives that end in one, and a last one that does not."""
        for number in range(kills + 1):
            life = Life(number, time.time_ns())
            self._log.lives.append(life)
            server = Server(self._folder, life, self._bug)
            try:
                if 0 < number < kills and self._rng.random() < START_KILLS_SHARE:
                    await self._die_starting(server)
                else:
                    await self._live(server, is_last=number == kills, lives=kills + 1)
            except NotReady as silence:
                self._outcome.violations.append(f"life {number} did not start: {silence}")
            finally:
                server.close()
            if self._outcome.violations:
                break
        return self._outcome

    async def _die_starting(self, server: Server) -> None:
        starting = asyncio.create_task(server.ready())
        await asyncio.wait({starting}, timeout=self._rng.uniform(*START_KILL_SECONDS))
        server.kill()
        with contextlib.suppress(NotReady):
            await starting
        self._judge(server, Moment.KILLED)

    async def _live(self, server: Server, *, is_last: bool, lives: int) -> None:
        await server.ready()
        self._judge(server, Moment.STARTED)
        if self._outcome.violations:
            return
        operator = await Operator.of(server.data_dir)
        if not self._keys.open:
            await self._open_accounts(operator, lives)
        await self._look(server)
        enough = asyncio.Event()
        crowd = asyncio.gather(*self._crowd(server, operator, enough))
        await asyncio.sleep(self._rng.uniform(*LOAD_SECONDS))
        if is_last:
            enough.set()
        else:
            server.kill()
        with contextlib.suppress(TimeoutError):  # the log then has requests that never ended
            await asyncio.wait_for(crowd, NOTICE_SECONDS_MAX)
        operator.close()
        if is_last:
            server.stop()
        self._judge(server, Moment.STOPPED if is_last else Moment.KILLED)

    async def _open_accounts(self, operator: Operator, lives: int) -> None:
        keys = []
        for account in ACCOUNTS:
            shown = await operator.perform(
                "accounts.create",
                name=account.name,
                usd=format_usd(account.usd),
                diem=format_usd(account.diem),
            )
            self._log.accounts[shown["id"]] = account
            first = Credit(shown["id"], account.usd, "first credit", acknowledged=True)
            self._log.credits.append(first)
            keys.append(await self._new_key(operator, account))
        limited = [
            await self._new_key(operator, PLENTY, limit, period)
            for limit, period in itertools.islice(
                zip(itertools.cycle(LIMITS), itertools.cycle(PERIODS)), lives
            )
        ]
        self._keys = Keys(tuple(keys), tuple(limited))

    async def _new_key(
        self,
        operator: Operator,
        account: Account,
        limit: int | None = None,
        period: LimitPeriod = LimitPeriod.EPOCH,
    ) -> Key:
        members = {} if limit is None else {"limit_usd": format_usd(limit)}
        created = await operator.perform(
            "keys.create", account=account.name, period=period.value, **members
        )
        key = Key(
            id=created["key"]["id"],
            secret=created["secret"],
            account_id=self._account_id(account),
            limit_usd=limit,
            period=period,
            pays_in_full=account is PLENTY and limit is None,
        )
        self._log.keys.append(key)
        return key

    def _account_id(self, wanted: Account) -> str:
        return next(id_ for id_, account in self._log.accounts.items() if account is wanted)

    async def _look(self, server: Server) -> None:
        """Ask once with each key, while nothing else is under way."""
        client = Client(server.address, server.life.number, self._log)
        for key in self._keys.of_life(server.life.number):
            sent = await client.send(probe(key))
            assert sent is not None, "a gateway that is ready accepts connections"
            self._log.probes.append(sent)
        client.hang_up()

    def _crowd(
        self, server: Server, operator: Operator, enough: asyncio.Event
    ) -> list[Coroutine[Any, Any, None]]:
        life = server.life.number
        keys = self._keys.of_life(life)
        seeds = [random.Random(self._rng.getrandbits(64)) for _ in range(CLIENTS)]
        asking = [
            Client(server.address, life, self._log).keep_asking(rng, number, keys, enough)
            for number, rng in enumerate(seeds)
        ]
        repeating = [
            Client(server.address, life, self._log).keep_asking_once(
                random.Random(self._rng.getrandbits(64)), number, self._keys.open[0], enough
            )
            for number in range(REPEATING_CLIENTS)
        ]
        account_id = self._account_id(SCARCE)
        crediting = keep_crediting(operator, account_id, self._log, enough)
        return [*asking, *repeating, crediting]

    def _judge(self, server: Server, moment: Moment) -> None:
        books = read_books(server.data_dir, moment)
        if moment is Moment.KILLED:
            self._outcome.kills += 1
            born = server.life.started_ns
            self._outcome.orphans += sum(hold.created_ns >= born for hold in books.holds)
        self._outcome.violations += violations(self._log, books)
