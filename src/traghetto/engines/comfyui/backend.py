"""The adapter to ComfyUI: fill the operator's workflow, queue it, wait, fetch the picture.

Each image is a job of its own with an id that we choose: a batch would share one seed, and a job
can be withdrawn by its id even before the server has said that it took it.

Invariants: every job ends fetched or withdrawn; withdrawing stops no job but ours; what the server
writes reaches nobody but itself (names of files go back to it, texts go nowhere).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
from aiohttp import ClientResponse

from traghetto.clock import Clock
from traghetto.engines.classify import failure_of_response
from traghetto.engines.comfyui.job import failure_of_job, file_of, is_named, refusal_of_graph
from traghetto.engines.comfyui.workflow import Purpose, Value, Workflow, picture_name
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_answers import IMAGE_BYTES_MAX, SEEDS, backend_seed
from traghetto.engines.image_protocols import (
    EditCall,
    EngineImage,
    GenerateCall,
    Picture,
    UpscaleCall,
)
from traghetto.engines.openai.answers import json_object, refusal
from traghetto.engines.openai.client import HttpClient, media_type, read_body, read_prefix
from traghetto.engines.openai.multipart import multipart_body
from traghetto.engines.openai.on_server import OnServer
from traghetto.engines.protocols import BackendModel
from traghetto.ids import new_record_id

POLL_SECONDS: Final = 0.1
POLL_SECONDS_MAX: Final = 1.0
POLL_GROWTH: Final = 1.3
POLL_FAILURES_MAX: Final = 3
"""So many polls in a row may fail before a job is given up: the work goes on without them."""
POLLS_BETWEEN_QUEUE_CHECKS: Final = 8
"""A job that is neither done nor queued is lost, with a restart or by somebody's hand."""
TIDY_SECONDS_MAX: Final = 5.0
"""How long withdrawing or forgetting a job may take; nobody waits for it, but a stop does."""
STOP_SECONDS: Final = 1.0
"""How long a job usually takes to stop when it is told to."""
REFUSAL_BYTES_MAX: Final = 1 << 20
"""A refusal of a workflow names every node that is wrong."""
_SUBFOLDER: Final = "traghetto"
_TRANSIENT: Final = frozenset(
    {FailureKind.UNREACHABLE, FailureKind.BROKEN, FailureKind.AT_CAPACITY, FailureKind.OVERLOADED}
)

_encode = msgspec.json.Encoder().encode


class ComfyUIBackend(OnServer):
    """One workflow on one ComfyUI; it does what the workflow is for."""

    def __init__(
        self,
        name: str,
        client: HttpClient,
        workflow: Workflow,
        *,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """Backends of one server share `client`; `rng` draws the seeds that callers leave out."""
        super().__init__(name, client, workflow.name, clock=clock)
        self._workflow = workflow
        self._rng = rng
        self._client_id = new_record_id()
        self._tidying: set[asyncio.Task[None]] = set()

    async def generate(self, call: GenerateCall) -> list[EngineImage]:
        self._check_purpose("image")
        if call.references:
            raise EngineFailure(
                FailureKind.REJECTED_INPUT,
                "the workflow takes no style references",
                fields=("style_references",),
            )
        values: dict[str, Value | None] = {
            "prompt": call.prompt,
            "negative_prompt": call.negative_prompt or None,
            "width": call.width,
            "height": call.height,
            "steps": call.steps,
            "cfg": call.guidance,
        }
        seed = self._rng.randrange(SEEDS) if call.seed is None else call.seed
        return await self._run(
            [{**values, "seed": backend_seed(seed + i)} for i in range(call.count)]
        )

    async def edit(self, call: EditCall) -> EngineImage:
        self._check_purpose("inpaint")
        if len(call.pictures) != self._workflow.pictures:
            raise EngineFailure(
                FailureKind.REJECTED_INPUT,
                f"the workflow takes {self._workflow.pictures} pictures",
                fields=("images",),
            )
        size = (call.width or call.pictures[0].width, call.height or call.pictures[0].height)
        return await self._change(call.request_id, call.pictures, size, prompt=call.prompt)

    async def upscale(self, call: UpscaleCall) -> EngineImage:
        self._check_purpose("upscale")
        size = (call.width, call.height)
        return await self._change(
            call.request_id, (call.picture,), size, creativity=call.creativity
        )

    async def models(self) -> list[BackendModel]:
        url = self._client.root / "system_stats"
        async with self._client.request("GET", url) as response:
            answer = await json_object(response, self._clock)
        if not isinstance(answer.get("system"), dict):
            raise EngineFailure(FailureKind.BROKEN, "the state of the server is not one")
        return [BackendModel(self._workflow.name, type="image")]

    async def aclose(self) -> None:
        if self._tidying:
            await asyncio.wait(self._tidying)
        await super().aclose()

    def _check_purpose(self, purpose: Purpose) -> None:
        if self._workflow.purpose != purpose:
            raise EngineFailure(FailureKind.REJECTED_INPUT, "the workflow is for something else")

    async def _change(
        self,
        request_id: str,
        pictures: Sequence[Picture],
        size: tuple[int, int],
        **values: Value | None,
    ) -> EngineImage:
        values |= {"width": size[0], "height": size[1], "seed": self._rng.randrange(SEEDS)}
        for number, picture in enumerate(pictures):
            values[picture_name(number)] = await self._upload(request_id, number, picture)
        (image,) = await self._run([values])
        return image

    async def _upload(self, request_id: str, number: int, picture: Picture) -> str:
        """Give the server a picture; the name by which a node loads it.

        It goes to the directory that the server empties when it starts.
        """
        name = f"{request_id}-{number}.{picture.format}"
        content_type, body = multipart_body(
            {"type": "temp", "subfolder": _SUBFOLDER, "overwrite": "true"},
            [("image", name, picture)],
        )
        url = self._client.root / "upload/image"
        async with self._client.request("POST", url, body, content_type=content_type) as response:
            answer = await json_object(response, self._clock)
        file = file_of({**answer, "filename": answer.get("name")})
        if file is None:
            raise EngineFailure(FailureKind.BROKEN, "the server does not say where a picture is")
        path = f"{file['subfolder']}/{file['filename']}" if file["subfolder"] else file["filename"]
        return f"{path} [{file['type']}]"

    async def _run(self, jobs: Sequence[Mapping[str, Value | None]]) -> list[EngineImage]:
        """One image for each of `jobs`, which are the values of its placeholders."""
        known: dict[str, bool] = {}
        ids: list[str] = []
        try:
            for values in jobs:
                graph = self._workflow.filled(values)
                ids.append(await self._queue(graph, known))
            images = [await self._fetch(await self._result(job_id)) for job_id in ids]
        except BaseException as end:
            self._tidy(self._withdraw(known))
            if isinstance(end, EngineFailure) and ids:
                # A dead connection is replaced for free, but not with all the work before it.
                end.stale_connection = False
            raise
        self._tidy(self._forget(ids))
        return images

    async def _queue(self, graph: dict[str, Any], known: dict[str, bool]) -> str:
        """Put a job into the queue; its id.

        `known` gets every id by which the server may know the job, with whether it is our choice:
        older servers choose one themselves.
        """
        chosen = new_record_id()
        known[chosen] = True
        body = _encode({"prompt": graph, "prompt_id": chosen, "client_id": self._client_id})
        async with self._client.request("POST", self._client.root / "prompt", body) as response:
            if response.status != 200:
                del known[chosen]
                raise await self._refusal_of_job(response)
            answer = await json_object(response, self._clock)
        taken = answer.get("prompt_id")
        if not isinstance(taken, str) or not is_named(taken):
            raise EngineFailure(FailureKind.BROKEN, "the server does not say which job it took")
        known.setdefault(taken, False)
        return taken

    async def _refusal_of_job(self, response: ClientResponse) -> EngineFailure:
        body = await read_prefix(response, REFUSAL_BYTES_MAX)
        failure = failure_of_response(
            response.status, response.headers, body, utc_seconds=self._clock.utc_ns() / 1e9
        )
        is_of_graph = failure.kind is FailureKind.REJECTED_INPUT
        return refusal_of_graph(body, self._workflow) if is_of_graph else failure

    async def _result(self, job_id: str) -> dict[str, str]:
        """Wait until a job is done; the file that it made."""
        wait, failures, polls = POLL_SECONDS, 0, 0
        while True:
            await asyncio.sleep(wait)
            wait = min(wait * POLL_GROWTH, POLL_SECONDS_MAX)
            polls += 1
            try:
                entry = await self._entry(job_id)
                is_checked = entry is None and polls % POLLS_BETWEEN_QUEUE_CHECKS == 0
                is_lost = is_checked and await self._is_lost(job_id)
            except EngineFailure as failure:
                failures += 1
                if failure.kind not in _TRANSIENT or failures > POLL_FAILURES_MAX:
                    raise
                continue
            failures = 0
            if is_lost:
                raise EngineFailure(FailureKind.BROKEN, "the server has lost the job")
            if entry is not None:
                if (failed := failure_of_job(entry, self._workflow)) is not None:
                    raise failed
                return _made(entry)

    async def _entry(self, job_id: str) -> dict[str, Any] | None:
        """What the history says of a job; None while it is not done."""
        url = self._client.root / "history" / job_id
        async with self._client.request("GET", url) as response:
            entry = (await json_object(response, self._clock)).get(job_id)
        return entry if isinstance(entry, dict) else None

    async def _is_lost(self, job_id: str) -> bool:
        """Whether the server knows nothing of a job; it may be done between the two questions."""
        queued = await self._ids("queue_running", "queue_pending")
        return job_id not in queued and await self._entry(job_id) is None

    async def _ids(self, *queues: str) -> set[str]:
        """The ids of the jobs in some of the server's queues."""
        async with self._client.request("GET", self._client.root / "queue") as response:
            answer = await json_object(response, self._clock)
        lists = [answer.get(queue) for queue in queues]
        items = [item for items in lists if isinstance(items, list) for item in items]
        return {str(item[1]) for item in items if isinstance(item, list) and len(item) > 1}

    async def _fetch(self, file: dict[str, str]) -> EngineImage:
        """The picture in a file, asked for again if the connection had died while we waited."""
        try:
            return await self._fetch_once(file)
        except EngineFailure as failure:
            if not failure.stale_connection:
                raise
        return await self._fetch_once(file)

    async def _fetch_once(self, file: dict[str, str]) -> EngineImage:
        url = (self._client.root / "view").with_query(file)
        async with self._client.request("GET", url, answer_bytes_max=IMAGE_BYTES_MAX) as response:
            if response.status != 200:
                failure = await refusal(response, self._clock)
                if failure.kind is FailureKind.MISCONFIGURED:
                    # It has just answered us: what is missing is the file, not our access.
                    failure = EngineFailure(FailureKind.BROKEN, "the picture of a job is gone")
                raise failure
            if not media_type(response.headers).startswith("image/"):
                raise EngineFailure(FailureKind.BROKEN, "the picture is none by its content type")
            return EngineImage(await read_body(response, IMAGE_BYTES_MAX))

    async def _withdraw(self, known: Mapping[str, bool]) -> None:
        """Take jobs out of the queue, and stop the one that runs if it has an id of our choice.

        Only recent servers look at the id that they are told to stop; others stop whatever runs.
        So a server is asked first what runs, and one that is too old to take our ids for its jobs
        is left in peace.
        """
        if not known:
            return
        await self._tell("queue", {"delete": list(known)})
        for job_id in await self._ids("queue_running"):
            if known.get(job_id):
                await self._tell("interrupt", {"prompt_id": job_id})
                # It goes into the history when it has stopped.
                await asyncio.sleep(STOP_SECONDS)
        await self._forget(list(known))

    async def _forget(self, ids: Sequence[str]) -> None:
        """Remove jobs from the server's history, where prompts would stay until it restarts."""
        await self._tell("history", {"delete": list(ids)})

    async def _tell(self, path: str, body: dict[str, Any]) -> None:
        async with self._client.request(
            "POST", self._client.root / path, _encode(body)
        ) as response:
            await read_prefix(response, REFUSAL_BYTES_MAX)

    def _tidy(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` without anybody waiting for it, or for its success."""

        async def tidy() -> None:
            with suppress(EngineFailure, TimeoutError):
                async with asyncio.timeout(TIDY_SECONDS_MAX):
                    await work

        task = asyncio.get_running_loop().create_task(tidy())
        self._tidying.add(task)
        task.add_done_callback(self._tidying.discard)


def _made(entry: dict[str, Any]) -> dict[str, str]:
    """The first picture that a job has saved, or else one that it only shows."""
    outputs = entry.get("outputs")
    listed = [
        output.get("images")
        for output in (outputs.values() if isinstance(outputs, dict) else ())
        if isinstance(output, dict)
    ]
    files = [file_of(image) for images in listed if isinstance(images, list) for image in images]
    for kind in ("output", "temp"):
        for file in files:
            if file is not None and file["type"] == kind:
                return file
    raise EngineFailure(FailureKind.BROKEN, "the workflow made no picture")
