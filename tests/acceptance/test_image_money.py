"""Crowds that ask for images with too little money, leave, repeat themselves and meet faults.

The clients keep their own log. What was delivered must be what the books charged, to the
nano-dollar, and never more than there was.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.client import SECONDS_MAX, Answer, ask, assert_published
from support.configuration import edit_toml, image_toml
from support.gateway import (
    GatewayProcess,
    RunningGateway,
    gateway_process,
    operate,
    running_gateway,
)
from support.images import base64_text, form, opened, png
from support.processes import children, is_running
from support.waiting import wait_until
from traghetto.engines.simulator.faults import Fault, PlannedFault
from traghetto.storage.sqlite import open_read_only

NANO = 10**9
SPENDERS = 90
ASKS = 2
IMAGE, EDIT, FURTHER = "0.012345678", "0.043210987", "0.005000001"
"""The price of an image, of an edit, and of each further image that goes into one."""
WORDS = "[blocked]\nbasilisk\n"
TOML = (
    image_toml(
        "painter", pricing=f'{{ generation = "{IMAGE}", upscale = {{ 2x = "1", 4x = "1" }} }}'
    )
    + edit_toml(
        "editor",
        pricing=f'{{ inpaint = "{EDIT}", inputImages = {{ included = 1, additional = "{FURTHER}" }} }}',
    )
)  # fmt: skip
PICTURE = png(256, 256)
GENERATE, MULTI_EDIT = "/api/v1/image/generate", "/api/v1/image/multi-edit"
RETRIES_MAX = 400
PATIENCE_SECONDS = 0.25
"""A client that leaves does so at some time before."""

POOR = "INSUFFICIENT_BALANCE"
USD_LIMIT = "API_KEY_USD_SPEND_LIMIT_EXCEEDED"
DIEM_LIMIT = "API_KEY_DIEM_SPEND_LIMIT_EXCEEDED"
FAULTS = (
    Fault.BROKEN,
    Fault.CUT_AFTER,
    Fault.MALFORMED,
    Fault.REJECTED_INPUT,
    Fault.CONTENT_POLICY,
    Fault.SLOW,
)
"""What an engine is told to do now and then, without being given a rest for it."""
OTHER_REFUSALS = {
    "INFERENCE_FAILED",
    "IMAGE_EDIT_ERROR",
    "INVALID_REQUEST",
    "CONTENT_POLICY_VIOLATION",
    "MODEL_AT_CAPACITY",
    "MODEL_OFFLINE",
}
"""Those that have nothing to do with money."""


@dataclass(frozen=True)
class Row:
    """What an account and each of its keys have, and what those are told who ask for too much."""

    name: str
    account: dict[str, str]
    code: str
    limits: dict[str, str] = field(default_factory=dict)
    keys: int = 1


ROWS = (
    Row("an account's USD", {"usd": "1.5"}, POOR, keys=20),
    Row("an account's DIEM", {"diem": "1.5"}, POOR, keys=20),
    Row("an account's both", {"usd": "0.8", "diem": "0.7"}, POOR, keys=20),
    Row("a USD limit", {"usd": "1000"}, USD_LIMIT, {"usd": "1.5"}),
    Row("a DIEM limit", {"diem": "1000"}, DIEM_LIMIT, {"diem": "1.5"}),
    Row("both limits", {"usd": "1000", "diem": "1000"}, DIEM_LIMIT, {"usd": "0.8", "diem": "0.7"}),
)


def nano(amount: str) -> int:
    return int(Decimal(amount) * NANO)


# --- what is asked ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """A request, and what it costs if all of it is delivered."""

    path: str
    body: bytes
    headers: dict[str, str]
    nano_usd: int


def generation(variants: int, seed: int, prompt: str = "a ferry") -> Wish:
    body = {
        "model": "painter", "prompt": prompt, "width": 64, "height": 64, "variants": variants,
        "seed": seed, "format": "png",
    }  # fmt: skip
    headers = {"content-type": "application/json"}
    return Wish(GENERATE, json.dumps(body).encode(), headers, variants * nano(IMAGE))


def edit(pictures: int, *, as_form: bool, seed: int) -> Wish:
    prompt = f"make it {10 + seed % 80}% darker"
    cost = nano(EDIT) + (pictures - 1) * nano(FURTHER)
    if as_form:
        body, headers = form({"prompt": prompt}, [("images", PICTURE)] * pictures)
        return Wish(MULTI_EDIT, body, {"content-type": str(headers["content-type"])}, cost)
    content = json.dumps({"prompt": prompt, "images": [base64_text(PICTURE)] * pictures})
    return Wish(MULTI_EDIT, content.encode(), {"content-type": "application/json"}, cost)


def draw_wish(rng: random.Random) -> Wish:
    seed = rng.randrange(10**6)
    if rng.random() < 0.3:
        return edit(rng.choice((1, 1, 2, 3)), as_form=rng.random() < 0.5, seed=seed)
    prompt = "a basilisk" if rng.random() < 0.08 else "a ferry"
    return generation(rng.randint(1, 4), seed, prompt)


# --- those who ask, and what they write down ----------------------------------------------------


@dataclass(frozen=True)
class Told:
    """An answer of 200, and what its images cost."""

    request_id: str
    key: str
    nano_usd: int
    idempotency_key: str | None
    is_replay: bool
    body: bytes


@dataclass
class Crowd:
    """Clients of one gateway."""

    gateway: RunningGateway
    session: aiohttp.ClientSession
    told: list[Told] = field(default_factory=list)
    refusals: list[Answer] = field(default_factory=list)
    left: int = 0
    """How many clients went away before their answer had come."""
    holds_max: int = 0
    """The most holds that were seen open at once."""

    async def ask(
        self, key: str, wish: Wish, *, patience: float | None = None, name: str | None = None
    ) -> Answer | None:
        """The answer to a wish; None if the client's patience, in seconds, ran out before.

        `name` is an idempotency key.
        """
        headers = wish.headers | {"authorization": f"Bearer {key}"}
        if name is not None:
            headers["idempotency-key"] = name
        try:
            async with asyncio.timeout(patience):
                async with self.session.post(wish.path, data=wish.body, headers=headers) as reply:
                    content = await reply.read()
        except TimeoutError:
            self.left += 1
            return None
        found = {header.lower(): value for header, value in reply.headers.items()}
        answer = Answer(reply.status, reply.reason or "", found, content)
        if answer.status == 200:
            self.told.append(
                Told(
                    answer.request_id,
                    key,
                    worth(answer, wish),
                    name,
                    answer.headers.get("idempotent-replayed") == "true",
                    content,
                )
            )
        else:
            self.refusals.append(answer)
        return answer


def worth(answer: Answer, wish: Wish) -> int:
    """What an answer costs by what is in it: nothing for black images, all of it otherwise."""
    if wish.path == MULTI_EDIT:
        assert opened(answer.body).format == "PNG"
        return wish.nano_usd
    count = len(answer.json["images"])
    assert count * nano(IMAGE) == wish.nano_usd, "as many images as were asked for"
    return 0 if answer.headers["x-venice-is-content-violation"] == "true" else wish.nano_usd


@asynccontextmanager
async def crowd(gateway: RunningGateway) -> AsyncIterator[Crowd]:
    async with aiohttp.ClientSession(
        gateway.url,
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=2 * SECONDS_MAX),
    ) as session:
        yield Crowd(gateway, session)


@asynccontextmanager
async def faults_now_and_then(spenders: Crowd, rng: random.Random) -> AsyncIterator[None]:
    """The engines fail single calls, so rarely that nobody takes them for dead."""
    gateway = spenders.gateway
    pools = gateway.gateway.services.fleet.image_pools
    engines = [pool.members[0].backend for pool in pools.values()]

    async def plan() -> None:
        while True:
            await asyncio.sleep(0.06)
            spenders.holds_max = max(spenders.holds_max, gateway.gateway.book.open_holds)
            fault = PlannedFault(rng.choice(FAULTS), seconds=0.05)
            engine: Any = rng.choice(engines)
            engine.faults.set(fault, calls=1)

    planning = asyncio.ensure_future(plan())
    try:
        yield
    finally:
        planning.cancel()
        for engine in engines:
            engine.faults.clear()  # type: ignore[attr-defined]


async def spend(gateway: RunningGateway, keys: list[str], code: str) -> tuple[Crowd, list[Answer]]:
    """All spenders at once, and again; then each key alone, until it is refused for `code`.

    What they wrote down, and the last refusal of every key.
    """
    async with crowd(gateway) as spenders:

        async def spender(number: int) -> None:
            rng = random.Random(number)
            key = keys[number % len(keys)]
            for ask in range(ASKS):
                wish = draw_wish(rng)
                if number % 5 == 0:
                    twice = [spenders.ask(key, wish, name=f"{number}-{ask}") for _ in range(2)]
                    await asyncio.gather(*twice)
                else:
                    patience = rng.random() * PATIENCE_SECONDS if rng.random() < 0.25 else None
                    await spenders.ask(key, wish, patience=patience)

        # One of each kind comes first, while there is money for it.
        twice = generation(1, 1)
        await asyncio.gather(*(spenders.ask(keys[0], twice, name="first") for _ in range(2)))
        await spenders.ask(keys[0], generation(4, 2), patience=0)
        async with faults_now_and_then(spenders, random.Random("faults")):
            await asyncio.gather(*map(spender, range(SPENDERS)))
        return spenders, [await the_last_refusal(spenders, key, code) for key in keys]


async def the_last_refusal(spenders: Crowd, key: str, code: str) -> Answer:
    """What the key is told after it has bought single images, until it is refused for `code`."""
    for number in range(RETRIES_MAX):
        answer = await spenders.ask(key, generation(1, number))
        assert answer is not None
        refused = answer.headers.get("x-error-code")
        if refused == code:
            return answer
        if refused is not None:
            await asyncio.sleep(0.05)  # the engine has to be itself again first
    raise AssertionError(answer)


# --- what the books must say --------------------------------------------------------------------


def charged_by_request(gateway: RunningGateway) -> dict[str, int]:
    """What each request was charged by its usage and by its entries, in nano_usd."""
    assert gateway.differences() == []
    assert gateway.gateway.book.open_holds == 0
    with open_read_only(gateway.data_dir) as books:
        assert list(books.holds()) == []
        usages = list(books.usages())
    assert len({usage.request_id for usage in usages}) == len(usages)
    return {usage.request_id: usage.charged for usage in usages}


def assert_charged_as_told(gateway: RunningGateway, crowd: Crowd) -> int:
    """Every delivery was charged its price, and nothing else but what had been made for those
    who left; returns how many of these there were."""
    charged = charged_by_request(gateway)
    for told in crowd.told:
        if not told.is_replay:
            assert charged.pop(told.request_id, 0) == told.nano_usd
    statuses = {
        record["request_id"]: record["status"]
        for record in gateway.records()
        if record["event"] == "request"
    }
    late = [request_id for request_id, nano_usd in charged.items() if nano_usd]
    for request_id in late:
        assert statuses[request_id] in {200, 499}, "charged, and then not answered"
    assert len(late) <= crowd.left
    return len(late)


def assert_answered_once(told: list[Told]) -> None:
    """Under an idempotency key there is one answer that was made, and all others are its copies."""
    by_name = defaultdict(list)
    for each in told:
        if each.idempotency_key is not None and each.nano_usd:
            by_name[each.idempotency_key].append(each)
    for answers in by_name.values():
        assert [each.is_replay for each in answers].count(False) == 1
        assert len({each.body for each in answers}) == 1


def left_over(gateway: RunningGateway, row: Row) -> dict[str, int]:
    """What is left in each currency of the account, or of the limit of its key."""
    shown = gateway.perform("accounts.show", account="payer")
    left = {name: nano(shown[name]) for name in ("usd", "diem") if name in row.account}
    for currency, limit in row.limits.items():
        spent = sum(nano(key[f"spent_{currency}"]) for key in gateway.perform("keys.list")["keys"])
        left[currency] = min(left[currency], nano(limit) - spent)
    return left


@pytest.mark.parametrize("overdraft", ["never", "last"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_crowd_gets_the_images_that_there_is_money_for(
    tmp_path: Path, row: Row, overdraft: str
) -> None:
    """Concurrent requests were charged what they delivered, and nothing more was spent."""
    (tmp_path / "words.txt").write_text(WORDS)
    toml = f'[moderation]\nwords_file = "{tmp_path / "words.txt"}"\n' + TOML
    settings = {"rate_limits": "off", "failed_requests_max": 10**6, "access_log": True}
    with running_gateway(tmp_path, toml, overdraft=overdraft, **settings) as gateway:
        gateway.perform("accounts.create", name="payer", **row.account)
        limits = {f"limit_{name}": limit for name, limit in row.limits.items()}
        keys = [
            gateway.perform("keys.create", account="payer", **limits)["secret"]
            for _ in range(row.keys)
        ]
        spenders, last = asyncio.run(spend(gateway, keys, row.code))
        for refusal in spenders.refusals:
            assert refusal.headers["x-error-code"] in {row.code, *OTHER_REFUSALS}, refusal
        for refusal in last:
            assert_published(refusal, row.code)
        assert_charged_as_told(gateway, spenders)
        assert_answered_once(spenders.told)
        for amount in left_over(gateway, row).values():
            assert 0 <= amount < nano(IMAGE), "all of it was spent, and no more"
        assert spenders.holds_max >= 5, "the spenders did not meet"
        assert spenders.left > 0
        assert any(told.is_replay for told in spenders.told)


# --- the same request twice ---------------------------------------------------------------------

LARGE_PICTURE = PICTURE.ljust(200_000, b"\0")
"""Long enough to be compared by its digest."""


def edit_of(picture: bytes, *, as_form: bool) -> Wish:
    """An edit of one picture."""
    if as_form:
        body, headers = form({"prompt": "flip it"}, [("images", picture)])
        return Wish(MULTI_EDIT, body, {"content-type": str(headers["content-type"])}, nano(EDIT))
    content = json.dumps({"prompt": "flip it", "images": [base64_text(picture)]})
    headers = {"content-type": "application/json"}
    return Wish(MULTI_EDIT, content.encode(), headers, nano(EDIT))


@pytest.mark.parametrize("as_form", [False, True], ids=["JSON", "form"])
@pytest.mark.parametrize("picture", [PICTURE, LARGE_PICTURE], ids=["small", "large"])
def test_duplicates_at_once_are_made_once(tmp_path: Path, picture: bytes, as_form: bool) -> None:
    """Thirty clients send the same under one key; another picture, or another kind, is refused."""
    wish = edit_of(picture, as_form=as_form)
    others = [edit_of(picture[:-1] + b"\1", as_form=as_form), edit_of(picture, as_form=not as_form)]

    async def send(gateway: RunningGateway, key: str) -> tuple[list[Answer | None], Crowd]:
        async with crowd(gateway) as clients:
            sent = [clients.ask(key, wish, name="edit-1") for _ in range(30)]
            await asyncio.gather(*sent)
            return [await clients.ask(key, other, name="edit-1") for other in others], clients

    with running_gateway(tmp_path, TOML) as gateway:
        refused, clients = asyncio.run(send(gateway, gateway.new_key()))
        assert [told.is_replay for told in clients.told].count(False) == 1
        assert len(clients.told) == 30
        assert_answered_once(clients.told)
        assert set(charged_by_request(gateway).values()) == {nano(EDIT)}
        for answer in refused:
            assert answer is not None
            assert answer.status == 400
            assert b"already used with a different request" in answer.body


# --- a gateway that is killed -------------------------------------------------------------------

KILLS = 3
THREADS = 8
PAYER_USD = "8"


@dataclass
class Sender:
    """A client that asks for one image after the other, each under a key, until nobody answers."""

    number: int
    key: str
    told: dict[str, int] = field(default_factory=dict)
    """What answers that arrived were worth, by their request ids; 0 for what was given again."""
    unanswered: tuple[str, Wish] | None = None
    """What was cut off, with its idempotency key."""
    sent: int = 0
    cuts: int = 0
    replays: int = 0

    def keep_asking(self, gateway: GatewayProcess) -> None:
        """Begin with what was cut off, and go on with the next things."""
        rng = random.Random(f"{self.number} {self.sent}")
        while self.repeat(gateway):
            self.sent += 1
            self.unanswered = (f"client-{self.number}-{self.sent}", draw_wish(rng))

    def repeat(self, gateway: GatewayProcess) -> bool:
        """Have what was not answered answered, if anything; whether there is somebody to do so."""
        if self.unanswered is None:
            return True
        name, wish = self.unanswered
        headers: dict[str, str | None] = {**wish.headers, "idempotency-key": name}
        try:
            answer = ask(gateway, self.key, wish.body, path=wish.path, headers=headers)
        except (OSError, http.client.HTTPException):
            self.cuts += 1
            return False
        self.unanswered = None
        if answer.status != 200:
            assert answer.headers["x-error-code"] in {POOR, *OTHER_REFUSALS}, answer
            return True
        is_replay = answer.headers.get("idempotent-replayed") == "true"
        self.replays += is_replay
        self.told[answer.request_id] = 0 if is_replay else worth(answer, wish)
        return True


def test_a_kill_amid_images_costs_nobody_anything(tmp_path: Path) -> None:
    """What was delivered is in the books once; what was cut off is made, or given again."""
    config, data = tmp_path / "traghetto.toml", tmp_path / "data"
    config.write_text('rate_limits = "off"\nfailed_requests_max = 1000000\n' + TOML)
    arguments = ("--config", str(config), "--data-dir", str(data))
    rng = random.Random("kills")
    senders: list[Sender] = []
    for _ in range(KILLS):
        with gateway_process(tmp_path, *arguments) as gateway, ThreadPoolExecutor(THREADS) as pool:
            if not senders:
                operate(data, "accounts", "create", "payer", "--usd", PAYER_USD)
                key = operate(data, "keys", "create", "--account", "payer")["secret"]
                senders = [Sender(number, key) for number in range(THREADS)]
            asking = [pool.submit(sender.keep_asking, gateway) for sender in senders]
            time.sleep(0.4 + 0.5 * rng.random())
            workers = children(gateway.process.pid)
            gateway.kill()
            for each in asking:
                each.result()
        wait_until(lambda workers=workers: not any(map(is_running, workers)))  # type: ignore[misc]
        assert operate(data, "ledger", "verify")["differences"] == []
    with gateway_process(tmp_path, *arguments) as gateway:
        assert all(sender.repeat(gateway) for sender in senders)
        left = nano(operate(data, "accounts", "show", "payer")["usd"])
    assert operate(data, "ledger", "verify")["differences"] == []
    with open_read_only(data) as books:
        assert list(books.holds()) == []
        charged = {usage.request_id: usage.charged for usage in books.usages()}
    assert left == nano(PAYER_USD) - sum(charged.values()) >= 0
    for sender in senders:
        for request_id, nano_usd in sender.told.items():
            assert charged.pop(request_id, 0) == nano_usd
    # What is left in the books was charged before its client was told: it was given again.
    assert sum(map(bool, charged.values())) == sum(sender.replays for sender in senders)
    assert sum(sender.cuts for sender in senders) > 0
