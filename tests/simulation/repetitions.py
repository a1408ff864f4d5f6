"""What must hold where clients repeat themselves: an idempotency key stands for one answer.

The oracles know of an answer only what its client, the backend and the books saw of it. It is
`settled` if it is charged and there is no doubt that it was complete: its client was told so, or
the backend had ended it and nobody else had when its charge became durable.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from simulation.history import AttemptLog, Books, ClientLog, History, Moment
from simulation.readings import Reading, Told
from traghetto.storage.facts import UsageRecorded

KEPT_NS = 24 * 3600 * 10**9
WAIT_SECONDS_MAX = 8.0
"""How long a repetition waits for the first, which may still be on its way to a slow client."""
CANCEL_SECONDS_MAX = 0.25
"""Between a client's end and the end of the work for it, its claim included."""
UNHEARD = frozenset({"json", "key", "type"})
"""Defects that end a request before anybody looks at its idempotency key."""
REUSED = "IDEMPOTENCY_KEY_REUSED"
TOO_LARGE = "IDEMPOTENT_ANSWER_NOT_KEPT"
PING = b": ping"


def repetition_violations(history: History, books: Books) -> list[str]:
    """Everything that is wrong with repeated requests."""
    found: list[str] = []
    groups: dict[tuple[int, str], list[_Request]] = defaultdict(list)
    for client in history.clients.values():
        name = client.plan.idempotency_key
        if name is None:
            if client.replayed:
                found.append(f"{client.request_id}: given an answer again without asking for it")
        elif client.plan.defect not in UNHEARD:
            groups[client.plan.key, name].append(_Request.of(client, history, books))
    for group in groups.values():
        found += _runs_one_at_a_time(group)
        found += _answers_once(history, group)
        for request in group:
            sentences = itertools.chain(
                _is_given_what_was_settled(history, request, group),
                _is_refused_for_a_reason(history, request, group),
                _waits_for_somebody(history, request, group),
                _is_a_true_replay(history, request, group),
            )
            found += (f"{request.client.request_id}: {sentence}" for sentence in sentences)
    return found


@dataclass(frozen=True, slots=True)
class _Request:
    """One request that names an idempotency key, and what is known of it."""

    client: ClientLog
    told: Told
    asked: str
    attempts: list[AttemptLog]
    usage: UsageRecorded | None
    charged: int
    """Where in the history its charge became durable; 0 without one."""
    settled: bool

    @classmethod
    def of(cls, client: ClientLog, history: History, books: Books) -> _Request:
        told = Told.of(client)
        attempts = history.attempts.get(client.request_id, [])
        usage = books.usages.get(client.request_id)
        charged = history.usages_committed.get(client.request_id, 0)
        settled = (
            bool(attempts)
            and usage is not None
            and (
                told.complete
                or not client.plan.stream
                or _was_ended_by_the_backend_alone(history, client, told, attempts, charged)
            )
        )
        return cls(client, told, client.plan.asked(), attempts, usage, charged, settled)

    @property
    def was_answered(self) -> bool:
        """Whether it was executed and charged, wholly or in part."""
        return bool(self.attempts) and self.usage is not None

    @property
    def began(self) -> Moment:
        """When it was first executed."""
        return self.attempts[0].started

    @property
    def ended(self) -> float:
        """When its client knew that it was over."""
        end = self.client.completed or self.client.gone
        return float("inf") if end is None else end.number

    @property
    def expires_ns(self) -> int:
        """Until when its answer is kept."""
        assert self.usage is not None, "it was charged"
        return self.usage.created_ns + KEPT_NS


def _was_ended_by_the_backend_alone(
    history: History, client: ClientLog, told: Told, attempts: list[AttemptLog], charged: int
) -> bool:
    """Whether a charged stream was complete, although its client may not have heard of it.

    A slow client may have been sent an error that it has not taken; a stop and a client that
    leaves end a stream too.
    """
    if told.error or client.plan.reads_every is not None or client.run in history.stopped_runs:
        return False
    if client.gone is not None and client.gone.number < charged:
        return False
    hold = history.holds.get(client.request_id)
    reading = Reading.of(attempts[-1], client)
    extension_refused = hold is not None and hold.extension_refused
    return reading.complete or reading.limited or extension_refused


def _has_lapsed(history: History, first: _Request, until: Moment) -> bool:
    """Whether the answer to `first` may have expired by then, by whatever clock there was."""
    _, latest = history.utc_between(Moment(first.charged, first.began.time), until)
    return latest >= first.expires_ns


def _runs_one_at_a_time(group: list[_Request]) -> Iterator[str]:
    """No two requests with one key are executed at once, in one life of the gateway."""
    executed = sorted(
        (request for request in group if request.attempts),
        key=lambda request: (request.client.run, request.began.number),
    )
    for first, second in itertools.pairwise(executed):
        ended = first.attempts[-1].ended
        if first.client.run == second.client.run and (
            ended is None or ended.number > second.began.number
        ):
            yield f"{first.client.request_id} and {second.client.request_id} are executed at once"


def _answers_once(history: History, group: list[_Request]) -> Iterator[str]:
    """What was settled is not executed again while it is kept, nor settled a second time."""
    executed = [request for request in group if request.attempts]
    for first, second in itertools.permutations(executed, 2):
        if not first.settled or _has_lapsed(history, first, second.began):
            continue
        name = second.client.request_id
        if first.charged < second.began.number:
            yield f"{name}: executed although {first.client.request_id} had been settled"
        elif second.settled and second.asked == first.asked and first.charged < second.charged:
            yield f"{name}: settled although {first.client.request_id} had been settled too"


def _is_given_what_was_settled(
    history: History, request: _Request, group: list[_Request]
) -> Iterator[str]:
    """Once an answer is settled, its key stands for it and for nothing else."""
    client = request.client
    before = [other for other in group if other.was_answered and other.charged < request.ended]
    if client.first_byte is None or not before:
        return
    first = max(before, key=lambda other: other.charged)
    if first is request or not first.settled or first.charged > client.arrived.number:
        return
    if _has_lapsed(history, first, client.first_byte):
        return
    code = client.headers.get("x-error-code", "")
    allowed = {"FAILED_REQUEST_BUDGET"}
    allowed |= {TOO_LARGE} if first.asked == request.asked else {REUSED}
    if client.run in history.stopped_runs:
        allowed.add("MODEL_OFFLINE")
    if client.run in history.ended_runs:
        allowed.add("UNKNOWN_ERROR")
    if client.first_byte.time >= client.arrived.time + WAIT_SECONDS_MAX:
        allowed.add("REQUEST_TIMEOUT")
    if not (client.replayed or code in allowed):
        yield f"answered {client.status} {code}, although {first.client.request_id} was settled"


def _claims_until(history: History, request: _Request) -> float:
    """Until when a request may have claimed its key: after its client's end come the moment in
    which that is noticed, and a charge that waits for the commit under way and for its own."""
    end = request.client.completed or request.client.gone
    if end is None:
        return float("inf")
    return end.time + CANCEL_SECONDS_MAX + 2 * history.scenario.commit_seconds_max


def _is_refused_for_a_reason(
    history: History, request: _Request, group: list[_Request]
) -> Iterator[str]:
    """A refusal because of the key points to another request under the same API key."""
    client = request.client
    code = client.headers.get("x-error-code")
    if client.first_byte is None or code not in {REUSED, TOO_LARGE}:
        return
    for other in group:
        is_same = other.asked == request.asked
        if is_same is (code == REUSED) or other.client.arrived.number > client.first_byte.number:
            continue
        is_over = _claims_until(history, other) <= client.arrived.time
        if other.was_answered or (code == REUSED and not is_over):
            return
    yield f"refused as {code} for no reason"


def _waits_for_somebody(
    history: History, request: _Request, group: list[_Request]
) -> Iterator[str]:
    """A repetition that waited in vain waited for a request that was still being answered."""
    client = request.client
    if client.headers.get("x-error-code") != "REQUEST_TIMEOUT" or request.attempts:
        return
    assert client.first_byte is not None, "it has a header"
    if client.first_byte.time < client.arrived.time + WAIT_SECONDS_MAX:
        return
    for other in group:
        is_waiting_too = other.client.status == client.status and not other.attempts
        is_over = _claims_until(history, other) <= client.first_byte.time
        if other.client.run == client.run and not (is_waiting_too or is_over):
            return
    yield "waited until its time was up, and for nobody"


def _is_a_true_replay(history: History, request: _Request, group: list[_Request]) -> Iterator[str]:
    """What is given again was given before, to the byte, and has not expired."""
    client = request.client
    if not client.replayed:
        return
    if request.attempts or request.usage is not None:
        yield "executed, and yet said to be given again"
    assert client.first_byte is not None, "it has a header"
    earliest, _ = history.utc_between(client.arrived, client.first_byte)
    answers = sorted(
        (
            other
            for other in group
            if other.asked == request.asked
            and other.was_answered
            and other.charged < client.first_byte.number
        ),
        key=lambda other: -other.charged,
    )
    if not answers:
        yield "given again what was never given to the same request"
        return
    differences = [_difference(request, answer, earliest) for answer in answers]
    if all(differences):
        yield f"given again what {answers[0].client.request_id} was not: {differences[0]}"


def _difference(replay: _Request, answer: _Request, now_ns: int) -> str | None:
    """Why a replay cannot be that of `answer`; None if it can.

    Whoever waited for the answer while it was made is given it, however long ago the clock says.
    """
    waited = replay.client.arrived.number < answer.charged
    if now_ns >= answer.expires_ns and not waited:
        return "it had expired"
    if answer.told.error:
        return "it was broken"
    given, received = _without_pings(answer.client), _without_pings(replay.client)
    common = min(len(given), len(received))
    if given[:common] != received[:common]:
        return "it has other bytes"
    if answer.client.completed and len(received) > common:
        return "it goes on"
    if not replay.client.completed:
        return None
    if len(given) > common:
        return "it ends early"
    for header in ("content-type", "x-venice-model-id"):
        if answer.client.status and replay.client.headers[header] != answer.client.headers[header]:
            return f"it has another {header}"
    return _untruth(replay, answer)


def _untruth(replay: _Request, answer: _Request) -> str | None:
    """What a whole replay says that the backend or the books do not; None if nothing."""
    told, usage = replay.told, answer.usage
    assert usage is not None, "only what was charged can be given again"
    if not told.complete or told.usage is None or told.cost is None:
        return "it is not complete"
    if told.id != f"chatcmpl-{answer.client.request_id}":
        return f"its id is {told.id}"
    charged = round((Fraction(str(told.cost["usd"])) + Fraction(str(told.cost["diem"]))) * 10**9)
    if charged != usage.charged:
        return f"it tells a cost of {charged}, charged {usage.charged}"
    if told.usage["completion_tokens"] != usage.completion_tokens:
        return "it tells another usage"
    attempt = answer.attempts[-1]
    if replay.client.plan.stream:
        reading = Reading.of(attempt, answer.client)
        return None if told.deltas == reading.deltas else "it says what the backend did not say"
    assert told.whole is not None, "it is complete"
    texts = [choice["message"]["content"] for choice in told.whole["choices"]]
    said = attempt.answer
    if said is None or json.dumps(texts) != json.dumps(list(said.texts[: len(texts)])):
        return "it says what the backend did not say"
    return None


def _without_pings(client: ClientLog) -> bytes:
    """The body without the comments of a stream, of which a replay has none."""
    if not client.plan.stream or client.status != 200:
        return client.body if client.status == 200 else b""
    return b"".join(
        frame + b"\n\n" for frame in client.body.split(b"\n\n") if frame and frame != PING
    )
