"""A gateway whose accounts, time and failures are at its clients' command.

The gateway is the product's own, from the socket to the books; what is special stands around it:
books in a temporary folder, a clock that can be moved, backends that fail when they are told to.
A reset puts a new gateway with empty books in its place, behind the same address.

Invariants: nothing is kept but in the temporary folder, which goes when the lab does; whoever holds
`busy` meets one gateway from beginning to end, and so does a request.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from traghetto.accounts.operations import AccountShown, KeyCreated
from traghetto.accounts.values import Account
from traghetto.app import Gateway, Launch, open_gateway
from traghetto.catalog.model import Model
from traghetto.endpoints.spec import Endpoint
from traghetto.engines.image_pool import ImagePool
from traghetto.engines.imaging.backends import IMAGE_FAULTS
from traghetto.engines.imaging.extras import is_available
from traghetto.engines.replicas import ReplicaPool
from traghetto.engines.simulator.faults import FaultPlan, PlannedFault
from traghetto.http.dispatch import EdgeServices
from traghetto.ids import new_request_id
from traghetto.lab.clock import LabClock
from traghetto.lab.states import State
from traghetto.ledger.book import Basis, Charge, ChargeLine, Usage, price_version
from traghetto.limits.concurrency import Gate
from traghetto.money import Currency, UnitPrice, parse_usd
from traghetto.pipeline.exchange import Message, Receive, Scope, Send

MODELS_FILE: Final = Path(__file__).with_name("models.toml")
EXPIRY_SECONDS: Final = 0.001
"""How long a key of the state `expired` is valid; then that time is let pass."""
SPENT_ON: Final = "lab"
"""The model that the books name for what a state has spent before."""


_REMOVER: Final = """
[[models]]
id = "cutter"
type = "inpaint"
engine = "grabcut"
size_class = "none"
pricing = { inpaint = "0.03" }
"""
"""What is served besides where OpenCV is installed."""


class SimulatedCrash(RuntimeError):
    """An error of our own that was asked for."""


class Lab:
    """The gateway that is served now, and what can be done to it."""

    def __init__(self, folder: Path, flags: Mapping[str, Any]) -> None:
        """`flags` are settings of the gateway."""
        self._folder = folder
        self._flags = flags
        self._roots: tuple[Endpoint, ...] = ()
        self._generation = 0
        self._open = AsyncExitStack()
        self.busy = asyncio.Lock()
        """Held by whoever changes something, so that a reset meets nobody halfway."""
        self._capacities: dict[str, Gate] = {}
        """The gates that the models had before their capacity was changed."""
        self._crashes_left = 0
        self.clock = LabClock()
        self.gateway: Gateway
        self.admin_key = ""
        """The ADMIN key of the account `default`; a new one after each reset."""

    async def start(self, roots: Iterable[Endpoint] = ()) -> None:
        """Serve a new gateway with empty books, now and after each reset with `roots` beside it."""
        self._roots = tuple(roots) or self._roots
        self._generation += 1
        data_dir = self._folder / str(self._generation)
        flags = {**self._flags, "data_dir": data_dir}
        models = self._folder / "models.toml"
        models.write_text(MODELS_FILE.read_text() + (_REMOVER if is_available("vision") else ""))
        # Without the environment: a lab is the same wherever it runs.
        launch = Launch(models, flags, environ={}, is_lab=True)
        clock = LabClock()
        opened = AsyncExitStack()
        opened.callback(shutil.rmtree, data_dir, ignore_errors=True)
        gateway, started = await opened.enter_async_context(
            open_gateway(launch, launch.configuration(), clock, self._roots)
        )
        assert started.admin_key is not None, "new books make a first key"
        self.gateway, self.clock, self.admin_key = gateway, clock, started.admin_key
        self._crashes_left = 0
        self._capacities = {}
        self._open = opened

    async def aclose(self) -> None:
        """End the gateway, and remove its books."""
        await self.gateway.cancel_requests()
        await self._open.aclose()

    async def reset(self) -> None:
        """Everything as at the start; requests under way end with MODEL_OFFLINE."""
        before, opened = self.gateway, self._open
        await self.start()
        try:
            await before.cancel_requests()
        finally:
            await opened.aclose()

    # What a server needs

    @property
    def edge(self) -> EdgeServices:
        """What connections share with the gateway; a server takes it once, and keeps it."""
        return self.gateway.dispatch.edge

    @property
    def draining(self) -> bool:
        """Whether the server has stopped accepting connections."""
        return self.gateway.dispatch.draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self.gateway.dispatch.draining = value

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope by the gateway that is served now."""

        async def receive_or_crash() -> Message:
            if self._crashes_left and not scope["path"].startswith("/lab"):
                self._crashes_left -= 1
                raise SimulatedCrash("simulated fault: crash")
            return await receive()

        is_request = scope["type"] == "http"
        await self.gateway.dispatch(scope, receive_or_crash if is_request else receive, send)

    # Accounts

    async def create(
        self, state: State, account: Mapping[str, Any], key: Mapping[str, Any]
    ) -> tuple[AccountShown, KeyCreated]:
        """An account and a key in `state`, except for what `account` and `key` say otherwise.

        Raises OperationRefused and ValueError.
        """
        operations = self.gateway.administration
        name = account.get("name") or f"lab-{new_request_id()}"
        made = await operations.perform(
            "accounts.create", {**state.account, **account, "name": name}
        )
        expiry = {"expires_at_ns": self.clock.utc_ns() + round(EXPIRY_SECONDS * 1e9)}
        created = await operations.perform(
            "keys.create",
            {**state.key, **(expiry if state.is_expired else {}), **key, "account": name},
        )
        assert isinstance(made, AccountShown)
        assert isinstance(created, KeyCreated)
        if state.is_expired:
            self.clock.advance(EXPIRY_SECONDS)
        if state.spent_usd is not None:
            await self._spend(made.id, created.key.id, parse_usd(state.spent_usd))
            made = await self.account(name)
        return made, created

    async def account(self, name: str) -> AccountShown:
        """An account as the operators see it; raises OperationRefused."""
        shown = await self.gateway.administration.perform("accounts.show", {"account": name})
        assert isinstance(shown, AccountShown)
        return shown

    async def _spend(self, account_id: str, key_id: str, nano_usd: int) -> None:
        """A charge in the books, as of a request by that key."""
        book, request_id = self.gateway.book, new_request_id()
        limits = self.gateway.directory.key(key_id).limits
        hold = book.reserve(
            request_id=request_id,
            account_id=account_id,
            key_id=key_id,
            limits=limits,
            upper_bound_nano_usd=nano_usd,
            least_nano_usd=nano_usd,
            floor_nano_usd=0,
        )
        usage = Usage(
            request_id=request_id,
            account_id=account_id,
            key_id=key_id,
            model=SPENT_ON,
            prompt_tokens=0,
            completion_tokens=0,
            cached_tokens=0,
            reasoning_tokens=0,
            basis=Basis.COUNTED,
            streamed=False,
            created_ns=self.clock.utc_ns(),
        )
        price = {SPENT_ON: UnitPrice(nano_usd, 1)}
        charge = Charge((ChargeLine(SPENT_ON, 1, nano_usd),), usage, price_version(price))
        await hold.settle(charge).durable

    async def set_balances(self, name: str, wanted: Mapping[Currency, int]) -> AccountShown:
        """Have an account own just so much (nano_usd); raises OperationRefused, ValueError."""
        account: Account = self.gateway.directory.account(name)
        owned = self.gateway.book.balances(account.id)
        if min(wanted.values(), default=0) < 0:
            raise ValueError("a balance is at least 0")
        if wanted.get(Currency.DIEM) and Currency.DIEM not in owned:
            raise ValueError("the account has no DIEM a day: make one with `diem`")
        for currency, nano_usd in wanted.items():
            difference = nano_usd - owned.get(currency, 0)
            if difference:
                await self.gateway.book.adjust(
                    account.id, currency, difference, reason="set in the lab"
                )
        return await self.account(name)

    # Failures

    def models(self) -> tuple[Model, ...]:
        """What is served."""
        return tuple(self.gateway.services.fleet.catalog.models)

    def plan_fault(self, model_id: str, fault: PlannedFault, calls: int | None) -> None:
        """Have a model fail so for its next `calls` calls, or until `clear_faults`.

        Raises ValueError for a model that has no such faults.
        """
        pool = self._pool(model_id)
        plans = list(_plans(pool))
        if not plans:
            raise ValueError(f"model {model_id!r} has no engine that fails on purpose")
        if isinstance(pool, ImagePool) and fault.fault not in IMAGE_FAULTS:
            raise ValueError(f"models of images have no fault {fault.fault.value!r}")
        for plan in plans:
            plan.set(fault, calls=calls)

    def plan_crashes(self, requests: int) -> None:
        """Have the gateway itself fail at the next requests that have a body."""
        self._crashes_left = requests

    def clear_faults(self) -> None:
        """Have everything work again, with all its places, and hold no failure against anybody."""
        self._crashes_left = 0
        self._set_gates(self._capacities)
        self._capacities = {}
        for pool in self.gateway.services.fleet.every_pool():
            for plan in _plans(pool):
                plan.clear()
            pool.forget_failures()

    def set_capacity(self, model_id: str, concurrency_max: int | None) -> None:
        """So many requests to a model at once, and none that wait; None is no bound.

        Requests that it serves now are not counted. Raises ValueError for an unknown model.
        """
        self._pool(model_id)
        self._capacities.setdefault(model_id, self.gateway.services.fleet.gates[model_id])
        self._set_gates({model_id: Gate(self.clock, concurrency_max=concurrency_max)})

    def _set_gates(self, gates: Mapping[str, Gate]) -> None:
        services = self.gateway.services
        fleet = services.fleet
        services.fleet = replace(fleet, gates={**fleet.gates, **gates})

    def _pool(self, model_id: str) -> ReplicaPool[Any]:
        fleet = self.gateway.services.fleet
        pool = fleet.pools.get(model_id) or fleet.image_pools.get(model_id)
        if pool is None:
            known = ", ".join(sorted((*fleet.pools, *fleet.image_pools)))
            raise ValueError(f"no model {model_id!r} is served; there are {known}")
        return pool


def _plans(pool: ReplicaPool[Any]) -> Iterator[FaultPlan]:
    for member in pool.members:
        plan = getattr(member.backend, "faults", None)
        if isinstance(plan, FaultPlan):
            yield plan
