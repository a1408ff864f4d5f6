"""What must hold of every history: pure functions over what the witnesses wrote down.

Prices and rules are worked out here a second time, from the contract and not with the product's
code: fractions instead of its integers, values of events instead of bytes.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from simulation.history import AttemptLog, Books, ClientLog, History
from simulation.readings import FAILING_REASONS, Reading, Told
from simulation.repetitions import CANCEL_SECONDS_MAX, repetition_violations
from simulation.scenario import CONTEXT_TOKENS, MODELS
from simulation.upstream import exact_prompt_tokens
from simulation.upstream_plans import Claim
from traghetto.money import Currency, LimitPeriod
from traghetto.storage.facts import EntryKind, UsageRecorded

ATTEMPTS_MAX = 5
"""Three, and two more for connections that were stale."""
PRICES = {model.id: model.pricing for model in MODELS}
LIMITED_AS = {"DIEM": "DIEM", "BUNDLED_CREDITS": "USD", "USD": "USD"}
"""In which limit of a key each currency counts."""

Tokens = tuple[int, int, int]
"""Of the prompt, of the output, and of the prompt from a cache."""


def violations(history: History) -> list[str]:
    """Everything that is wrong with a history; empty if nothing is."""
    books = history.books
    assert books is not None, "the history is complete"
    found = list(history.troubles)
    found += _books_are_kept(books)
    found += _nobody_overspends(history, books)
    found += _spending_is_remembered(history, books)
    found += _refunds_are_kept(history, books)
    found += _rates_count_what_was_used(history, books)
    found += repetition_violations(history, books)
    for client in history.clients.values():
        attempts = history.attempts.get(client.request_id, [])
        told = Told.of(client)
        usage = books.usages.get(client.request_id)
        checks: tuple[Iterator[str], ...] = (
            _is_answered_once(client, told),
            _is_charged_by_the_rules(history, client, told, attempts, usage),
            _is_retried_only_in_secret(client, attempts),
            _is_cancelled_for_who_left(client, attempts),
        )
        if not client.replayed:  # what is given again is judged beside the first (`repetitions`)
            checks += (
                _is_honest_about_its_end(history, client, told, attempts),
                _says_what_the_backend_said(client, told, attempts),
                _is_promised_after_durability(history, client, told),
            )
        for check in checks:
            found += (f"{client.request_id}: {sentence}" for sentence in check)
    return found


# Oracles


def _books_are_kept(books: Books) -> Iterator[str]:
    yield from books.differences
    for hold in books.holds:
        yield f"{hold.request_id} still holds {hold.amount} on the disk"
    written = {
        (row.account_id, row.currency): row.amount
        for row in books.balances
        if row.window in {"", books.today}
    }
    for (account, currency), amount in books.remembered.items():
        if written.get((account, currency), 0) != amount:
            yield f"{account} is thought to own {amount} {currency}, on the disk {written}"


def _nobody_overspends(history: History, books: Books) -> Iterator[str]:
    excess: dict[tuple[str, str], int] = defaultdict(int)
    for request_id, log in history.holds.items():
        usage = books.usages.get(request_id)
        if usage is not None and (log.hold.exclusive_fund or log.hold.exclusive_limit):
            over = max(0, usage.charged - log.hold.amount_nano_usd)
            currency = log.hold.currency.value
            for identity in (
                (log.hold.account_id, currency),
                (log.hold.key_id, LIMITED_AS[currency]),
            ):
                excess[identity] = max(excess[identity], over)
    for row in books.balances:
        if row.amount < -excess[row.account_id, row.currency.value]:
            yield f"{row.account_id} owns {row.amount} {row.currency} in window {row.window!r}"
    keys = {key.id: key for key in history.scenario.keys}
    spent = _spent(books)
    for (key_id, currency, period, window), amount in spent.items():
        key = keys[key_id]
        limit = key.usd_limit if currency == Currency.USD.value else key.diem_limit
        if period is key.period and limit is not None and amount > limit + excess[key_id, currency]:
            yield f"{key_id} spent {amount} {currency} of its {limit} in window {window!r}"


def _spent(books: Books) -> dict[tuple[str, str, LimitPeriod, str], int]:
    """What the journal says each key spent, refunds taken away: by limit, period and window."""
    spent: dict[tuple[str, str, LimitPeriod, str], int] = defaultdict(int)
    for entry in books.entries:
        if entry.key_id is None:
            continue
        amount = entry.amount if entry.kind is EntryKind.CHARGE else -entry.amount
        for period, window in (
            (LimitPeriod.EPOCH, entry.key_window),
            (LimitPeriod.MONTH, entry.key_window[:9]),
            (LimitPeriod.LIFETIME, ""),
        ):
            spent[entry.key_id, LIMITED_AS[entry.currency.value], period, window] += amount
    return spent


def _spending_is_remembered(history: History, books: Books) -> Iterator[str]:
    """What a limit is compared with is what the journal says."""
    spent = _spent(books)
    windows = {
        LimitPeriod.EPOCH: books.today,
        LimitPeriod.MONTH: books.today[:9],
        LimitPeriod.LIFETIME: "",
    }
    for (key_id, period, currency), remembered in books.remembered_spending.items():
        written = spent.get((key_id, currency.value, period, windows[period]), 0)
        if remembered != written:
            yield f"{key_id} is thought to have spent {remembered} {currency} ({period}): {written}"


def _refunds_are_kept(history: History, books: Books) -> Iterator[str]:
    """A refund that an operator was told of gives back every line of the charge."""
    charged: dict[str, int] = defaultdict(int)
    refunded: dict[str, int] = defaultdict(int)
    for entry in books.entries:
        if entry.kind is EntryKind.CHARGE:
            charged[entry.request_id] += entry.amount
        elif entry.kind is EntryKind.REFUND:
            refunded[entry.request_id] += entry.amount
    for request_id, amount in refunded.items():
        if amount != charged[request_id]:
            yield f"{request_id} was charged {charged[request_id]} and refunded {amount}"
    for request_id in history.refunded:
        if request_id not in refunded:
            yield f"the refund of {request_id} is not in the books"


def _rates_count_what_was_used(history: History, books: Books) -> Iterator[str]:
    """A window of a rate limit ends up with the tokens that were used, cached ones apart."""
    keys = history.scenario.keys
    for (run, account, model), (began, counted) in books.rate_windows.items():
        used = 0
        for client in history.clients.values():
            plan, usage = client.plan, books.usages.get(client.request_id)
            if (client.run, keys[plan.key].account, plan.model) != (run, account, model):
                continue
            if usage is not None and not client.replayed:
                if history.attempts[client.request_id][0].started.time < began:
                    break  # of the window before: only one that saw everything can be compared
                used += usage.prompt_tokens - usage.cached_tokens + usage.completion_tokens
        else:
            if counted != used:
                yield f"{account} used {used} tokens of {model}; its rate limit counted {counted}"


def _is_answered_once(client: ClientLog, told: Told) -> Iterator[str]:
    if client.answers > 1:
        yield f"answered {client.answers} times"
    if client.completed is None and client.gone is None:
        yield "never answered"
    if told.of_another_kind:
        yield "an answer of a kind that it did not ask for"
        return
    if told.after_the_end:
        yield "frames after [DONE]"
    if client.completed and client.status == 200 and not (told.whole is not None or told.done):
        yield "an answer without its end"


def _is_honest_about_its_end(
    history: History, client: ClientLog, told: Told, attempts: list[AttemptLog]
) -> Iterator[str]:
    """Nothing says "complete" unless the backend was, or a limit of ours ended the answer."""
    if client.status != 200:
        return
    if not client.plan.stream:
        if told.whole is not None and not _whole_is_good(attempts):
            yield "a whole answer that the backend did not give"
        return
    if not (told.finishes or told.usage or told.complete):
        return
    if told.error:
        yield "an error after a finish reason or usage"
    reading = Reading.of(attempts[-1], client)
    hold = history.holds.get(client.request_id)
    limited = reading.limited or (hold is not None and hold.extension_refused)
    if not (reading.complete or limited):
        yield "said to be complete, which the backend's stream was not"
    if told.complete and not told.finishes:
        yield "complete without a finish reason"
    unfinished = {index for index, _ in told.deltas} - reading.finished
    if told.complete and any(told.finishes.get(index) != "length" for index in unfinished):
        yield "cut short without saying so"


def _says_what_the_backend_said(
    client: ClientLog, told: Told, attempts: list[AttemptLog]
) -> Iterator[str]:
    if not told.deltas:
        return
    said = Reading.of(attempts[-1], client).deltas
    if said[: len(told.deltas)] != told.deltas:
        yield "the client was told what the backend did not say"
    if told.complete and len(said) > len(told.deltas):
        yield "a complete answer lacks some of what the backend said"
    if b"secret-name" in client.body or b"token_ids" in client.body:
        yield "an unlisted member reached the client"


def _is_promised_after_durability(history: History, client: ClientLog, told: Told) -> Iterator[str]:
    if client.status != 200 or client.first_byte is None:
        return
    is_free = client.plan.model == "free"
    if is_free and client.plan.idempotency_key is None:
        return
    if client.plan.stream and not is_free:
        held = history.holds_committed.get(client.request_id)
        if held is None or held > client.first_byte.number:
            yield "the first byte came before its hold was durable"
    if told.usage is not None or told.finishes or told.complete:
        charged = history.usages_committed.get(client.request_id)
        end = client.completed or client.gone
        if charged is None or (end is not None and charged > end.number):
            yield "said to be complete before its charge was durable"


def _is_charged_by_the_rules(
    history: History,
    client: ClientLog,
    told: Told,
    attempts: list[AttemptLog],
    usage: UsageRecorded | None,
) -> Iterator[str]:
    lost = client.run in history.ended_runs
    allowed = _allowed_charges(history, client, told, attempts)
    is_unpromised = client.plan.model == "free" and client.plan.idempotency_key is None
    if lost and (is_unpromised or not told.complete):
        allowed.add(None)  # what was decided but not written died with the run
    tokens = None
    if usage is not None:
        tokens = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
    if tokens not in allowed:
        yield f"charged for {tokens}, which is none of {allowed}"
    if usage is None:
        return
    price = _price(
        client.plan.model, (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
    )
    if usage.priced != price:
        yield f"priced at {usage.priced}; the price list says {price}"
    log = history.holds.get(client.request_id)
    held = log.hold.amount_nano_usd if log is not None else 0
    if log is not None and held > log.bound and history.scenario.overdraft == "last":
        yield f"held {held}, more than the {log.bound} it can cost"
    exact = log is None or not (log.hold.exclusive_fund or log.hold.exclusive_limit)
    if exact and usage.charged != min(price, held):
        yield f"charged {usage.charged} of {price}, with {held} held"
    if not min(price, held) <= usage.charged <= price:
        yield f"charged {usage.charged}; the price is {price}, the hold was {held}"
    if told.cost is not None and told.usage is not None:
        yield from _was_told_its_price(told.usage, told.cost, usage)


def _was_told_its_price(
    told_usage: dict[str, Any], cost: dict[str, Any], usage: UsageRecorded
) -> Iterator[str]:
    told_nano = round((Fraction(str(cost["usd"])) + Fraction(str(cost["diem"]))) * 10**9)
    if told_nano != usage.charged:
        yield f"told a cost of {told_nano}, charged {usage.charged}"
    told = (told_usage["prompt_tokens"], told_usage["completion_tokens"])
    if told != (usage.prompt_tokens, usage.completion_tokens):
        yield f"told {told} tokens; the books say otherwise"


def _is_retried_only_in_secret(client: ClientLog, attempts: list[AttemptLog]) -> Iterator[str]:
    if len(attempts) > ATTEMPTS_MAX:
        yield f"{len(attempts)} attempts"
    for before, after in itertools.pairwise(attempts):
        if before.ended is None or before.ended.number > after.started.number:
            yield "two attempts at once"
        if client.first_byte is not None and after.started.number > client.first_byte.number:
            yield "retried after its first byte"


def _is_cancelled_for_who_left(client: ClientLog, attempts: list[AttemptLog]) -> Iterator[str]:
    for attempt in attempts:
        if attempt.ended is None:
            yield "a backend still works for it"
        elif client.gone is not None:
            until = max(client.gone.time, attempt.started.time) + CANCEL_SECONDS_MAX
            if attempt.ended.time > until:
                yield "a backend worked on for a client that had left"


# Rules of payment


def _allowed_charges(
    history: History, client: ClientLog, told: Told, attempts: list[AttemptLog]
) -> set[Tokens | None]:
    """The token counts of which one must be charged; None stands for no charge."""
    if client.status not in (0, 200) or not attempts:
        return {None}
    if not client.plan.stream:
        allowed: set[Tokens | None] = set()
        if told.whole is None:
            allowed.add(None)
        if _whole_is_good(attempts):
            allowed.add(_of_complete_whole(history, client, attempts[-1]))
        return allowed
    reading = Reading.of(attempts[-1], client)
    delivered = len(told.deltas)
    hold = history.holds.get(client.request_id)
    ended_by_us = reading.limited or (hold is not None and hold.extension_refused)
    complete = _of_complete_stream(history, client, reading)
    if told.complete:
        return {complete}
    if client.completed:  # with an error frame
        allowed = {_of_broken(client, reading, delivered)}
        if client.run in history.failed_runs:
            allowed.add(None)
        return allowed
    allowed = {_of_leaving(history, client, reading, delivered)}
    if reading.complete or ended_by_us:
        allowed.add(complete)
    if _broke(history, attempts[-1], reading, client):
        allowed.add(_of_broken(client, reading, delivered))
    return allowed


def _broke(history: History, attempt: AttemptLog, reading: Reading, client: ClientLog) -> bool:
    """Whether the gateway may have seen the stream break before it saw its client leave.

    A backend whose stream was broken off from our side may have been silent for too long; and a
    stop that runs out of patience breaks a stream whose client does not take what is there.
    """
    gone = client.gone
    stopped = history.stopped_runs.get(client.run)
    if stopped is not None and gone is not None and stopped.number < gone.number:
        return True
    if reading.broken or gone is None or attempt.ended is None:
        return reading.broken
    return not reading.complete and attempt.ended.number < gone.number


def _of_complete_stream(history: History, client: ClientLog, reading: Reading) -> Tokens:
    if _believed(reading.claim):
        return _capped(reading.claim, client.plan.max_output)
    return _counted(history, client, len(reading.deltas))


def _of_complete_whole(history: History, client: ClientLog, attempt: AttemptLog) -> Tokens:
    answer = attempt.answer
    assert answer is not None, "a good answer was given"
    if answer.claim is not None and answer.claim.is_sane and _believed(answer.claim):
        return _capped(answer.claim, client.plan.max_output)
    text_bytes = sum(len(text) for text in answer.texts[: client.plan.n])
    return _counted(history, client, -(-text_bytes // 4))


def _of_leaving(
    history: History, client: ClientLog, reading: Reading, delivered: int
) -> Tokens | None:
    if not delivered:
        return None
    if _believed(reading.claim):
        return _capped(reading.claim, delivered)
    return _counted(history, client, delivered)


def _of_broken(client: ClientLog, reading: Reading, delivered: int) -> Tokens | None:
    if not delivered or not _believed(reading.claim):
        return None
    return _capped(reading.claim, delivered)


def _believed(claim: Claim | None) -> bool:
    """No prompt is longer than the model's context."""
    return claim is not None and claim.is_sane and claim.prompt <= CONTEXT_TOKENS


def _capped(claim: Claim | None, output: int) -> Tokens:
    assert claim is not None, "only what was claimed can be believed"
    return (claim.prompt, min(claim.completion, output), claim.cached)


def _counted(history: History, client: ClientLog, output: int) -> Tokens:
    plan = client.plan
    if history.scenario.exact_counts:
        prompt = exact_prompt_tokens(plan.words)
    else:
        text = json.dumps(
            [{"role": "user", "content": "word " * plan.words}], separators=(",", ":")
        )
        prompt = -(-len(text) // 4)
    return (prompt, min(output, plan.max_output), 0)


def _whole_is_good(attempts: list[AttemptLog]) -> bool:
    answer = attempts[-1].answer if attempts else None
    return (
        answer is not None
        and not answer.error
        and answer.finish is not None
        and answer.finish not in FAILING_REASONS
    )


def _price(model: str, tokens: Tokens) -> int:
    """By the price list: each line rounded once, half to even; nothing without output."""
    prompt, completion, cached = tokens
    if not completion:
        return 0
    prices = PRICES[model]
    cached = min(cached, prompt)
    lines = (
        (prompt - cached, prices.input),
        (cached, prices.cache_input),
        (completion, prices.output),
    )
    return sum(round(Fraction(units * price.nano_usd, price.per_units)) for units, price in lines)
