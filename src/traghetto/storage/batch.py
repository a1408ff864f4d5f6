"""What one transaction writes: facts sorted by table, with deltas summed and short holds dropped.

Invariant: balances and key counters move by sums of the very entries written beside them, so a
projection cannot drift from the journal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from traghetto.money import Currency
from traghetto.storage.facts import (
    AccountSaved,
    AllocationSet,
    AnswerKept,
    AnswersExpired,
    Entry,
    EntryKind,
    Fact,
    HoldClosed,
    HoldExtended,
    HoldOpened,
    KeySaved,
    KeyUsed,
    PepperProved,
    UsageRecorded,
)

Statement = tuple[str, tuple[Any, ...]]
"""The name of a statement in `queries/write.sql`, and its parameters."""


class Batch:
    """The content of one transaction."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        self._accounts: dict[str, AccountSaved] = {}
        self._keys: dict[str, KeySaved] = {}
        self._key_uses: dict[str, KeyUsed] = {}
        self._pepper: PepperProved | None = None
        self._allocations: dict[str, AllocationSet] = {}
        self._entries: list[Entry] = []
        self._balances: defaultdict[tuple[str, Currency, str], int] = defaultdict(int)
        self._key_spends: defaultdict[tuple[str, Currency, str], int] = defaultdict(int)
        self._key_refunds: defaultdict[tuple[str, Currency, str], int] = defaultdict(int)
        self._usages: list[UsageRecorded] = []
        self._opened: dict[str, HoldOpened] = {}
        self._extended: dict[str, HoldExtended] = {}
        self._closed: list[HoldClosed] = []
        self._answers: list[AnswerKept] = []
        self._answers_expired: list[AnswersExpired] = []
        takers: dict[type[Any], Callable[[Any], None]] = {
            AccountSaved: self._take_account,
            KeySaved: self._take_key,
            KeyUsed: self._take_key_use,
            AnswerKept: self._answers.append,
            AnswersExpired: self._answers_expired.append,
            PepperProved: self._take_pepper,
            AllocationSet: self._take_allocation,
            Entry: self._take_entry,
            UsageRecorded: self._usages.append,
            HoldOpened: self._take_opened,
            HoldExtended: self._take_extended,
            HoldClosed: self._take_closed,
        }
        for fact in facts:
            takers[type(fact)](fact)

    def statements(self) -> Iterator[Statement]:
        """What to execute, parents before children.

        Rows travel as one JSON parameter for all of a kind, except kept answers: they are rare and
        large, and JSON has no bytes.
        """
        rows: tuple[tuple[str, list[Any]], ...] = (
            ("save_accounts", list(self._accounts.values())),
            ("save_pepper_proof", [] if self._pepper is None else [_hexadecimal(self._pepper)]),
            ("save_keys", [_hexadecimal(key) for key in self._keys.values()]),
            ("save_key_uses", list(self._key_uses.values())),
            ("save_allocations", list(self._allocations.values())),
            ("insert_entries", self._entries),
            ("move_balances", [(*key, amount) for key, amount in self._balances.items()]),
            ("add_key_spends", [(*key, amount) for key, amount in self._key_spends.items()]),
            ("take_back_key_spends", [(*key, sum_) for key, sum_ in self._key_refunds.items()]),
            ("insert_usages", self._usages),
            ("open_holds", list(self._opened.values())),
            ("extend_holds", list(self._extended.values())),
            ("close_holds", self._closed),
        )
        for name, values in rows:
            if values:
                yield name, (_ENCODER.encode(values).decode(),)
        for expired in self._answers_expired:
            yield "forget_answers", (expired.now_ns, expired.rows_max)
        for answer in self._answers:
            size = len(answer.sealed or b"")
            yield "keep_answer", (*msgspec.structs.astuple(answer), size)

    def _take_account(self, account: AccountSaved) -> None:
        self._accounts[account.id] = account

    def _take_key(self, key: KeySaved) -> None:
        self._keys[key.id] = key

    def _take_key_use(self, used: KeyUsed) -> None:
        self._key_uses[used.key_id] = used

    def _take_pepper(self, proved: PepperProved) -> None:
        self._pepper = proved

    def _take_allocation(self, allocation: AllocationSet) -> None:
        self._allocations[allocation.account_id] = allocation

    def _take_entry(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._balances[entry.account_id, entry.currency, entry.window] += entry.into_funds
        if entry.key_id is not None:
            sums = self._key_spends if entry.kind is EntryKind.CHARGE else self._key_refunds
            key_window = (entry.key_id, entry.currency.counted_as, entry.key_window)
            sums[key_window] += entry.key_spending

    def _take_opened(self, hold: HoldOpened) -> None:
        self._opened[hold.request_id] = hold

    def _take_extended(self, extension: HoldExtended) -> None:
        opened = self._opened.get(extension.request_id)
        if opened is None:
            self._extended[extension.request_id] = extension
        else:
            changed = msgspec.structs.replace(opened, amount=extension.amount)
            self._opened[extension.request_id] = changed

    def _take_closed(self, closed: HoldClosed) -> None:
        if self._opened.pop(closed.request_id, None) is None:
            self._extended.pop(closed.request_id, None)
            self._closed.append(closed)


def _hexadecimal(fact: msgspec.Struct) -> list[Any]:
    """The fact as a row; JSON has no bytes, so a digest travels in hexadecimal."""
    return [
        value.hex() if isinstance(value, bytes) else value
        for value in msgspec.structs.astuple(fact)
    ]


_ENCODER = msgspec.json.Encoder()
