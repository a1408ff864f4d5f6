"""The control of a lab over HTTP, below `/lab`: what its clients may ask for.

One row per action: what it takes and what it does. A body is JSON whatever its declared type, so
that `curl -d` needs no header. What is refused is INVALID_REQUEST, with the reason in its issues.
Whoever reaches the port may do all of it, but for web pages, which a browser lets reach any port.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from traghetto.accounts.administration import OperationRefused
from traghetto.accounts.operations import Arguments, Money, Name, Subscription
from traghetto.accounts.values import ModelPrivacy, Tier
from traghetto.clock import iso8601
from traghetto.endpoints.spec import Authentication, Endpoint
from traghetto.engines.simulator.faults import Fault, PlannedFault
from traghetto.errors import Adjunct, ApiError, Code, ErrorCode
from traghetto.lab.lab import Lab
from traghetto.lab.states import STATES
from traghetto.money import Currency, LimitPeriod, parse_usd
from traghetto.pipeline.exchange import JSON_CONTENT, STATUS_OK, ClientGone, Exchange
from traghetto.wire.json import decode_object
from traghetto.wire.zod import custom_issue, refusal

BODY_BYTES_MAX: Final = 1 << 16
CRASH: Final = "crash"
"""The fault of the gateway itself: its next requests fail with UNKNOWN_ERROR."""
CRASHES_DEFAULT: Final = 1
MODEL_DEFAULT: Final = "chat"
FAULTS: Final = (CRASH, *(fault.value for fault in Fault))

Seconds = Annotated[float, Meta(ge=0, le=10 * 366 * 86_400)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]


class Key(Arguments, frozen=True, kw_only=True):
    """What a key is to be, besides what its state says."""

    admin: bool | msgspec.UnsetType = msgspec.UNSET
    description: str | msgspec.UnsetType = msgspec.UNSET
    limit_usd: Money | msgspec.UnsetType = msgspec.UNSET
    limit_diem: Money | msgspec.UnsetType = msgspec.UNSET
    period: LimitPeriod | msgspec.UnsetType = msgspec.UNSET
    privacy: ModelPrivacy | msgspec.UnsetType = msgspec.UNSET
    expires_in_seconds: Seconds | msgspec.UnsetType = msgspec.UNSET
    openai_errors: bool | msgspec.UnsetType = msgspec.UNSET


class CreateAccount(Arguments, frozen=True, kw_only=True):
    """An account and a key in a state; the other members say what differs from it."""

    state: str = "fresh"
    name: Name | msgspec.UnsetType = msgspec.UNSET
    usd: Money | msgspec.UnsetType = msgspec.UNSET
    bundled: Money | msgspec.UnsetType = msgspec.UNSET
    diem: Money | msgspec.UnsetType = msgspec.UNSET
    pro: bool | msgspec.UnsetType = msgspec.UNSET
    subscription: Subscription | msgspec.UnsetType = msgspec.UNSET
    disabled: bool | msgspec.UnsetType = msgspec.UNSET
    tier: Tier | msgspec.UnsetType = msgspec.UNSET
    features: tuple[Name, ...] | msgspec.UnsetType = msgspec.UNSET
    key: Key = Key()


class SetBalances(Arguments, frozen=True, kw_only=True):
    """What an account owns from now on; what is absent stays."""

    account: Name
    usd: Money | None = None
    bundled: Money | None = None
    diem: Money | None = None


class MoveClock(Arguments, frozen=True, kw_only=True):
    """One of: so much later, a moment, or the first moment of the next UTC day or month."""

    advance_seconds: Seconds | None = None
    set: datetime | None = None
    to: Literal["next-day", "next-month"] | None = None


class PlanFault(Arguments, frozen=True, kw_only=True):
    """How a model fails, for its next `calls` calls or until faults are cleared."""

    fault: str
    model: str | None = None
    """`MODEL_DEFAULT` if not given; none for a crash."""
    calls: Count | None = None
    seconds: Seconds | None = None
    """The delay of `slow`, before the answer and before each event of a stream."""
    after_events: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    """What a stream sends before it fails."""


class SetCapacity(Arguments, frozen=True, kw_only=True):
    """How many requests a model serves at once; none wait. `null` lifts the bound."""

    model: str = "chat"
    concurrency_max: Annotated[int, Meta(ge=0, le=1_000_000)] | None


class Nothing(Arguments, frozen=True, kw_only=True):
    """No arguments."""


Answer = Mapping[str, Any]


async def show(lab: Lab, _: Nothing) -> Answer:
    """What the lab is: its time, models, states and actions."""
    return {
        "utc": iso8601(lab.clock.utc_ns()),
        "admin_key": lab.admin_key,
        "pid": os.getpid(),
        "models": [{"id": model.id, "type": model.type} for model in lab.models()],
        "states": {name: state.summary for name, state in STATES.items()},
        "faults": FAULTS,
        "actions": [f"POST /lab/{name}" for name in ACTIONS],
    }


async def create_account(lab: Lab, wanted: CreateAccount) -> Answer:
    """An account and a key in a state."""
    state = STATES.get(wanted.state)
    if state is None:
        raise ValueError(f"there is no state {wanted.state!r}; there are {', '.join(STATES)}")
    members = {n: v for n, v in _set_members(wanted).items() if n not in {"state", "key"}}
    key = _set_members(wanted.key)
    if "expires_in_seconds" in key:
        expires_ns = lab.clock.utc_ns() + round(key.pop("expires_in_seconds") * 1e9)
        key["expires_at_ns"] = expires_ns
    account, created = await lab.create(state, members, key)
    return {
        "state": wanted.state,
        "key": created.secret,
        "account": account,
        "key_facts": created.key,
    }


async def set_balances(lab: Lab, wanted: SetBalances) -> Answer:
    """Have an account own just so much."""
    given = (
        (Currency.USD, wanted.usd),
        (Currency.BUNDLED_CREDITS, wanted.bundled),
        (Currency.DIEM, wanted.diem),
    )
    amounts = {currency: parse_usd(text) for currency, text in given if text is not None}
    return {"account": await lab.set_balances(wanted.account, amounts)}


async def move_clock(lab: Lab, wanted: MoveClock) -> Answer:
    """Let time pass, all at once."""
    if [wanted.advance_seconds, wanted.set, wanted.to].count(None) != 2:
        raise ValueError("give one of `advance_seconds`, `set` and `to`")
    now = datetime.fromtimestamp(lab.clock.utc_ns() / 1e9, UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if wanted.advance_seconds is not None:
        lab.clock.advance(wanted.advance_seconds)
    elif wanted.set is not None:
        if wanted.set.tzinfo is None:
            raise ValueError("`set` needs a time zone, such as 2026-12-31T23:59:59Z")
        lab.clock.set(round(wanted.set.timestamp() * 1e9))
    elif wanted.to == "next-day":
        lab.clock.set(_ns_of(midnight + timedelta(days=1)))
    else:
        lab.clock.set(_ns_of((midnight.replace(day=1) + timedelta(days=32)).replace(day=1)))
    return {"utc": iso8601(lab.clock.utc_ns())}


async def plan_fault(lab: Lab, wanted: PlanFault) -> Answer:
    """Have a model, or the gateway, fail."""
    _check_measures(wanted)
    if wanted.fault == CRASH:
        calls = wanted.calls or CRASHES_DEFAULT
        lab.plan_crashes(calls)
        return {"fault": CRASH, "model": None, "calls": calls}
    known = {fault.value: fault for fault in Fault}
    if wanted.fault not in known:
        raise ValueError(f"there is no fault {wanted.fault!r}; there are {', '.join(FAULTS)}")
    usual = PlannedFault(known[wanted.fault])
    planned = PlannedFault(
        usual.fault,
        usual.after_events if wanted.after_events is None else wanted.after_events,
        usual.seconds if wanted.seconds is None else wanted.seconds,
    )
    model = wanted.model or MODEL_DEFAULT
    lab.plan_fault(model, planned, wanted.calls)
    return {"fault": wanted.fault, "model": model, "calls": wanted.calls}


def _check_measures(wanted: PlanFault) -> None:
    """Raise ValueError for a measure that the fault has not: a test would pass for nothing."""
    if wanted.seconds is not None and wanted.fault != Fault.SLOW.value:
        raise ValueError(f"`seconds` is a measure of {Fault.SLOW.value!r} alone")
    if wanted.after_events is not None and wanted.fault not in _OF_STREAMS:
        raise ValueError(f"`after_events` is a measure of {', '.join(sorted(_OF_STREAMS))}")
    if wanted.model is not None and wanted.fault == CRASH:
        raise ValueError("a crash is the gateway's, whatever the model")


_OF_STREAMS: Final = frozenset(
    fault.value
    for fault in (
        Fault.STALL_AFTER,
        Fault.CUT_AFTER,
        Fault.MALFORMED,
        Fault.INVALID_UTF8,
        Fault.IN_BAND_ERROR,
        Fault.IN_BAND_OVERLOAD,
    )
)


async def clear_faults(lab: Lab, _: Nothing) -> Answer:
    """Have everything work again, with all its places."""
    lab.clear_faults()
    return {}


async def set_capacity(lab: Lab, wanted: SetCapacity) -> Answer:
    """Bound what a model serves at once."""
    lab.set_capacity(wanted.model, wanted.concurrency_max)
    return {"model": wanted.model, "concurrency_max": wanted.concurrency_max}


async def reset(lab: Lab, _: Nothing) -> Answer:
    """Everything as at the start."""
    await lab.reset()
    return {"admin_key": lab.admin_key}


@dataclass(frozen=True, slots=True)
class Action:
    """One row of the table."""

    arguments: type[Arguments]
    run: Callable[[Lab, Any], Awaitable[Answer]]


ACTIONS: Final[Mapping[str, Action]] = {
    "accounts": Action(CreateAccount, create_account),
    "balances": Action(SetBalances, set_balances),
    "clock": Action(MoveClock, move_clock),
    "faults": Action(PlanFault, plan_fault),
    "faults/clear": Action(Nothing, clear_faults),
    "capacity": Action(SetCapacity, set_capacity),
    "reset": Action(Nothing, reset),
}


_ERRORS: Final[frozenset[Code]] = frozenset(
    {
        Adjunct.ROUTE_NOT_FOUND,
        Adjunct.INVALID_JSON,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.PAYLOAD_TOO_LARGE,
        ErrorCode.UNAUTHORIZED,
    }
)


def lab_endpoints(lab: Lab) -> tuple[Endpoint, ...]:
    """What is served below `/lab`."""

    async def handle_show(exchange: Exchange, _: str) -> None:
        _refuse_pages(exchange)
        await _reply(exchange, await show(lab, Nothing()))

    async def handle_action(exchange: Exchange, name: str) -> None:
        _refuse_pages(exchange)
        action = ACTIONS.get(name)
        if action is None:
            raise ApiError(Adjunct.ROUTE_NOT_FOUND)
        body = await _body(exchange)
        try:
            wanted = msgspec.convert(body, action.arguments)
            async with lab.busy:
                answer = await action.run(lab, wanted)
        except (ValueError, OperationRefused) as problem:  # includes msgspec.ValidationError
            raise refusal([custom_issue((), str(problem))]) from None
        await _reply(exchange, answer)

    anybody = Authentication.NONE
    return (
        Endpoint("lab", "GET", "/lab", handle_show, anybody, errors=_ERRORS),
        Endpoint("lab_action", "POST", "/lab/{action}", handle_action, anybody, errors=_ERRORS),
    )


def _refuse_pages(exchange: Exchange) -> None:
    """Raise UNAUTHORIZED for a request that a web page makes.

    A browser names the page that sends something elsewhere. A page whose own name was led to this
    machine is told by that name: those of labs have no dot, or are addresses.
    """
    host = (exchange.header(b"host") or b"").decode("latin-1")
    name = host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host
    is_far = "." in name and not _ADDRESS.fullmatch(name) and not name.endswith(_NEAR)
    if is_far or exchange.header(b"origin") is not None:
        raise ApiError(ErrorCode.UNAUTHORIZED, reason="a web page may not control a lab")


_ADDRESS: Final = re.compile(r"[\d.]+|\[[0-9a-fA-F:.]+\]")
_NEAR: Final = (".localhost", ".local", ".internal", ".test")
"""Endings of names that nobody owns in the public network."""


async def _body(exchange: Exchange) -> dict[str, Any]:
    """The JSON object of a request; an empty body is an empty object."""
    body, more = b"", True
    while more:
        message = await exchange.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > BODY_BYTES_MAX:
            raise ApiError(ErrorCode.PAYLOAD_TOO_LARGE)
        more = message.get("more_body", False)
    return decode_object(body) if body.strip() else {}


async def _reply(exchange: Exchange, answer: Answer) -> None:
    """JSON; to a shell that accepts plain text, the key of an account and nothing else."""
    if "key" in answer and exchange.header(b"accept") == b"text/plain":
        text = str(answer["key"]).encode() + b"\n"
        await exchange.answer(STATUS_OK, [(b"content-type", b"text/plain; charset=utf-8")], text)
    else:
        await exchange.answer(STATUS_OK, [JSON_CONTENT], msgspec.json.encode(answer))


def _set_members(wanted: Arguments) -> dict[str, Any]:
    members = ((name, getattr(wanted, name)) for name in wanted.__struct_fields__)
    return {name: value for name, value in members if value is not msgspec.UNSET}


def _ns_of(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000_000
