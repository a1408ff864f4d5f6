"""Bugs that a gateway could have, put into one that is to be killed: the oracle must see each.

`python -m crash.seeded_bugs NAME serve ...` is `traghetto serve ...` with a bug in it. What a bug
writes is consistent with itself wherever it can be: that the books balance proves little.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import msgspec

from simulation.seeded_bugs import answer_before_durable, forget_holds_of_a_crash
from traghetto.cli import main
from traghetto.errors import ApiError
from traghetto.ids import new_request_id
from traghetto.ledger.book import Basis, Book, Charge, ChargeLine, Hold, Receipt, Recovery, Usage
from traghetto.money import SpendLimits
from traghetto.storage.facts import AnswerKept, Entry, Fact, HoldOpened, StoredState
from traghetto.storage.sqlite import SqliteStore

BATCHES_BEHIND = 50

Bug = Callable[[], AbstractContextManager[Any]]


def charge_again_under_another_id() -> AbstractContextManager[Any]:
    """A settlement is made twice, and the second time it looks like a request of its own."""
    good = Hold.settle

    def settle(hold: Hold, charge: Charge, *rest: Any) -> Receipt:
        receipt = good(hold, charge, *rest)
        with contextlib.suppress(ApiError):  # it was the last that could be spent
            again = _hold_like(hold, hold.keeper, new_request_id(), receipt.charged_nano_usd)
            usage = msgspec.structs.replace(charge.usage, request_id=again.request_id)
            good(again, msgspec.structs.replace(charge, usage=usage))
        return receipt

    return mock.patch.object(Hold, "settle", settle)


def charge_the_holds_of_a_crash() -> AbstractContextManager[Any]:
    """A start takes what the holds that it finds have held, as if their streams had ended well."""
    good = Book.recover

    def recover(book: Book) -> Recovery:
        orphans = book._orphans
        recovery = good(book)
        for orphan in orphans:
            with contextlib.suppress(ApiError):
                hold = _hold_like(orphan, book, orphan.request_id, orphan.amount)
                usage = Usage(
                    request_id=orphan.request_id,
                    account_id=orphan.account_id,
                    key_id=orphan.key_id,
                    model="paced",
                    prompt_tokens=8,
                    completion_tokens=1,
                    cached_tokens=0,
                    reasoning_tokens=0,
                    basis=Basis.COUNTED,
                    streamed=True,
                    created_ns=orphan.created_ns,
                )
                hold.settle(Charge((ChargeLine("prompt", 8, orphan.amount),), usage, ""))
        return recovery

    return mock.patch.object(Book, "recover", recover)


def forget_what_keys_have_spent() -> AbstractContextManager[Any]:
    """A start counts the spending of keys from nothing."""
    good = SqliteStore.load

    def load(store: SqliteStore, day: str) -> StoredState:
        return msgspec.structs.replace(good(store, day), key_spends=(), key_lifetimes=())

    return mock.patch.object(SqliteStore, "load", load)


def write_charges_with_the_next_batch() -> AbstractContextManager[Any]:
    """Usage is written at once, the charge that belongs to it a moment later."""
    good = SqliteStore._commit
    waiting: list[Fact] = []

    def commit(store: SqliteStore, facts: list[Fact]) -> None:
        late = [fact for fact in facts if isinstance(fact, Entry) and fact.key_id is not None]
        others = [fact for fact in facts if not isinstance(fact, Entry) or fact.key_id is None]
        good(store, [*waiting, *others])
        waiting[:] = late

    return mock.patch.object(SqliteStore, "_commit", commit)


def keep_answers_in_later_batches() -> AbstractContextManager[Any]:
    """A charge is on disk before the answer that belongs to it can be given again."""
    good = SqliteStore._commit
    waiting: deque[list[Fact]] = deque([[] for _ in range(BATCHES_BEHIND)])

    def commit(store: SqliteStore, facts: list[Fact]) -> None:
        waiting.append([fact for fact in facts if isinstance(fact, AnswerKept)])
        others = [fact for fact in facts if not isinstance(fact, AnswerKept)]
        good(store, [*waiting.popleft(), *others])

    return mock.patch.object(SqliteStore, "_commit", commit)


def _hold_like(like: Hold | HoldOpened, book: Any, request_id: str, nano_usd: int) -> Hold:
    """A new hold for the account and key of another; raises ApiError if funds refuse."""
    hold: Hold = book.reserve(
        request_id=request_id,
        account_id=like.account_id,
        key_id=like.key_id,
        limits=SpendLimits(),
        upper_bound_nano_usd=nano_usd,
    )
    return hold


BUGS: dict[Bug, tuple[str, ...]] = {
    answer_before_durable: ("0 usage records", "executed again"),
    charge_again_under_another_id: ("but nobody asked for it",),
    charge_the_holds_of_a_crash: ("the price list says",),
    forget_holds_of_a_crash: ("after a start",),
    forget_what_keys_have_spent: ("it could spend",),
    write_charges_with_the_next_batch: ("ledger verify",),
    keep_answers_in_later_batches: ("charged again",),
}
"""With the words in which the oracle sees each, one of which is enough."""

if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    with next(bug for bug in BUGS if bug.__name__ == name)():
        main(arguments)
