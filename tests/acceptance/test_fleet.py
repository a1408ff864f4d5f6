"""The models of a running gateway: found, lost, retried, reloaded, and taken out of service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.client import ask, chat_body
from support.configuration import model_toml, relayed_toml
from support.gateway import RunningGateway, running_gateway
from support.upstream import (
    Act,
    Exchange,
    FaultUpstream,
    answer,
    answer_completion,
    answer_json,
    hang,
    upstream_in_thread,
)
from support.waiting import wait_until
from traghetto.app import Launch
from traghetto.app import fleet as fleet_module
from traghetto.app import gateway as gateway_module
from traghetto.catalog import ConfigInvalid
from traghetto.engines.llama.backend import LlamaBackend
from traghetto.engines.llama.library import LlamaLoadFailure
from traghetto.engines.openai.backend import OpenAIBackend
from traghetto.settings import Upstream

RETRY_SECONDS = 0.05


@pytest.fixture
def upstream() -> Iterator[FaultUpstream]:
    with upstream_in_thread() as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that does not wait long for a silent upstream, and soon asks again."""
    monkeypatch.setattr(fleet_module, "LISTING_SECONDS_MAX", 0.3)
    monkeypatch.setattr(gateway_module, "UPSTREAM_RETRY_SECONDS", RETRY_SECONDS)


def launch(tmp_path: Path, *upstreams: FaultUpstream, toml: str | None = None) -> Launch:
    """As `serve --upstream URL ...`, with a configuration file if there is one to write."""
    path = None
    if toml is not None:
        path = tmp_path / "traghetto.toml"
        path.write_text(toml)
    return Launch(
        config_path=path,
        flags={"data_dir": tmp_path / "data", "port": 0},
        upstreams=tuple(
            Upstream(name=f"upstream-{number}", url=upstream.url)
            for number, upstream in enumerate(upstreams, 1)
        ),
    )


def listing(*ids: str) -> Act:
    return answer_json({"object": "list", "data": [{"id": model_id} for model_id in ids]})


def served(gateway: RunningGateway) -> list[str]:
    return [model.id for model in gateway.gateway.services.fleet.catalog.models]


def events(gateway: RunningGateway) -> list[str]:
    return [record["event"] for record in gateway.records()]


def reload(gateway: RunningGateway) -> None:
    gateway.run(gateway.gateway.reload())


# --- breakers -----------------------------------------------------------------------------------


def test_a_second_account_keeps_its_models_whatever_the_first_one_sends(
    tmp_path: Path, upstream: FaultUpstream
) -> None:
    """Pools are older than the accounts; who uses them is asked when failures are counted."""
    upstream.default = answer(500, b"{}")
    with running_gateway(tmp_path, relayed_toml(upstream)) as gateway:
        key = gateway.new_key()
        body = chat_body("relayed")
        assert {ask(gateway, key, body).status for _ in range(6)} == {500}
        upstream.default = answer_completion()
        assert ask(gateway, gateway.new_key(), body).status == 200


def test_a_gateway_of_one_account_gives_a_failing_backend_rest(
    tmp_path: Path, upstream: FaultUpstream
) -> None:
    """There is nobody else whom one caller's evidence could harm."""
    upstream.default = answer(500, b"{}")
    free = relayed_toml(upstream, pricing='{ input = "0", output = "0" }')
    with running_gateway(tmp_path, free) as gateway:
        key = gateway.started.admin_key
        body = chat_body("relayed")
        assert [ask(gateway, key, body).status for _ in range(4)][-1] == 503


# --- upstreams that do not answer ---------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_silent_upstreams_hold_up_neither_start_nor_reload(
    tmp_path: Path, upstream: FaultUpstream
) -> None:
    """They accept and say nothing; the start waits for all of them together, and not for ever."""
    upstream.models_act = hang
    with running_gateway(tmp_path, launch=launch(tmp_path, upstream, upstream)) as gateway:
        assert len(gateway.started.warnings) == 2
        reload(gateway)
        assert served(gateway) == []
        records = [r for r in gateway.records() if r["event"] == "upstream_silent"]
        assert len(records) == 1, "silence is told once, not at every attempt"
        upstream.models_act = listing("m")
        wait_until(lambda: served(gateway) == ["m"])
        assert events(gateway).count("upstream_answers") == 1


@pytest.mark.usefixtures("impatient")
def test_looking_for_a_silent_upstream_asks_that_one_alone(
    tmp_path: Path, upstream: FaultUpstream
) -> None:
    """Reloads do not multiply the asking, and a file that was edited waits for a reload."""
    priced = model_toml("m", engine="", pricing='{ input = "1", output = "1" }')
    with upstream_in_thread() as silent:
        silent.go_away()
        plan = launch(tmp_path, upstream, silent, toml=priced)
        with running_gateway(tmp_path, launch=plan) as gateway:
            for _ in range(3):
                reload(gateway)
            # The sweep of holds, that of expired answers, and one that looks.
            wait_until(lambda: len(gateway.gateway._tasks) == 3)
            asked = len(upstream.other_requests)
            (tmp_path / "traghetto.toml").write_text(priced.replace('"1"', '"9"'))
            silent.models_act = listing("late")
            silent.come_back()
            wait_until(lambda: served(gateway) == ["m", "late"])
            assert len(upstream.other_requests) == asked
            assert price(gateway, "m") == 10**9
            reload(gateway)
            assert price(gateway, "m") == 9 * 10**9


@pytest.mark.usefixtures("impatient")
def test_a_refused_reload_does_not_end_the_looking(tmp_path: Path, upstream: FaultUpstream) -> None:
    """An operator's typing error costs no models that come up later."""
    upstream.go_away()
    plan = launch(tmp_path, upstream, toml="")
    with running_gateway(tmp_path, launch=plan) as gateway:
        (tmp_path / "traghetto.toml").write_text("nonsense = 1\n")
        for _ in range(2):
            reload(gateway)
        assert events(gateway).count("reload_refused") == 2
        upstream.come_back()
        wait_until(lambda: served(gateway) == ["m"])


def price(gateway: RunningGateway, model_id: str) -> int:
    model = gateway.gateway.services.fleet.catalog.by_id(model_id)
    assert model is not None
    return model.pricing.input.nano_usd


# --- ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["a\r\nx-forged: 1", "modèle", "m\n", "", "with space", "traits"])
def test_an_upstreams_unusable_ids_are_left_out_and_told_once(
    tmp_path: Path, upstream: FaultUpstream, bad: str
) -> None:
    """An id stands in headers and paths; what a server calls its models is not trusted there."""
    upstream.models_act = listing("/srv/good.gguf", bad)
    with running_gateway(tmp_path, launch=launch(tmp_path, upstream)) as gateway:
        reload(gateway)
        assert served(gateway) == ["/srv/good.gguf"]
        assert ask(gateway, gateway.started.admin_key, chat_body("/srv/good.gguf")).status == 200
        assert events(gateway).count("model_ids_unusable") == (1 if bad else 0)


# --- reloads ------------------------------------------------------------------------------------


def test_a_reload_names_the_settings_that_wait_for_a_restart(tmp_path: Path) -> None:
    """An edit that has no effect yet is told; deadlines take effect at once and are not."""
    with running_gateway(tmp_path, model_toml("first")) as gateway:
        reload(gateway)
        changed = 'total_seconds = 500\naccess_log = true\noverdraft = "never"\n'
        (tmp_path / "traghetto.toml").write_text(changed + model_toml("first"))
        reload(gateway)
        told = [r for r in gateway.records() if r["event"] == "settings_need_restart"]
        assert [record["reason"] for record in told] == ["overdraft, access_log"]


def test_a_file_that_was_emptied_does_not_give_everything_away(tmp_path: Path) -> None:
    """Neither a start nor a reload takes a file without models for a wish for the simulator."""
    with running_gateway(tmp_path, model_toml("first")) as gateway:
        (tmp_path / "traghetto.toml").write_text("")
        reload(gateway)
        assert served(gateway) == ["first"]
        (refused,) = [r for r in gateway.records() if r["event"] == "reload_refused"]
        assert "name at least one `[[models]]` table" in refused["reason"]
    with pytest.raises(ConfigInvalid, match="or start without --config"):
        launch(tmp_path, toml="").configuration()


def test_a_model_file_that_cannot_be_loaded_refuses_the_reload(
    tmp_path: Path, upstream: FaultUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was served stays, and what was opened for the refused fleet is closed again."""

    async def refuse(*_: Any, **__: Any) -> LlamaBackend:
        raise LlamaLoadFailure("it is not a GGUF file")

    opened: list[OpenAIBackend] = []
    construct = OpenAIBackend.__init__

    def noted(backend: OpenAIBackend, *arguments: Any, **named: Any) -> None:
        construct(backend, *arguments, **named)
        opened.append(backend)

    monkeypatch.setattr(LlamaBackend, "load", refuse)
    monkeypatch.setattr(OpenAIBackend, "__init__", noted)
    path = tmp_path / "traghetto.toml"
    with running_gateway(tmp_path, model_toml("first")) as gateway:
        model_file = tmp_path / "not-a-model.gguf"
        model_file.touch()
        path.write_text(
            relayed_toml(upstream) + model_toml("local", engine='"llama"', gguf=f'"{model_file}"')
        )
        reload(gateway)
        assert served(gateway) == ["first"]
        (refused,) = [r for r in gateway.records() if r["event"] == "reload_refused"]
        assert "not a GGUF file" in refused["reason"]
        assert [backend._is_open for backend in opened] == [False]


def test_a_request_that_still_counts_tokens_keeps_its_model_through_a_reload(
    tmp_path: Path, upstream: FaultUpstream
) -> None:
    """Its backend is closed after it, although no call was under way when the reload came."""
    counting, go_on = threading.Event(), threading.Event()

    async def count(exchange: Exchange) -> None:
        counting.set()
        await asyncio.to_thread(go_on.wait, 10)
        await answer_json({"count": 7})(exchange)

    upstream.by_path["/tokenize"] = count
    before = relayed_toml(upstream).replace("url =", 'tokenize = "vllm"\nurl =')
    with running_gateway(tmp_path, before) as gateway:
        key = gateway.new_key()
        statuses: list[int] = []
        pool = gateway.gateway.services.fleet.pools["relayed"]
        caller = threading.Thread(
            target=lambda: statuses.append(ask(gateway, key, chat_body("relayed")).status)
        )
        caller.start()
        assert counting.wait(10)
        (tmp_path / "traghetto.toml").write_text(model_toml("other"))
        reload(gateway)
        go_on.set()
        caller.join()
        assert statuses == [200]
        wait_until(lambda: pool not in gateway.gateway._retired)


def test_a_gateway_that_stops_closes_what_its_reloads_retired(
    tmp_path: Path, upstream: FaultUpstream
) -> None:
    """Even while a request of the old fleet is still open."""
    upstream.default = hang
    with running_gateway(tmp_path, relayed_toml(upstream), drain_seconds_max=0.0) as gateway:
        key = gateway.new_key()
        (member,) = gateway.gateway.services.fleet.pools["relayed"].members
        caller = threading.Thread(target=lambda: ask(gateway, key, chat_body("relayed")))
        caller.start()
        wait_until(lambda: upstream.requests)
        (tmp_path / "traghetto.toml").write_text(model_toml("other"))
        reload(gateway)
        backend = member.backend
        assert isinstance(backend, OpenAIBackend)
        assert backend._is_open
    caller.join()
    assert not backend._is_open


def test_a_reload_cannot_outlive_the_holds_of_the_running_gateway(tmp_path: Path) -> None:
    """The length of holds changes at a start only, so longer deadlines wait for it too."""
    with running_gateway(tmp_path, model_toml("m")) as gateway:
        path = tmp_path / "traghetto.toml"
        path.write_text("hold_seconds_max = 3000\ntotal_seconds = 2000\n" + model_toml("m"))
        reload(gateway)
        assert events(gateway)[-1] == "reload_refused"
        assert "`hold_seconds_max`" in gateway.records()[-1]["reason"]
