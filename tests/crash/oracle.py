"""What must hold between what clients were told and what the books say: one pure function.

It can be asked at any moment at which no gateway is at work on the books: after a kill, after a
start and before the first request, after a stop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from crash.history import Books, ClientLog, End, Life, Moment, Sent
from crash.scenario import FLOOR, HOLD_SECONDS, READY_SECONDS_MAX, SILENT, Key
from traghetto.ledger.windows import day_window
from traghetto.money import Currency, LimitPeriod
from traghetto.storage.facts import ADJUSTMENT, Entry, EntryKind, HoldOpened, UsageRecorded

SECOND = 10**9
TIMER_NS = 5_000_000
"""How much too early a timer of the event loop may fire."""
LOST = frozenset({End.LEFT, End.CUT})
"""Whose clients do not know what became of them."""


def violations(log: ClientLog, books: Books) -> list[str]:
    """Everything that is wrong; empty if nothing is."""
    known = _Known.of(log, books)
    found = [f"ledger verify: {difference}" for difference in books.differences]
    found += _gateways_start_and_serve(log)
    found += _clients_are_told_something(log)
    found += _answers_are_charged_once(known)
    found += _charges_have_a_reason(known, books)
    found += _repetitions_are_charged_once(known, books)
    found += _leaving_is_not_free(known)
    found += _credits_are_kept(log, books)
    found += _balances_are_what_is_left(known, books)
    found += _limits_hold(known)
    found += _holds_end(known, books)
    found += _funds_are_free_after_a_start(known, books)
    return found


@dataclass(frozen=True, slots=True)
class _Known:
    """The log and the books, looked up by request id."""

    log: ClientLog
    sent: dict[str, Sent]
    lives: dict[int, Life]
    usages: dict[str, list[UsageRecorded]]
    charges: dict[str, list[Entry]]

    @classmethod
    def of(cls, log: ClientLog, books: Books) -> _Known:
        usages, charges = defaultdict(list), defaultdict(list)
        for usage in books.usages:
            usages[usage.request_id].append(usage)
        for entry in books.entries:
            if entry.kind is EntryKind.CHARGE:
                charges[entry.request_id].append(entry)
        sent = {sent.request_id: sent for sent in log.sent if sent.request_id}
        lives = {life.number: life for life in log.lives}
        return cls(log, sent, lives, dict(usages), dict(charges))

    def nameless(self) -> list[Sent]:
        """Requests that may have been at work, and whose clients never learnt an id."""
        return [sent for sent in self.log.sent if not sent.request_id and sent.end in LOST]


# The gateway


def _gateways_start_and_serve(log: ClientLog) -> Iterator[str]:
    for life in log.lives:
        if life.ready_seconds is not None and life.ready_seconds > READY_SECONDS_MAX:
            yield f"life {life.number} took {life.ready_seconds:.1f} s to start"
    for sent in log.probes:
        if sent.status not in {200, 402}:
            yield f"{sent}: the first request of a life was answered {sent.status}"


def _clients_are_told_something(log: ClientLog) -> Iterator[str]:
    killed = {life.number: life.kill_ns for life in log.lives}
    names = [sent.request_id for sent in log.sent if sent.request_id]
    if len(set(names)) < len(names):
        yield "two answers have one request id"
    for sent in log.sent:
        if sent.end in {End.OPEN, End.BROKEN}:
            yield str(sent)
        elif sent.status not in {0, 200, 402}:
            yield f"{sent}: with status {sent.status}"
        elif sent.end is End.CUT and not 0 < killed[sent.life] <= sent.ended_ns:
            yield f"{sent}: while the gateway was alive"


# Charges


def _answers_are_charged_once(known: _Known) -> Iterator[str]:
    for sent in known.sent.values():
        usages = known.usages.get(sent.request_id, [])
        if sent.end is not End.COMPLETE or sent.replayed:
            continue
        if len(usages) != 1:
            yield f"{sent}: {len(usages)} usage records"
            continue
        paid = dict.fromkeys(sent.cost, 0)
        for entry in known.charges.get(sent.request_id, ()):
            paid[entry.currency] = paid.get(entry.currency, 0) + entry.amount
        if paid != sent.cost:
            yield f"{sent}: told a cost of {sent.cost}, charged {paid}"
        tokens = (usages[0].prompt_tokens, usages[0].completion_tokens)
        if tokens != sent.tokens:
            yield f"{sent}: told {sent.tokens} tokens, metered {tokens}"


def _charges_have_a_reason(known: _Known, books: Books) -> Iterator[str]:
    """Every usage record and charge belongs to one request that somebody sent and did not see
    fail."""
    for request_id in known.charges.keys() - known.usages.keys():
        yield f"{request_id}: charged without a usage record"
    for request_id, entries in known.charges.items():
        lines = [entry.line for entry in entries]
        if len(set(lines)) < len(lines):
            yield f"{request_id}: a line was charged twice"
    unclaimed = known.nameless()
    for usage in sorted(books.usages, key=lambda usage: usage.created_ns):
        sent = known.sent.get(usage.request_id)
        if sent is None:
            sent = _claim(unclaimed, usage, known.lives)
        if sent is None:
            yield f"{usage.request_id}: charged {usage.charged}, but nobody asked for it"
        elif sent.end is not End.COMPLETE and sent.end not in LOST:
            yield f"{sent}: charged {usage.charged}"
        else:
            yield from _is_charged_by_the_rules(known, sent, usage)


def _repetitions_are_charged_once(known: _Known, books: Books) -> Iterator[str]:
    """Sendings under one idempotency key have one answer and one charge, crashes or not."""
    groups: defaultdict[str, list[Sent]] = defaultdict(list)
    for sent in known.log.sent:
        if sent.request.idempotency_key is not None:
            groups[sent.request.idempotency_key].append(sent)
    for sendings in groups.values():
        charged = [
            sent
            for sent in sendings
            if sent.request_id in known.usages or _was_charged_unknown(known, books, sent)
        ]
        if len(charged) > 1:
            yield f"{sendings[-1]}: charged again"
        complete: Sent | None = None
        for sent in sendings:
            if sent.replayed and sent.request_id in known.usages:
                yield f"{sent}: charged for what was given before"
            if sent.end is not End.COMPLETE:
                continue
            if complete is not None and not sent.replayed:
                yield f"{sent}: executed again"
            if complete is not None and sent.content != complete.content:
                yield f"{sent}: another answer than before"
            if sent.replayed and not charged:
                yield f"{sent}: a replay of what was never charged"
            complete = complete or sent


def _was_charged_unknown(known: _Known, books: Books, sent: Sent) -> bool:
    """Whether a sending was charged although its client never learnt an id.

    The prompts of repeating clients have lengths of their own, and a client sends one after the
    other until its connection is cut: a record of that length with a strange id, made from then
    until its gateway ended, can be no other's.
    """
    return not sent.request_id and any(
        usage.request_id not in known.sent
        and usage.prompt_tokens == sent.request.prompt_tokens
        and usage.model == sent.request.model.id
        and sent.sent_ns <= usage.created_ns <= known.lives[sent.life].ended_ns
        for usage in books.usages
    )


def _claim(
    unclaimed: list[Sent], found: UsageRecorded | HoldOpened, lives: dict[int, Life]
) -> Sent | None:
    """The request without a known id that a row of the books must belong to, taken off the list.

    Clients are told apart by their prompts, and so are the requests that follow one another on one
    client; of those that fit, the latest one sent before the row was made is the one.
    """
    fitting = [
        sent
        for sent in unclaimed
        if sent.request.key.id == found.key_id
        and sent.sent_ns <= found.created_ns <= lives[sent.life].ended_ns
        and _has_the_form(sent, found)
    ]
    if not fitting:
        return None
    sent = max(fitting, key=lambda sent: sent.sent_ns)
    unclaimed.remove(sent)
    return sent


def _has_the_form(sent: Sent, found: UsageRecorded | HoldOpened) -> bool:
    request = sent.request
    if isinstance(found, HoldOpened):
        return request.stream  # only a stream's hold is ever written
    return (request.model.id, request.stream, request.prompt_tokens) == (
        found.model,
        found.streamed,
        found.prompt_tokens,
    )


def _is_charged_by_the_rules(known: _Known, sent: Sent, usage: UsageRecorded) -> Iterator[str]:
    request, life = sent.request, known.lives[sent.life]
    asked = (request.key.id, request.key.account_id, request.model.id, request.stream)
    if asked != (usage.key_id, usage.account_id, usage.model, usage.streamed):
        yield f"{sent}: the usage record belongs to another request"
    if usage.prompt_tokens != request.prompt_tokens:
        yield f"{sent}: metered {usage.prompt_tokens} tokens of a prompt of {request.prompt_tokens}"
    if not sent.output <= usage.completion_tokens <= request.max_tokens:
        yield f"{sent}: got {sent.output} tokens, metered {usage.completion_tokens}"
    # A stream that its client leaves is the only answer that ends, and is paid, half-way.
    may_be_half = request.stream and sent.end is End.LEFT
    length_is_known = request.is_bounded and request.key.pays_in_full
    if length_is_known and not may_be_half and usage.completion_tokens != request.max_tokens:
        yield f"{sent}: paid for {usage.completion_tokens} of {request.max_tokens} tokens"
    price = request.model.price(usage.prompt_tokens, usage.completion_tokens)
    if usage.priced != price:
        yield f"{sent}: priced at {usage.priced}; the price list says {price}"
    if usage.charged > price or (request.key.pays_in_full and usage.charged != price):
        yield f"{sent}: charged {usage.charged}; the price is {price}"
    if usage.created_ns > life.ended_ns:
        yield f"{sent}: charged after its gateway had ended"
    spoken_ns = sent.sent_ns + round(request.model.first_token_seconds * SECOND) - TIMER_NS
    if usage.created_ns < spoken_ns:
        yield f"{sent}: charged before the model can have said anything"
    if request.model is SILENT:
        yield f"{sent}: charged, although nothing was said"


def _leaving_is_not_free(known: _Known) -> Iterator[str]:
    """Where no crash came between, whoever has received output has paid for it."""
    for sent in known.sent.values():
        life = known.lives[sent.life]
        received_in_peace = sent.end is End.LEFT and sent.output and not life.kill_ns
        if received_in_peace and life.ended_ns and sent.request_id not in known.usages:
            yield f"{sent}: got {sent.output} tokens for nothing"


# Funds


def _credits_are_kept(log: ClientLog, books: Books) -> Iterator[str]:
    """What an operator was told is there, and there is nothing else; a credit is there once."""
    given: defaultdict[tuple[str, str, int], int] = defaultdict(int)
    for entry in books.entries:
        if entry.kind is EntryKind.CREDIT:
            given[entry.account_id, entry.reason, entry.amount] += 1
        elif entry.kind is EntryKind.ADJUST or ADJUSTMENT in {entry.debit, entry.credit}:
            yield f"{entry.account_id}: adjusted by {entry.amount}, which nobody asked for"
    for credit in log.credits:
        count = given.pop((credit.account_id, credit.reason, credit.amount), 0)
        if count > 1 or (credit.acknowledged and not count):
            yield f"{credit.account_id}: {credit.reason!r} is in the books {count} times"
    for account_id, reason, amount in given:
        yield f"{account_id}: credited {amount} ({reason!r}), which nobody asked for"


def _balances_are_what_is_left(known: _Known, books: Books) -> Iterator[str]:
    """Opening funds and credits less charges; below zero by one overdraft at most."""
    expected: defaultdict[tuple[str, Currency, str], int] = defaultdict(int)
    largest: defaultdict[tuple[str, Currency, str], int] = defaultdict(int)
    granted: defaultdict[tuple[str, str], int] = defaultdict(int)
    for entry in books.entries:
        fund = (entry.account_id, entry.currency, entry.window)
        if entry.kind is EntryKind.CREDIT:
            expected[fund] += entry.amount
        elif entry.kind is EntryKind.DIEM_GRANT:
            granted[entry.account_id, entry.window] += entry.amount
    for entries in known.charges.values():
        entry = entries[0]
        fund = (entry.account_id, entry.currency, entry.window)
        charged = sum(entry.amount for entry in entries)
        expected[fund] -= charged
        largest[fund] = max(largest[fund], charged)
    for (account_id, window), amount in granted.items():
        account = known.log.accounts.get(account_id)
        allocation = 0 if account is None else account.diem
        expected[account_id, Currency.DIEM, window] += allocation
        if amount != allocation:
            yield f"{account_id}: granted {amount} in {window}; its allocation is {allocation}"
    found = {(row.account_id, row.currency, row.window): row.amount for row in books.balances}
    for fund in expected.keys() | found.keys():
        amount = found.get(fund, 0)
        if amount != expected[fund]:
            yield f"the balance {fund} is {amount}; {expected[fund]} is left"
        if amount < 0 and not _is_one_overdraft(known.log, -amount, largest[fund]):
            yield f"the balance {fund} is {amount}; its largest charge was {largest[fund]}"


def _limits_hold(known: _Known) -> Iterator[str]:
    spent: defaultdict[tuple[str, str], int] = defaultdict(int)
    largest: defaultdict[tuple[str, str], int] = defaultdict(int)
    limited = {key.id: key for key in known.log.keys if key.limit_usd is not None}
    for entries in known.charges.values():
        entry = entries[0]
        key = limited.get(entry.key_id or "")
        if key is None or entry.currency is not Currency.USD:
            continue
        window = _period_of(key, entry.key_window)
        charged = sum(entry.amount for entry in entries)
        spent[key.id, window] += charged
        largest[key.id, window] = max(largest[key.id, window], charged)
    for (key_id, window), amount in spent.items():
        limit = limited[key_id].limit_usd
        assert limit is not None, "only limited keys are here"
        over = amount - limit
        if over > 0 and not _is_one_overdraft(known.log, over, largest[key_id, window]):
            yield f"key {key_id} spent {amount} of {limit} in window {window!r}"


def _is_one_overdraft(log: ClientLog, excess: int, largest: int) -> bool:
    """Whether the one request that took the last funds can have gone so far beyond them."""
    return log.policy == "last" and excess < largest


# Holds


def _holds_end(known: _Known, books: Books) -> Iterator[str]:
    """A hold lives as long as its request and its process, and never beyond its expiry."""
    if books.moment is not Moment.KILLED:
        for hold in books.holds:
            yield f"{hold.request_id} still holds {hold.amount} {books.moment.value}"
        return
    served = [life for life in known.log.lives if life.ready_seconds is not None]
    unclaimed = known.nameless()
    for hold in sorted(books.holds, key=lambda hold: hold.created_ns):
        if hold.expires_ns != hold.created_ns + HOLD_SECONDS * SECOND:
            yield f"{hold.request_id}: its hold does not expire in time"
        if hold.expires_ns <= books.read_ns:
            yield f"{hold.request_id}: its hold has outlived its expiry"
        if not served or hold.created_ns < served[-1].started_ns:
            yield f"{hold.request_id}: its hold is of an earlier process"
            continue
        sent = known.sent.get(hold.request_id) or _claim(unclaimed, hold, known.lives)
        if sent is None:
            yield f"{hold.request_id} holds {hold.amount}, but nobody asked for it"
        elif sent.end not in LOST:
            yield f"{sent}: it still holds {hold.amount}"


def _funds_are_free_after_a_start(known: _Known, books: Books) -> Iterator[str]:
    """The first to ask after a start can spend all that earlier lives have left, and no more."""
    policy = known.log.policy
    for probe in known.log.probes:
        left = _left_for(probe.request.key, known, books, probe.sent_ns)
        if probe.spendable != left:
            yield f"{probe}: it could spend {probe.spendable}; there was {left}"
        first = next((amount for amount in left.values() if amount), 0)
        if policy == "never" and 0 < first < probe.request.bound:
            continue  # it pays in one currency, of which there may be too little
        if (probe.status == 200) != (sum(left.values()) >= FLOOR):
            yield f"{probe}: answered {probe.status}; there was {left}"


def _left_for(key: Key, known: _Known, books: Books, utc_ns: int) -> dict[Currency, int]:
    """What a key could spend then, in the order in which it is spent."""
    day = day_window(utc_ns)
    account = known.log.accounts[key.account_id]
    funds = {Currency.DIEM: account.diem} if account.diem else {}
    funds[Currency.USD] = 0
    spent = 0
    for entry in books.entries:
        if entry.account_id != key.account_id or entry.created_ns >= utc_ns:
            continue
        if entry.kind is EntryKind.CREDIT:
            funds[entry.currency] += entry.amount
        elif entry.kind is EntryKind.CHARGE and entry.window in {"", day}:
            funds[entry.currency] -= entry.amount
            counts = entry.key_id == key.id and entry.currency is Currency.USD
            if counts and _period_of(key, entry.key_window) == _period_of(key, day):
                spent += entry.amount
    if key.limit_usd is not None:
        funds[Currency.USD] = min(funds[Currency.USD], key.limit_usd - spent)
    return {currency: max(0, amount) for currency, amount in funds.items()}


def _period_of(key: Key, day: str) -> str:
    """The window of the key's limit in which a day window lies."""
    if key.period is LimitPeriod.EPOCH:
        return day
    return day[: len("E:2026-11")] if key.period is LimitPeriod.MONTH else ""
