"""How fast the ledger decides, and how long its decisions take to be on disk.

Run: `.venv/bin/python benchmarks/ledger.py [--seconds N]`. It prints, for FULL and NORMAL
durability: reserve + settle pairs per second with every pair awaiting both durable moments, the
p50 and p99 of the wait for a settlement, and the event loop's own time per pair.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from traghetto.clock import SystemClock
from traghetto.ids import new_request_id
from traghetto.ledger.book import Basis, Book, Charge, ChargeLine, Hold, Usage
from traghetto.ledger.verify import verify
from traghetto.ledger.windows import day_window
from traghetto.money import NANO_PER_USD, LimitPeriod, SpendLimits
from traghetto.storage.facts import AccountSaved, KeySaved
from traghetto.storage.memory import MemoryStore
from traghetto.storage.sqlite import SqliteStore, open_read_only

ACCOUNTS = 100
LIMITS = SpendLimits(usd_nano_usd=NANO_PER_USD * 1_000_000, period=LimitPeriod.LIFETIME)


def charge_of(request_id: str, account_id: str, key_id: str) -> Charge:
    usage = Usage(request_id, account_id, key_id, "m", 900, 200, 0, 0, Basis.BACKEND, True, 1)
    return Charge(
        (ChargeLine("input", 900, 450_000), ChargeLine("output", 200, 300_000)), usage, "v1"
    )


async def prepare(store: SqliteStore | MemoryStore) -> Book:
    clock = SystemClock()
    book = Book(store, clock, store.load(day_window(clock.utc_ns())))
    for number in range(ACCOUNTS):
        account, key = f"account-{number}", f"key-{number}"
        digest = number.to_bytes(32, "big")
        store.submit(
            (
                AccountSaved(account, account, False, False, False, False, "standard", (), 1),
                KeySaved(
                    key, account, "INFERENCE", "", "000000", LIMITS.usd_nano_usd, None,
                    LIMITS.period, "ALL", None, False, digest, 1, False,
                ),
            )
        )  # fmt: skip
        await book.credit(account, NANO_PER_USD * 100_000, reason="benchmark")
    return book


def reserve(book: Book, request_id: str, number: int) -> Hold:
    return book.reserve(
        request_id=request_id,
        account_id=f"account-{number % ACCOUNTS}",
        key_id=f"key-{number % ACCOUNTS}",
        limits=LIMITS,
        upper_bound_nano_usd=2_000_000,
    )


def reserve_and_settle(book: Book, number: int) -> None:
    request_id = new_request_id()
    hold = reserve(book, request_id, number)
    hold.settle(charge_of(request_id, hold.account_id, hold.key_id))


async def loop_time() -> float:
    """Microseconds of event-loop time per pair, the store's work left out."""
    book = await prepare(MemoryStore())
    slices, pairs_per_slice, spent = 200, 100, 0.0
    for _ in range(slices):
        begin = time.process_time()
        for number in range(pairs_per_slice):
            reserve_and_settle(book, number)
        spent += time.process_time() - begin
        await book.credit("account-0", 1, reason="benchmark")  # lets the store commit the slice
    return spent / slices / pairs_per_slice * 1e6


async def durable_pairs(
    durability: str, clients: int, seconds: float
) -> tuple[float, list[float], float]:
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder), durability=durability)  # type: ignore[arg-type]
        book = await prepare(store)
        waits: list[float] = []
        ends_at = time.monotonic() + seconds

        async def client(number: int) -> None:
            while time.monotonic() < ends_at:
                request_id = new_request_id()
                hold = reserve(book, request_id, number)
                await hold.durable()
                asked = time.perf_counter()
                charge = charge_of(request_id, hold.account_id, hold.key_id)
                await hold.settle(charge).durable
                waits.append(time.perf_counter() - asked)

        begin, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(client(number) for number in range(clients)))
        elapsed, cpu = time.monotonic() - begin, time.process_time() - cpu
        await store.aclose()
        with open_read_only(Path(folder)) as snapshot:
            differences = verify(snapshot).differences
        assert not differences, differences[:3]
        return len(waits) / elapsed, sorted(waits), cpu / len(waits) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    seconds: float = parser.parse_args().seconds
    print(f"event loop, reserve + settle: {asyncio.run(loop_time()):.1f} us per pair")
    print("durability  clients  pairs/s  wait p50 ms  wait p99 ms  CPU us/pair (both threads)")
    for durability in ("full", "normal"):
        for clients in (1, 64, 256):
            rate, waits, cpu = asyncio.run(durable_pairs(durability, clients, seconds))
            p50, p99 = (waits[int(len(waits) * part)] * 1e3 for part in (0.5, 0.99))
            print(
                f"{durability:10}  {clients:7}  {rate:7.0f}  {p50:11.2f}  {p99:11.2f}  {cpu:11.1f}"
            )


if __name__ == "__main__":
    main()
