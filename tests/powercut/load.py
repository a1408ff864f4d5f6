"""The work that power is cut under: many requests at once on the real book, and its operators.

A recording is the history of one machine between two power cuts: the store is opened, used, closed,
and opened and used again, on a disk that remembers everything. Its clients keep their own log of
what they were promised.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final
from unittest import mock

import apsw

from powercut.disk import Disk, Image
from powercut.lockstep import LockstepLoop, conduct, turns, writers_in_step
from powercut.vfs import recording_vfs
from support.books import NO_LIMITS, USD, account_row, charge, key_row
from traghetto.clock import ManualClock
from traghetto.errors import ApiError
from traghetto.ledger import book as book_module
from traghetto.ledger import journal
from traghetto.ledger.book import Book, day_window
from traghetto.money import Currency
from traghetto.storage import sqlite
from traghetto.storage.connector import Durable
from traghetto.storage.facts import Fact, StoredState
from traghetto.storage.sqlite import SqliteStore, open_read_only

ACCOUNTS: Final = ("a", "b", "c")
LIVES: Final = 2
SPENDERS: Final = 16
REQUESTS_PER_SPENDER: Final = 5
DEEDS_PER_OPERATOR: Final = 12
SNAPSHOTS_PER_LIFE: Final = 2
DAY_SECONDS: Final = 86_400

PAGES_PER_CHECKPOINT: Final = (10, 40, 1_000)
"""SQLite's default is the last, which lives as short as these never reach."""
LOG_BYTES_MAX: Final = (20_000, 100_000, sqlite.WAL_BYTES_MAX)
"""The store empties a longer log with a checkpoint of its own."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a client or an operator was told; true once `durable` has resolved."""

    subject: str
    """The request of a charge, the reason of a movement."""
    nano_usd: int
    durable: asyncio.Future[None]


@dataclass(eq=False)
class Recording:
    """What a machine did, and what it promised."""

    disk: Disk
    inherited: tuple[Fact, ...]
    """What is in the books on the image that it started with."""
    clock: ManualClock
    batches: dict[Durable, list[Fact]] = field(default_factory=dict)
    """What was submitted together, in order; the store gives every batch a future of its own."""
    acknowledged_at: dict[Durable, int] = field(default_factory=dict)
    """How many events had happened when the writer reported a batch durable."""
    promises: list[Promise] = field(default_factory=list)

    def acknowledged(self, events: int) -> int:
        """How many batches were acknowledged when `events` had happened."""
        return sum(at <= events for at in self.acknowledged_at.values())

    def facts(self, batches: int) -> tuple[Fact, ...]:
        """What is in the books after so many batches."""
        submitted = itertools.islice(self.batches.values(), batches)
        return (*self.inherited, *itertools.chain.from_iterable(submitted))


class WatchedStore:
    """A store that writes down what each of its batches holds; see `connector.Store`."""

    def __init__(self, store: SqliteStore, batches: dict[Durable, list[Fact]]) -> None:
        self._store = store
        self._batches = batches
        self.on_broken: Callable[[str], None] = store.on_broken

    @property
    def healthy(self) -> bool:
        return self._store.healthy

    def submit(self, facts: Sequence[Fact]) -> Durable:
        durable = self._store.submit(facts)
        self._batches.setdefault(durable, []).extend(facts)
        return durable

    def load(self, day: str) -> StoredState:
        return self._store.load(day)

    async def aclose(self) -> None:
        await self._store.aclose()


def record(
    seed: str,
    folder: Path,
    *,
    image: Image,
    inherited: tuple[Fact, ...] = (),
    clock: ManualClock | None = None,
) -> Recording:
    """Run a machine in `folder`, which is empty; `image` is what its disk holds at first."""
    for name, content in image.items():
        (folder / name).write_bytes(content)
    rng = random.Random(seed)
    recording = Recording(Disk(image), inherited, clock or ManualClock())
    numbers = itertools.count()
    name_movement = partial(_name, seed, numbers)
    with (
        recording_vfs(recording.disk) as vfs,
        writers_in_step(),
        mock.patch.object(sqlite, "WAL_BYTES_MAX", rng.choice(LOG_BYTES_MAX)),
        mock.patch.object(journal, "new_request_id", name_movement),
        mock.patch.object(book_module, "new_request_id", name_movement),
        asyncio.Runner(loop_factory=LockstepLoop) as runner,
    ):
        for life in range(LIVES):
            open_store = partial(SqliteStore, folder, vfs=vfs)
            runner.run(_live(open_store, folder, recording, rng, f"{seed}.{life}"))
    return recording


def _name(prefix: str, numbers: Iterator[int]) -> str:
    """Movements are named in their order: names of the machine's making would move every page."""
    return f"movement:{prefix}.{next(numbers)}"


async def _live(
    open_store: Callable[[], SqliteStore],
    folder: Path,
    recording: Recording,
    rng: random.Random,
    name: str,
) -> None:
    """From the opening of the store to its end; some requests leave their holds behind."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, LockstepLoop)
    disk = recording.disk
    loop.on_durable = lambda durable: recording.acknowledged_at.update({durable: len(disk.events)})
    store = open_store()
    try:
        store._connection.wal_autocheckpoint(rng.choice(PAGES_PER_CHECKPOINT))
        # Half of the lives end as if the process had been killed: the log stays as it is.
        killed = rng.random() < 0.5
        store._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, killed)
        watched = WatchedStore(store, recording.batches)
        state = store.load(day_window(recording.clock.utc_ns()))
        book = Book(watched, recording.clock, state, overdraft=rng.choice(("last", "never")))
        finished = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(conduct(store, rng, finished))
            recovery = book.recover()
            if recovery.durable is not None:
                await recovery.durable
            await _found(book, watched, {account.id for account in state.accounts})
            await Load(book, watched, folder, recording, rng, name).run()
            finished.set()
    finally:
        await store.aclose()


async def _found(book: Book, store: WatchedStore, known: set[str]) -> None:
    """Accounts with a key each and some money; a cut may have come after some of them."""
    for account in ACCOUNTS:
        if account in known:
            continue
        store.submit((account_row(account), key_row(f"k-{account}", account)))
        book.grant_diem(account, USD)
        await book.credit(account, 5 * USD, reason=f"welcome {account}")


class Load:
    """Everything that goes on in one life of a gateway."""

    def __init__(
        self,
        book: Book,
        store: WatchedStore,
        folder: Path,
        recording: Recording,
        rng: random.Random,
        name: str,
    ) -> None:
        self._book = book
        self._store = store
        self._folder = folder
        self._recording = recording
        self._rng = rng
        self._name = name

    async def run(self) -> None:
        """Return when everybody has done their part."""
        async with asyncio.TaskGroup() as group:
            for number in range(SPENDERS):
                group.create_task(self._spend(f"{self._name}.{number}", self._drawn_rng()))
            group.create_task(self._operate(f"{self._name}.operator", self._drawn_rng()))
            group.create_task(self._read(self._drawn_rng()))

    def _drawn_rng(self) -> random.Random:
        return random.Random(self._rng.getrandbits(64))

    def _promise(self, subject: str, nano_usd: int, durable: asyncio.Future[None]) -> None:
        self._recording.promises.append(Promise(subject, nano_usd, durable))

    async def _spend(self, name: str, rng: random.Random) -> None:
        """A client that sends one request after the other."""
        for number in range(REQUESTS_PER_SPENDER):
            await turns(rng, 10)
            with contextlib.suppress(ApiError):  # its account may have run out of money
                await self._request(f"{name}.{number}", rng)

    async def _request(self, request_id: str, rng: random.Random) -> None:
        """Streams write their hold and may grow it; a few requests are never ended by anybody."""
        account = rng.choice(ACCOUNTS)
        hold = self._book.reserve(
            request_id=request_id,
            account_id=account,
            key_id=f"k-{account}",
            limits=NO_LIMITS,
            upper_bound_nano_usd=rng.randrange(1, USD // 20),
        )
        if rng.random() < 0.6:
            written = hold.durable()
            await turns(rng, 6)
            while rng.random() < 0.5:
                hold.extend(rng.randrange(1, USD // 50))
                await turns(rng, 6)
            if rng.random() < 0.7:
                await written
        end = rng.random()
        if end < 0.08:
            return
        if end < 0.25:
            voided = hold.void()
            if voided is not None:
                await voided
            return
        amounts = [rng.randrange(USD // 40) for _ in range(rng.randrange(1, 4))]
        used = charge(request_id, *amounts, account_id=account, key_id=f"k-{account}")
        receipt = hold.settle(used)
        self._promise(request_id, receipt.charged_nano_usd, receipt.durable)
        await receipt.durable

    async def _operate(self, name: str, rng: random.Random) -> None:
        """An operator who moves money, changes accounts, and lives to see midnight."""
        for number in range(DEEDS_PER_OPERATOR):
            await turns(rng, 20)
            account, reason = rng.choice(ACCOUNTS), f"{name}.{number}"
            nano_usd = rng.randrange(1, 3 * USD)
            match rng.choice(("credit", "adjust", "grant", "key", "free", "midnight")):
                case "credit":
                    durable = self._book.credit(account, nano_usd, reason=reason)
                    self._promise(reason, nano_usd, durable)
                    await durable
                case "adjust":
                    durable = self._book.adjust(account, Currency.USD, -nano_usd, reason=reason)
                    self._promise(reason, -nano_usd, durable)
                    await durable
                case "grant":
                    await self._book.grant_diem(account, rng.choice((0, USD, 2 * USD, 3 * USD)))
                case "key":
                    await self._store.submit((key_row(f"k-{reason}", account),))
                case "free":
                    self._book.record_free(
                        charge(reason, account_id=account, key_id=f"k-{account}").usage
                    )
                case "midnight":
                    self._recording.clock.advance(DAY_SECONDS)

    async def _read(self, rng: random.Random) -> None:
        """A reader of a consistent view, which keeps checkpoints from finishing."""
        for _ in range(SNAPSHOTS_PER_LIFE):
            await turns(rng, 100)
            with open_read_only(self._folder) as snapshot:
                snapshot.load(day_window(0))
                await turns(rng, 60)
