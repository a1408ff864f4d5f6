"""The adapter to ComfyUI, against a socket that keeps a queue, a history and files like one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support import upstream as up
from support.image_pools import SHARED_FAULTS, Fault, K, check_fault, pool_at, refusing
from support.image_servers import ComfyServer, eventually, form_of, picture, png, size_of
from traghetto.clock import SystemClock
from traghetto.engines import image_answers
from traghetto.engines.breaker import BreakerState
from traghetto.engines.comfyui import backend as backend_module
from traghetto.engines.comfyui.backend import ComfyUIBackend
from traghetto.engines.comfyui.workflow import Workflow
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_pool import ImagePool
from traghetto.engines.image_protocols import EditCall, GenerateCall, Reference, UpscaleCall
from traghetto.engines.openai.client import HttpClient
from traghetto.engines.protocols import Deadlines

GENERATE = GenerateCall(request_id="r", prompt="a boat", width=16, height=8)
EDIT = EditCall(request_id="r", prompt="bluer", pictures=(picture(12, 10),))
UPSCALE = UpscaleCall(request_id="r", picture=picture(6, 4), width=12, height=8, creativity=0.02)

TEXT_TO_IMAGE = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": "{{seed}}",
            "steps": "{{steps=20}}",
            "cfg": "{{cfg=7.5}}",
            "sampler_name": "euler",
            "model": ["4", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "dream.safetensors"}},
    "5": {
        "class_type": "EmptyLatentImage",
        "inputs": {"width": "{{width}}", "height": "{{height}}"},
    },
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "{{prompt}}"}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "{{negative_prompt}}"}},
    "9": {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}},
}
IMAGE_TO_IMAGE = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "{{image}}"}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "{{prompt}}"}},
    "5": {"class_type": "ImageScale", "inputs": {"width": "{{width}}", "height": "{{height}}"}},
}
ENLARGE = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "{{image}}"}},
    "5": {"class_type": "ImageScale", "inputs": {"width": "{{width}}", "height": "{{height}}"}},
    "3": {"class_type": "KSampler", "inputs": {"denoise": "{{creativity}}"}},
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that suit a server which paints at once."""
    monkeypatch.setattr(backend_module, "POLL_SECONDS", 0.005)
    monkeypatch.setattr(backend_module, "POLL_SECONDS_MAX", 0.02)
    monkeypatch.setattr(backend_module, "STOP_SECONDS", 0.01)


def painter(client: HttpClient) -> ComfyUIBackend:
    return backend_of(client, Workflow("paint", TEXT_TO_IMAGE, "image"))


def editor(client: HttpClient) -> ComfyUIBackend:
    return backend_of(client, Workflow("edit", IMAGE_TO_IMAGE, "inpaint"))


def upscaler(client: HttpClient) -> ComfyUIBackend:
    return backend_of(client, Workflow("enlarge", ENLARGE, "upscale"))


def backend_of(client: HttpClient, workflow: Workflow) -> ComfyUIBackend:
    return ComfyUIBackend("u", client, workflow, clock=SystemClock(), rng=random.Random(2))


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


@asynccontextmanager
async def serving(
    server: ComfyServer, adapter: Callable[[HttpClient], ComfyUIBackend] = painter, **options: Any
) -> AsyncIterator[ImagePool]:
    async with server, pool_at(server.base, adapter, **options) as pool:
        yield pool


def in_size(graph: dict[str, Any]) -> bytes:
    """A picture of the size that the graph asks for."""
    return png(graph["5"]["inputs"]["width"], graph["5"]["inputs"]["height"])


async def failure_of(work: Awaitable[Any]) -> EngineFailure:
    with pytest.raises(EngineFailure) as caught:
        await work
    return caught.value


# --- good answers -----------------------------------------------------------------------------


def test_a_generation_fills_the_workflow_and_fetches_the_picture() -> None:
    """Values keep their types; what the caller leaves open is the workflow's, or drawn."""

    async def test() -> None:
        server = ComfyServer()
        server.make = in_size
        async with serving(server) as pool:
            (image,) = await pool.generate(GENERATE, "alice")
            assert size_of(image.data) == (16, 8)
            (graph,) = server.graphs.values()
            sampler = graph["3"]["inputs"]
            assert (sampler["steps"], sampler["cfg"]) == (20, 7.5)
            assert 0 <= sampler["seed"] < 2**32
            assert graph["6"]["inputs"]["text"] == "a boat"
            assert graph["7"]["inputs"]["text"] == ""
            assert graph["4"] == TEXT_TO_IMAGE["4"]

    run(test)


def test_what_the_caller_chooses_replaces_what_the_workflow_has() -> None:
    """Several images are jobs of their own with seeds that count up."""

    async def test() -> None:
        server = ComfyServer()
        async with serving(server) as pool:
            call = GenerateCall(
                request_id="r",
                prompt='{{seed}}", "class_type": "x',
                negative_prompt="fog",
                width=16,
                height=8,
                count=3,
                seed=-2,
                steps=4,
                guidance=1.0,
            )
            assert len(await pool.generate(call, "alice")) == 3
            graphs = list(server.graphs.values())
            assert [graph["3"]["inputs"]["seed"] for graph in graphs] == [2**32 - 2, 2**32 - 1, 0]
            for graph in graphs:
                assert graph["3"]["inputs"]["steps"] == 4
                assert graph["3"]["inputs"]["cfg"] == 1.0
                assert graph["6"]["inputs"]["text"] == call.prompt
                assert graph["7"]["inputs"]["text"] == "fog"

    run(test)


def test_an_edit_uploads_the_picture_where_the_server_forgets_it() -> None:
    """The node loads what was uploaded; without a size wanted the result has the picture's."""

    async def test() -> None:
        server = ComfyServer()
        server.make = in_size
        async with serving(server, editor) as pool:
            image = await pool.edit(EDIT, "alice")
            assert size_of(image.data) == (12, 10)
            (graph,) = server.graphs.values()
            name = graph["1"]["inputs"]["image"]
            assert name == "traghetto/r-0.png [temp]"
            assert server.uploads[name] == EDIT.pictures[0].data
            form = dict(form_of(server.requests[0]))
            assert (form["type"], form["overwrite"]) == ("temp", "true")

    run(test)


def test_an_edit_takes_as_many_pictures_as_the_workflow() -> None:
    """One too many would be ignored, one too few leaves a hole: both are refused."""
    two = {**IMAGE_TO_IMAGE, "2": {"class_type": "LoadImage", "inputs": {"image": "{{image_2}}"}}}

    async def test() -> None:
        server = ComfyServer()
        adapter = lambda client: backend_of(client, Workflow("two", two, "inpaint"))  # noqa: E731
        async with serving(server, adapter) as pool:
            for pictures in ((picture(),), (picture(),) * 3):
                call = EditCall(request_id="r", prompt="x", pictures=pictures)
                failure = await failure_of(pool.edit(call, "alice"))
                assert (failure.kind, failure.fields) == (K.REJECTED_INPUT, ("images",))
            assert server.requests == []
            both = (picture(8, 8, "red"), picture(8, 8, "blue"))
            await pool.edit(EditCall(request_id="r", prompt="x", pictures=both), "alice")
            (graph,) = server.graphs.values()
            loaded = [server.uploads[graph[node]["inputs"]["image"]] for node in ("1", "2")]
            assert loaded == [each.data for each in both]

    run(test)


def test_an_upscaling_has_size_and_creativity() -> None:
    """In the size that was asked for."""

    async def test() -> None:
        server = ComfyServer()
        server.make = in_size
        async with serving(server, upscaler) as pool:
            image = await pool.upscale(UPSCALE, "alice")
            assert size_of(image.data) == (12, 8)
            (graph,) = server.graphs.values()
            assert graph["3"]["inputs"]["denoise"] == 0.02

    run(test)


def test_a_saved_picture_comes_before_one_that_is_only_shown() -> None:
    """A workflow may preview what it does on the way; what it saves is the result."""

    async def test() -> None:
        server = ComfyServer(finishes=False)
        async with serving(server) as pool:
            task = asyncio.ensure_future(pool.generate(GENERATE, "alice"))
            await eventually(lambda: server.running)
            (job_id,) = server.running
            server.images |= {"a.png": png(3, 3), "b.png": png(4, 4)}
            server.finish(job_id)
            server.history[job_id]["outputs"] = {
                "1": {"text": ["not a picture"]},
                "2": {"images": [{"filename": "a.png", "subfolder": "", "type": "temp"}]},
                "3": {"images": [{"filename": "b.png", "subfolder": "x/y", "type": "output"}]},
            }
            (image,) = await task
            assert size_of(image.data) == (4, 4)

    run(test)


def test_nothing_of_a_job_stays_in_the_history() -> None:
    """A prompt would stay there until the server is started again."""

    async def test() -> None:
        server = ComfyServer()
        async with serving(server) as pool:
            await pool.generate(GENERATE, "alice")
            await eventually(lambda: not server.history)

    run(test)


def test_health_is_the_state_of_the_server() -> None:
    """The workflow is listed as its model; HTML is no state."""

    async def test() -> None:
        async with ComfyServer() as server:
            backend = painter(HttpClient(server.base))
            assert [model.id for model in await backend.models()] == [backend.model] == ["paint"]
            server.acts["/system_stats"] = up.answer_json({"hello": "world"})
            assert (await failure_of(backend.models())).kind is K.BROKEN
            await backend.aclose()

    run(test)


# --- faults -----------------------------------------------------------------------------------

JUNK_IDS = [None, 7, "", "../../queue", "a" * 100]
TAKING_FAULTS = [fault for fault in SHARED_FAULTS if fault.name not in ("cut", "cut cleanly")] + [
    Fault(f"job id {job_id!r}", up.answer_json({"prompt_id": job_id}), K.BROKEN, 2, 2)
    for job_id in JUNK_IDS
]


@pytest.mark.parametrize("fault", TAKING_FAULTS, ids=lambda fault: fault.name)
def test_a_fault_when_a_job_is_queued(fault: Fault) -> None:
    """Like every request for work."""
    run(
        lambda: check_fault(
            fault, ComfyServer(), painter, lambda p: p.generate(GENERATE, "a"), "/prompt"
        )
    )


@pytest.mark.parametrize(
    "fault",
    [
        Fault("500", refusing(500), K.BROKEN, 2, 2),
        Fault("full disk in a 200", up.answer(200, b"", content_type="text/plain"), K.BROKEN, 2, 2),
        Fault("no name", up.answer_json({}), K.BROKEN, 2, 2),
        Fault("kind unknown", up.answer_json({"name": "x", "type": "/etc"}), K.BROKEN, 2, 2),
        Fault("401", refusing(401), K.MISCONFIGURED, 1, -1),
        Fault("413", refusing(413), K.TOO_LARGE, 1, 0),
    ],
    ids=lambda fault: fault.name,
)
def test_a_fault_when_a_picture_is_uploaded(fault: Fault) -> None:
    """No job was queued yet, so that nothing is withdrawn."""

    async def test() -> None:
        server = ComfyServer()
        await check_fault(fault, server, editor, lambda p: p.edit(EDIT, "a"), "/upload/image")
        assert set(server.paths()) == {"/upload/image"}

    run(test)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("404", up.answer(404, content_type="text/plain"), K.BROKEN, 2, 2),
        Fault("500", refusing(500), K.BROKEN, 2, 2),
        Fault("HTML", up.answer(200, b"<html>", content_type="text/html"), K.BROKEN, 2, 2),
        Fault("no image", up.answer(200, b"sorry", content_type="image/png"), K.BROKEN, 2, 2),
        Fault("empty", up.answer(200, b"", content_type="image/png"), K.BROKEN, 2, 2),
        Fault("redirect", refusing(302, location="http://127.0.0.1:1/"), K.REDIRECTED, 1, -1),
    ],
    ids=lambda fault: fault.name,
)
def test_a_fault_when_the_picture_is_fetched(fault: Fault) -> None:
    """The job is done, but there is nothing to hand over."""
    run(
        lambda: check_fault(
            fault, ComfyServer(), painter, lambda p: p.generate(GENERATE, "a"), "/view"
        )
    )


def test_a_connection_that_died_while_a_job_ran_does_not_cost_the_job() -> None:
    """The picture is asked for again; the workflow does not run again for free."""

    async def test() -> None:
        server = ComfyServer()
        server.faulty = {"/view"}
        async with serving(server) as pool:
            server.then(up.close)
            assert len(await pool.generate(GENERATE, "alice")) == 1
            assert server.paths().count("/prompt") == 1
            server.then(*[up.close] * 20)
            assert (await failure_of(pool.generate(GENERATE, "alice"))).kind is K.BROKEN
            assert server.paths().count("/prompt") == 3
            assert pool.members[0].breaker._consecutive == 2

    run(test)


def test_a_picture_past_the_bound_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a length in the header, and without."""
    monkeypatch.setattr(backend_module, "IMAGE_BYTES_MAX", 30_000)
    monkeypatch.setattr(image_answers, "IMAGE_BYTES_MAX", 30_000)
    large = png() + bytes(40_000)

    async def without_length(exchange: up.Exchange) -> None:
        await exchange.head(200, {"content-type": "image/png", "transfer-encoding": "chunked"})
        await exchange.chunk(large)
        await exchange.end()

    async def test() -> None:
        for act in (up.answer(200, large, content_type="image/png"), without_length):
            server = ComfyServer()
            server.acts["/view"] = act
            async with serving(server) as pool:
                failure = await failure_of(pool.generate(GENERATE, "alice"))
                assert failure.kind is K.UNUSABLE

    run(test)


def node_error(node: str, input_name: str | None) -> dict[str, Any]:
    extra = {} if input_name is None else {"input_name": input_name}
    error = {"type": "value_bigger_than_max", "message": "m", "details": "d", "extra_info": extra}
    return {node: {"errors": [error], "dependent_outputs": ["9"], "class_type": "X"}}


def invalid(*errors: dict[str, Any], kind: str = "prompt_outputs_failed_validation") -> Any:
    nodes = {node: found for error in errors for node, found in error.items()}
    described = {"type": kind, "message": "m", "details": "", "extra_info": {}}
    return {"error": described, "node_errors": nodes}


@pytest.mark.parametrize(
    ("refusal", "kind", "fields"),
    [
        (invalid(node_error("5", "width")), K.REJECTED_INPUT, ("width",)),
        (
            invalid(node_error("3", "cfg"), node_error("5", "height")),
            K.REJECTED_INPUT,
            ("cfg_scale", "height"),
        ),
        (invalid(node_error("4", "ckpt_name")), K.MISCONFIGURED, ()),
        (invalid(node_error("5", "width"), node_error("4", "ckpt_name")), K.MISCONFIGURED, ()),
        (invalid(kind="missing_node_type"), K.MISCONFIGURED, ()),
        ({"error": "no prompt", "node_errors": []}, K.BROKEN, ()),
        (invalid(node_error("5", None)), K.BROKEN, ()),
        (invalid(node_error("77", "width")), K.BROKEN, ()),
        ({"error": {"type": 7}, "node_errors": {"5": [], "6": {"errors": [1]}}}, K.BROKEN, ()),
    ],
)
def test_whose_fault_a_refused_workflow_is(
    refusal: dict[str, Any], kind: FailureKind, fields: tuple[str, ...]
) -> None:
    """The caller's if every complaint is about a placeholder, the operator's if one is about
    what the file says; a caller can never open the breaker.
    """

    async def test() -> None:
        server = ComfyServer()
        server.refusal = refusal
        async with serving(server) as pool:
            failure = await failure_of(pool.generate(GENERATE, "alice"))
            assert (failure.kind, failure.fields) == (kind, fields)
            is_open = pool.members[0].breaker.state is BreakerState.OPEN
            assert is_open == (kind is K.MISCONFIGURED)
            assert set(server.paths()) == {"/prompt"}

    run(test)


@pytest.mark.parametrize(
    "entry",
    [
        {"status": {"status_str": "error", "messages": []}, "outputs": {}},
        {
            "status": {
                "status_str": "error",
                "messages": [["execution_error", {"node_id": "3", "exception_message": "secret"}]],
            },
        },
        {"status": {"status_str": "error", "messages": [["execution_interrupted", {}]]}},
        {"status": {"status_str": "success"}, "outputs": {}},
        {"status": {"status_str": "success"}, "outputs": {"9": {"images": []}}},
        {"status": {"status_str": "success"}, "outputs": {"9": {"images": ["x", None]}}},
        {"status": {"status_str": "success"}, "outputs": {"9": {"images": 7}}},
        {"status": {"status_str": "success"}, "outputs": [1]},
        {
            "status": {"status_str": "success"},
            "outputs": {"9": {"images": [{"filename": "x.png", "type": "input"}]}},
        },
        {"status": 7},
        {},
    ],
    ids=str,
)
def test_a_job_that_ends_without_a_picture_is_broken(entry: dict[str, Any]) -> None:
    """It is tried once more; nothing that the server says about it comes out."""

    async def test() -> None:
        server = ComfyServer(finishes=False)

        async def prompt(exchange: up.Exchange) -> None:
            await server._prompt(exchange)
            server.history[exchange.request.json["prompt_id"]] = entry

        server.acts["/prompt"] = prompt
        async with serving(server) as pool:
            failure = await failure_of(pool.generate(GENERATE, "alice"))
            assert failure.kind is K.BROKEN
            assert "secret" not in failure.reason
            assert server.paths().count("/prompt") == 2

    run(test)


def test_an_old_server_without_states_is_understood() -> None:
    """A job in the history with pictures is done."""

    async def test() -> None:
        server = ComfyServer(is_old=True, finishes=False)
        async with serving(server) as pool:
            task = asyncio.ensure_future(pool.generate(GENERATE, "alice"))
            await eventually(lambda: server.running)
            (job_id,) = server.running
            server.finish(job_id)
            del server.history[job_id]["status"]
            assert len(await task) == 1

    run(test)


def test_a_poll_that_fails_now_and_then_costs_nothing() -> None:
    """The job goes on without us; only four failures in a row give it up."""

    async def test() -> None:
        server = ComfyServer(finishes=False)
        async with serving(server) as pool:
            task = asyncio.ensure_future(pool.generate(GENERATE, "alice"))
            await eventually(lambda: server.running)
            (job_id,) = server.running
            server.faulty = {f"/history/{job_id}"}
            for _ in range(3):
                server.then(up.close, refusing(500), refusing(503))
                await eventually(lambda: not server.queue)
                polls = len(server.requests)
                await eventually(lambda polls=polls: len(server.requests) > polls + 1)
            server.finish(job_id)
            assert len(await task) == 1
            assert server.paths().count("/prompt") == 1

    run(test)


def test_polls_that_all_fail_give_the_job_up() -> None:
    """The server may be gone; the job is withdrawn in case it is not."""

    async def test() -> None:
        server = ComfyServer(finishes=False)
        server.acts["/history/"] = refusing(500)
        async with serving(server) as pool:
            assert (await failure_of(pool.generate(GENERATE, "alice"))).kind is K.BROKEN
            await eventually(lambda: len(server.interrupted) == 2)

    run(test)


def test_a_job_that_the_server_has_lost_is_noticed() -> None:
    """Neither queued nor done: after a restart, or cleared by hand. It is not waited for."""

    async def test() -> None:
        server = ComfyServer(finishes=False)
        async with serving(server, deadlines=Deadlines(total_seconds=20)) as pool:
            task = asyncio.ensure_future(failure_of(pool.generate(GENERATE, "alice")))
            for number in (1, 2):
                await eventually(lambda number=number: len(server.graphs) == number)
                server.lose(server.running[0])
            failure = await task
            assert failure.kind is K.BROKEN
            assert failure.reason == "the server has lost the job"

    run(test)


# --- giving up --------------------------------------------------------------------------------


async def given_up(pool: ImagePool, server: ComfyServer, when: Callable[[], object]) -> None:
    call = GenerateCall(request_id="r", prompt="x", width=8, height=8, count=2)
    task = asyncio.ensure_future(pool.generate(call, "alice"))
    await eventually(when)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.members[0].outstanding == 0


def test_who_gives_up_takes_their_jobs_along() -> None:
    """The one that runs is interrupted, the one that waits is deleted, the history forgets both."""

    async def test() -> None:
        server = ComfyServer(finishes=False)
        async with serving(server) as pool:
            await given_up(pool, server, lambda: server.running and server.pending)
            ours = list(server.graphs)
            await eventually(lambda: server.interrupted and not server.history)
            assert server.interrupted == [ours[0]]
            assert (server.running, server.pending) == ([], [])

    run(test)


def test_nobody_elses_job_is_stopped() -> None:
    """While ours wait behind another, only ours go."""

    async def test() -> None:
        server = ComfyServer(finishes=False)
        server.running = ["somebody-elses"]
        async with serving(server) as pool:
            await given_up(pool, server, lambda: len(server.pending) == 2)
            await eventually(lambda: "/history" in server.paths())
            assert server.running == ["somebody-elses"]
            assert (server.pending, server.interrupted) == ([], [])
            assert "/interrupt" not in server.paths()

    run(test)


def test_an_old_server_is_never_told_to_stop() -> None:
    """It would stop whatever runs by then; what waits there is deleted all the same."""

    async def test() -> None:
        server = ComfyServer(is_old=True, finishes=False)
        async with serving(server) as pool:
            await given_up(pool, server, lambda: server.running and server.pending)
            await eventually(lambda: "/history" in server.paths())
            assert len(server.running) == 1
            assert (server.pending, server.interrupted) == ([], [])

    run(test)


def test_a_job_is_withdrawn_even_if_its_answer_never_came() -> None:
    """Its id is our choice, so that we know it before the server says so."""

    async def test() -> None:
        server = ComfyServer(finishes=False)

        async def take_and_hang(exchange: up.Exchange) -> None:
            job_id = exchange.request.json["prompt_id"]
            server.graphs[job_id] = {}
            server.running.append(job_id)
            await up.hang(exchange)

        server.acts["/prompt"] = take_and_hang
        async with serving(server, deadlines=Deadlines(total_seconds=0.1)) as pool:
            assert (await failure_of(pool.generate(GENERATE, "alice"))).kind is K.TIMED_OUT
            await eventually(lambda: server.interrupted)
            assert server.running == []

    run(test)


def test_a_deadline_withdraws_the_job_without_making_anybody_wait() -> None:
    """The caller hears of it at once, even if the server does not answer any more."""

    async def test() -> None:
        server = ComfyServer(finishes=False)
        server.acts["/queue"] = up.hang
        async with serving(server, deadlines=Deadlines(total_seconds=0.2)) as pool:
            async with asyncio.timeout(3):
                failure = await failure_of(pool.generate(GENERATE, "alice"))
            assert failure.kind is K.TIMED_OUT
            await eventually(lambda: "/queue" in server.paths())

    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(backend_module, "TIDY_SECONDS_MAX", 0.5)
    try:
        run(test)
    finally:
        monkeypatch.undo()


def test_closing_waits_for_what_is_being_withdrawn() -> None:
    """A gateway that stops leaves no job behind."""

    async def test() -> None:
        server = ComfyServer(finishes=False)
        async with server:
            async with pool_at(server.base, painter) as pool:
                await given_up(pool, server, lambda: server.running and server.pending)
            assert (server.running, server.pending) == ([], [])

    run(test)


def test_what_a_workflow_is_not_for_is_refused() -> None:
    """A generation by an editor's workflow, style references, and the other way round."""
    styled = GenerateCall(
        request_id="r", prompt="x", width=8, height=8, references=(Reference(picture(), 0.5),)
    )

    async def test() -> None:
        server = ComfyServer()
        async with server:
            for adapter, works in (
                (painter, [lambda p: p.edit(EDIT, "a"), lambda p: p.generate(styled, "a")]),
                (editor, [lambda p: p.upscale(UPSCALE, "a")]),
                (upscaler, [lambda p: p.generate(GENERATE, "a")]),
            ):
                async with pool_at(server.base, adapter) as pool:
                    for work in works:
                        assert (await failure_of(work(pool))).kind is K.REJECTED_INPUT
            assert server.requests == []

    run(test)
