"""The oracle on a small history that is true, and on lies about it: each rule sees its own.

The bugs of `seeded_bugs` show that whole gateways are seen through; here is every rule that none
of them breaks as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest

from crash.history import Books, ClientLog, Credit, End, Life, Moment, Sent
from crash.oracle import SECOND, violations
from crash.scenario import (
    BRISK,
    HOLD_SECONDS,
    PACED,
    PLENTY,
    PROBE_WORDS,
    READY_SECONDS_MAX,
    SILENT,
    USD,
    Key,
    Model,
    Request,
    probe,
)
from traghetto.ledger.charges import Basis, Usage
from traghetto.ledger.journal import usage_row
from traghetto.money import Currency, LimitPeriod
from traghetto.storage.facts import (
    FUNDING,
    FUNDS,
    REVENUE,
    BalanceRow,
    Entry,
    EntryKind,
    HoldOpened,
    UsageRecorded,
)

NOON = 1_795_435_200 * SECOND
"""Of 2026-11-23, UTC."""
DAY = "E:2026-11-23"
OPEN = Key("open", "", "a", None, LimitPeriod.EPOCH, pays_in_full=True)
LIMITED = Key("limited", "", "a", USD, LimitPeriod.MONTH, pays_in_full=False)
NO_DIEM = {Currency.DIEM: 0}


def at(seconds: float) -> int:
    return NOON + round(seconds * SECOND)


@dataclass
class Story:
    """A log and the books that it should agree with; lies are told by changing either."""

    log: ClientLog
    books: Books

    def sent(self, name: str) -> Sent:
        return next(sent for sent in self.log.sent if sent.request_id == name)

    def change(self, rows: str, name: str, **members: Any) -> None:
        """Change what a table of the books has of a request."""
        changed = [
            msgspec.structs.replace(row, **members) if row.request_id == name else row
            for row in getattr(self.books, rows)
        ]
        self.write(**{rows: tuple(changed)})

    def drop(self, name: str) -> None:
        """Take a request out of every table."""
        for rows in ("usages", "entries", "holds"):
            found = getattr(self.books, rows)
            self.write(**{rows: tuple(row for row in found if row.request_id != name)})

    def add(self, *rows: Any) -> None:
        """Write rows into the tables where they belong."""
        tables = ((Entry, "entries"), (UsageRecorded, "usages"), (HoldOpened, "holds"))
        for row in rows:
            table = next(name for kind, name in tables if isinstance(row, kind))
            self.write(**{table: (*getattr(self.books, table), row)})

    def write(self, **members: Any) -> None:
        """Replace whole tables, or what else a snapshot has."""
        self.books = replace(self.books, **members)

    def balance(self) -> None:
        """Make the balance what the entries say."""
        amount = sum(e.amount if e.credit == FUNDS else -e.amount for e in self.books.entries)
        self.write(balances=(BalanceRow("a", Currency.USD, "", amount),))

    def violations(self) -> list[str]:
        return violations(self.log, self.books)


def usage(
    name: str,
    model: Model,
    words: int,
    tokens: int,
    *,
    key: Key = OPEN,
    stream: bool = True,
    seconds: float,
) -> UsageRecorded:
    request = Request(key, model, stream, words, tokens)
    used = Usage(
        request_id=name,
        account_id="a",
        key_id=key.id,
        model=model.id,
        prompt_tokens=request.prompt_tokens,
        completion_tokens=tokens,
        cached_tokens=0,
        reasoning_tokens=0,
        basis=Basis.BACKEND,
        streamed=stream,
        created_ns=at(seconds),
    )
    return usage_row(used, Currency.USD, request.bound, request.bound)


def charge(row: UsageRecorded) -> Entry:
    return Entry(
        row.request_id, EntryKind.CHARGE, "completion", "a", FUNDS, REVENUE, Currency.USD, "",
        row.charged, 1, row.key_id, DAY, "", row.created_ns, "",
    )  # fmt: skip


def credit(reason: str, amount: int, seconds: float) -> Entry:
    return Entry(
        f"id of {reason}", EntryKind.CREDIT, "", "a", FUNDING, FUNDS, Currency.USD, "", amount, 0,
        None, "", "", at(seconds), reason,
    )  # fmt: skip


def hold(name: str, seconds: float) -> HoldOpened:
    expires_ns = at(seconds) + HOLD_SECONDS * SECOND
    return HoldOpened(
        name, "a", "open", Currency.USD, "", DAY, USD, at(seconds), expires_ns
    )  # fmt: skip


def told(
    name: str,
    end: End,
    request: Request,
    sent: float,
    ended: float,
    *,
    life: int,
    status: int = 200,
) -> Sent:
    return Sent(request, life, at(sent), status, name, end=end, ended_ns=at(ended))


@pytest.fixture
def story() -> Story:
    """A life that is killed, a second one that is stopped, and one request of every kind."""
    log = ClientLog("last", {"a": PLENTY}, [OPEN, LIMITED])
    log.lives = [
        Life(0, at(0), 0.4, kill_ns=at(5), ended_ns=at(5.01)),
        Life(1, at(6), 0.4, ended_ns=at(9)),
    ]
    log.credits = [
        Credit("a", USD, "first", acknowledged=True),
        Credit("a", USD, "cut", acknowledged=False),
    ]
    complete = told("complete", End.COMPLETE, Request(OPEN, BRISK, True, 1, 4), 1, 1.1, life=0)
    complete.output, complete.tokens = 4, (8, 4)
    complete.cost = NO_DIEM | {Currency.USD: BRISK.price(8, 4)}
    refused = told(
        "refused", End.REFUSED, Request(OPEN, BRISK, True, 2, 4), 1, 1.1, life=0, status=402
    )
    limited = Request(LIMITED, PACED, True, 3, 200)
    left = told("left", End.LEFT, limited, 7, 7.4, life=1)
    left.output = 8
    cut = told("cut", End.CUT, Request(OPEN, PACED, True, 4, 20), 4.8, 5.02, life=0)
    cut.output = 3
    nameless = told("", End.CUT, Request(OPEN, PACED, True, 5, 20), 4.95, 5.02, life=0, status=0)
    first = told("probe", End.COMPLETE, probe(OPEN), 6.5, 6.6, life=1)
    first.tokens = (first.request.prompt_tokens, 1)
    first.cost = NO_DIEM | {Currency.USD: first.request.bound}
    first.spendable = {Currency.USD: USD - BRISK.price(8, 4)}
    log.sent = [complete, refused, cut, nameless, first, left]
    log.probes = [first]
    rows = (
        usage("complete", BRISK, 1, 4, seconds=1.05),
        usage("probe", BRISK, first.request.words, 1, stream=False, seconds=6.55),
        usage("left", PACED, 3, 10, key=LIMITED, seconds=7.41),
    )
    books = Books(Moment.STOPPED, at(9.1), (credit("first", USD, 0.5),), (), (), (), ())
    story = Story(log, books)
    story.add(*rows, *map(charge, rows))
    story.balance()
    return story


def test_a_true_history_has_no_violation(story: Story) -> None:
    """Else the lies below would prove nothing."""
    assert story.violations() == []


def test_a_kill_may_leave_the_holds_of_those_it_cut(story: Story) -> None:
    """Known and nameless streams of the process that was killed, each with its one hold."""
    killed(story)
    story.add(hold("cut", 4.81), hold("unheard of", 4.96))
    assert story.violations() == []


def test_what_nobody_was_told_may_be_there_or_not(story: Story) -> None:
    """A cut request is charged at most once, a credit without an answer is there at most once."""
    row = usage("unheard of", PACED, 5, 20, seconds=5.0)
    story.log.sent[-2].spendable[Currency.USD] += USD - row.charged
    story.add(row, charge(row), credit("cut", USD, 4.9))
    story.balance()
    assert story.violations() == []


def killed(story: Story) -> None:
    """Go back to the moment after the kill."""
    story.log.lives.pop()
    story.log.probes.clear()
    story.drop("probe")
    story.drop("left")
    story.balance()
    story.log.sent = [sent for sent in story.log.sent if sent.life == 0]
    story.write(moment=Moment.KILLED, read_ns=at(5.1))


# Lies


def lost_charge(story: Story) -> None:
    story.drop("complete")


def charge_under_another_id(story: Story) -> None:
    row = usage("another", BRISK, 1, 4, seconds=1.06)
    story.add(row, charge(row))


def second_record(story: Story) -> None:
    story.add(usage("complete", BRISK, 1, 4, seconds=1.05))


def second_entry(story: Story) -> None:
    story.add(charge(usage("complete", BRISK, 1, 4, seconds=1.05)))


def charge_without_usage(story: Story) -> None:
    story.add(charge(usage("cut", PACED, 4, 3, seconds=5.0)))


def other_cost(story: Story) -> None:
    story.sent("complete").cost[Currency.USD] += 1


def other_tokens(story: Story) -> None:
    story.sent("complete").tokens = (8, 5)


def charged_refusal(story: Story) -> None:
    row = usage("refused", BRISK, 2, 4, seconds=1.05)
    story.add(row, charge(row))


def nameless_charged_twice(story: Story) -> None:
    for name in ("one", "two"):
        row = usage(name, PACED, 5, 1, seconds=5.0)
        story.add(row, charge(row))


def charged_for_less_than_received(story: Story) -> None:
    row = usage("cut", PACED, 4, 2, seconds=5.0)
    story.add(row, charge(row))


def charged_for_more_than_was_asked_for(story: Story) -> None:
    row = usage("cut", PACED, 4, 21, seconds=5.0)
    story.add(row, charge(row))


def charged_for_half_of_it(story: Story) -> None:
    row = usage("cut", PACED, 4, 3, seconds=5.0)
    story.add(row, charge(row))


def other_prompt(story: Story) -> None:
    row = usage("cut", PACED, 5, 3, seconds=5.0)
    story.add(row, charge(row))


def other_key(story: Story) -> None:
    row = usage("cut", PACED, 4, 3, key=LIMITED, seconds=5.0)
    story.add(row, charge(row))


def other_price(story: Story) -> None:
    story.change("usages", "complete", priced=1)


def less_than_the_price(story: Story) -> None:
    story.change("usages", "complete", charged=1)


def charged_by_the_next_life(story: Story) -> None:
    row = usage("cut", PACED, 4, 3, seconds=6.3)
    story.add(row, charge(row))


def charged_too_early(story: Story) -> None:
    row = usage("cut", PACED, 4, 3, seconds=4.801)
    story.add(row, charge(row))


def charged_for_silence(story: Story) -> None:
    story.sent("cut").request = Request(OPEN, SILENT, True, 4, 20)
    row = usage("cut", SILENT, 4, 3, seconds=5.0)
    story.add(row, charge(row))


def left_for_nothing(story: Story) -> None:
    story.drop("left")


def lost_credit(story: Story) -> None:
    story.drop("id of first")


def doubled_credit(story: Story) -> None:
    story.add(credit("first", USD, 0.5))


def invented_credit(story: Story) -> None:
    story.add(credit("gift", USD, 0.5))


def invented_adjustment(story: Story) -> None:
    row = credit("correction", USD, 0.5)
    story.add(msgspec.structs.replace(row, kind=EntryKind.ADJUST))


def invented_grant(story: Story) -> None:
    row = msgspec.structs.replace(
        credit("", USD, 0.5), kind=EntryKind.DIEM_GRANT, currency=Currency.DIEM, window=DAY
    )
    story.add(row)


def other_balance(story: Story) -> None:
    story.write(balances=(BalanceRow("a", Currency.USD, "", 5),))


def below_zero(story: Story) -> None:
    story.change("entries", "id of first", amount=1)
    story.balance()


def below_zero_by_any_amount(story: Story) -> None:
    story.log.policy = "never"
    story.change("entries", "id of first", amount=BRISK.price(8, 4) + 1)
    story.balance()


def limit_passed(story: Story) -> None:
    more = usage("more", PACED, 3, 400, key=LIMITED, seconds=7.41)
    story.add(msgspec.structs.replace(charge(more), amount=USD))
    story.change("entries", "left", amount=USD)


def limit_passed_by_any_amount(story: Story) -> None:
    story.log.policy = "never"
    story.change("entries", "left", amount=USD + 1)


def hold_after_a_stop(story: Story) -> None:
    story.add(hold("cut", 4.81))


def hold_after_a_start(story: Story) -> None:
    killed(story)
    story.write(moment=Moment.STARTED)
    story.add(hold("cut", 4.81))


def hold_of_a_complete_answer(story: Story) -> None:
    killed(story)
    story.add(hold("complete", 1.0))


def hold_of_an_earlier_process(story: Story) -> None:
    killed(story)
    story.add(hold("cut", -1.0))


def hold_of_nobody(story: Story) -> None:
    killed(story)
    story.add(hold("one", 4.96), hold("two", 4.96))


def hold_for_ever(story: Story) -> None:
    killed(story)
    story.add(msgspec.structs.replace(hold("cut", 4.81), expires_ns=at(10**6)))


def hold_beyond_its_time(story: Story) -> None:
    killed(story)
    story.add(hold("cut", 4.81))
    story.write(read_ns=at(5 + HOLD_SECONDS))


def slow_start(story: Story) -> None:
    story.log.lives[1].ready_seconds = READY_SECONDS_MAX + 1


def failed_probe(story: Story) -> None:
    story.log.probes[0].status = 500


def refused_probe(story: Story) -> None:
    story.log.probes[0].status = 402


def funds_still_held(story: Story) -> None:
    story.log.probes[0].spendable[Currency.USD] -= 1


def unanswered(story: Story) -> None:
    story.sent("cut").end = End.OPEN


def broken(story: Story) -> None:
    story.sent("cut").end = End.BROKEN


def failed(story: Story) -> None:
    story.sent("refused").status = 500


def cut_by_the_living(story: Story) -> None:
    story.sent("left").end = End.CUT


def one_id_for_two(story: Story) -> None:
    story.sent("refused").request_id = "complete"


def unproved(story: Story) -> None:
    story.write(differences=("a difference",))


KEYED = Request(
    OPEN, BRISK, False, PROBE_WORDS + 9, 4, headers=(("idempotency-key", "client-1-life-0-0"),)
)


def repeated(story: Story, name: str, *, replayed: bool, content: bytes = b"the answer") -> Sent:
    """One more sending of a keyed request, after the restart."""
    sent = told(name, End.COMPLETE, KEYED, 7.5, 7.6, life=1)
    sent.replayed, sent.content = replayed, content
    sent.tokens = (KEYED.prompt_tokens, 4)
    sent.cost = NO_DIEM | {Currency.USD: KEYED.bound}
    story.log.sent.append(sent)
    return sent


def keyed(story: Story, name: str, *, seconds: float = 1.05) -> None:
    """A keyed request was answered or cut, and charged."""
    row = usage(name or "strange", BRISK, KEYED.words, 4, stream=False, seconds=seconds)
    story.add(row, charge(row))
    story.balance()


def first_keyed(story: Story, name: str = "keyed") -> None:
    """The first sending, complete and charged."""
    sent = told(name, End.COMPLETE, KEYED, 1, 1.1, life=0)
    sent.content, sent.tokens = b"the answer", (KEYED.prompt_tokens, 4)
    sent.cost = NO_DIEM | {Currency.USD: KEYED.bound}
    story.log.sent.append(sent)
    keyed(story, name)


def test_a_repetition_may_be_a_replay(story: Story) -> None:
    """After a complete answer, the same one for nothing."""
    first_keyed(story)
    repeated(story, "again", replayed=True)
    assert not [words for words in story.violations() if "again" in words]


def test_a_repetition_may_be_the_first_to_be_charged(story: Story) -> None:
    """After a request that was cut, and of which nothing is in the books."""
    story.log.sent.append(told("", End.CUT, KEYED, 4.97, 5.02, life=0, status=0))
    repeated(story, "afresh", replayed=False)
    keyed(story, "afresh", seconds=7.55)
    assert not [words for words in story.violations() if "afresh" in words]


def executed_again(story: Story) -> None:
    first_keyed(story)
    repeated(story, "again", replayed=False)
    keyed(story, "again", seconds=7.55)


def cut_and_charged_again(story: Story) -> None:
    story.log.sent.append(told("", End.CUT, KEYED, 4.97, 5.02, life=0, status=0))
    keyed(story, "", seconds=4.98)
    repeated(story, "again", replayed=False)
    keyed(story, "again", seconds=7.55)


def charged_replay(story: Story) -> None:
    first_keyed(story)
    repeated(story, "again", replayed=True)
    keyed(story, "again", seconds=7.55)


def other_replay(story: Story) -> None:
    first_keyed(story)
    repeated(story, "again", replayed=True, content=b"another answer")


def replay_of_nothing(story: Story) -> None:
    story.log.sent.append(told("", End.CUT, KEYED, 4.97, 5.02, life=0, status=0))
    repeated(story, "again", replayed=True)


LIES: dict[Callable[[Story], None], str] = {
    lost_charge: "0 usage records",
    charge_under_another_id: "nobody asked for it",
    second_record: "2 usage records",
    second_entry: "a line was charged twice",
    charge_without_usage: "charged without a usage record",
    other_cost: "told a cost of",
    other_tokens: "told (8, 5) tokens",
    charged_refusal: "it was refused): charged",
    nameless_charged_twice: "nobody asked for it",
    charged_for_less_than_received: "got 3 tokens, metered 2",
    charged_for_more_than_was_asked_for: "got 3 tokens, metered 21",
    charged_for_half_of_it: "paid for 3 of 20 tokens",
    other_prompt: "tokens of a prompt of",
    other_key: "belongs to another request",
    other_price: "the price list says",
    less_than_the_price: "charged 1; the price is",
    charged_by_the_next_life: "after its gateway had ended",
    charged_too_early: "before the model can have said anything",
    charged_for_silence: "although nothing was said",
    left_for_nothing: "got 8 tokens for nothing",
    lost_credit: "is in the books 0 times",
    doubled_credit: "is in the books 2 times",
    invented_credit: "'gift'",
    invented_adjustment: "adjusted by",
    invented_grant: "its allocation is 0",
    other_balance: "is left",
    below_zero: "its largest charge was",
    below_zero_by_any_amount: "its largest charge was",
    limit_passed: "spent",
    limit_passed_by_any_amount: "spent",
    hold_after_a_stop: "after an orderly stop",
    hold_after_a_start: "after a start",
    hold_of_a_complete_answer: "it still holds",
    hold_of_an_earlier_process: "of an earlier process",
    hold_of_nobody: "but nobody asked for it",
    hold_for_ever: "does not expire in time",
    hold_beyond_its_time: "outlived its expiry",
    slow_start: "to start",
    failed_probe: "was answered 500",
    refused_probe: "answered 402; there was",
    funds_still_held: "it could spend",
    unanswered: "never ended",
    broken: "without a proper end",
    failed: "with status 500",
    cut_by_the_living: "while the gateway was alive",
    one_id_for_two: "two answers have one request id",
    unproved: "a difference",
    executed_again: "executed again",
    cut_and_charged_again: "charged again",
    charged_replay: "charged for what was given before",
    other_replay: "another answer than before",
    replay_of_nothing: "a replay of what was never charged",
}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_lie_is_seen(lie: Callable[[Story], None], story: Story) -> None:
    """Whatever disagrees is named, by the rule that it breaks."""
    lie(story)
    found = story.violations()
    assert any(LIES[lie] in violation for violation in found), found
