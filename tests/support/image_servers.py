"""Image servers that are scripted byte by byte, over real sockets.

No such server runs without gigabytes of weights, so that these stand in for them. Shapes of
requests and answers are those of:
- OpenAI's API reference for images (`/images/generations`, `/images/edits`), vLLM-Omni's pages
  "Image Generation API" and "Image Edit API", and stable-diffusion.cpp's `examples/server`;
- AUTOMATIC1111's `modules/api` (`/sdapi/v1/...`), whose `/docs` lists the same;
- ComfyUI's page "Server routes" and its `server.py` and `execution.py`.
Pictures are made and read by Pillow.
"""

from __future__ import annotations

import asyncio
import base64
import email.message
import email.parser
import email.policy
import io
import json
import urllib.parse
import uuid
from collections.abc import Callable
from typing import Any

from PIL import Image

from support.upstream import Act, Exchange, FaultUpstream, Request, answer, answer_json
from traghetto.engines.image_protocols import Picture


def png(width: int = 8, height: int = 8, colour: str = "teal") -> bytes:
    """A real PNG of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def picture(width: int = 8, height: int = 8, colour: str = "navy") -> Picture:
    return Picture(png(width, height, colour), "png", width, height, has_alpha=False)


def size_of(data: bytes) -> tuple[int, int]:
    """The size of an image that a real decoder reads whole."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image.size


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def parts_of(request: Request) -> list[email.message.EmailMessage]:
    """The parts of a multipart request, read by the standard library's parser of MIME."""
    head = f"Content-Type: {request.header('content-type')}\r\n\r\n".encode()
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    message = parser.parsebytes(head + request.body)
    assert isinstance(message, email.message.EmailMessage)
    assert message.is_multipart()
    parts = list(message.iter_parts())
    assert all(isinstance(part, email.message.EmailMessage) for part in parts)
    return parts  # type: ignore[return-value]


def form_of(request: Request) -> list[tuple[str, str | bytes]]:
    """Name and value of every part: text of fields, bytes of files."""
    form: list[tuple[str, str | bytes]] = []
    for part in parts_of(request):
        name = part.get_param("name", header="content-disposition")
        raw = part.get_payload(decode=True)
        assert isinstance(name, str)
        assert isinstance(raw, bytes)
        form.append((name, raw if part.get_filename() else raw.decode()))
    return form


class ImageServer(FaultUpstream):
    """A server with acts by path (the longest prefix wins); queued acts go first, for any path
    in `faulty` or, if that is empty, for every one.
    """

    def __init__(self, acts: dict[str, Act]) -> None:
        super().__init__()
        self.acts = acts
        self.faulty: set[str] = set()

    @property
    def base(self) -> str:
        return self.url.removesuffix("/v1")

    def _act_for(self, request: Request) -> Act:
        self.requests.append(request)
        path = request.path.partition("?")[0]
        if self.queue and (not self.faulty or path in self.faulty):
            return self.queue.popleft()
        known = [prefix for prefix in self.acts if path.startswith(prefix)]
        return self.acts[max(known, key=len)] if known else answer_json({"detail": "?"}, 404)

    def paths(self) -> list[str]:
        return [request.path.partition("?")[0] for request in self.requests]


# --- OpenAI -----------------------------------------------------------------------------------


def openai_images(*images: bytes) -> Act:
    """What `/images/...` answers."""
    data = [{"b64_json": base64_of(image)} for image in images]
    return answer_json({"created": 1_700_000_000, "data": data})


async def openai_generations(exchange: Exchange) -> None:
    """As many pictures as asked for, in the size asked for."""
    wanted = exchange.request.json
    width, _, height = wanted["size"].partition("x")
    image = png(int(width), int(height))
    await openai_images(*[image] * wanted["n"])(exchange)


async def openai_edits(exchange: Exchange) -> None:
    """The picture in the size asked for."""
    size = str(dict(form_of(exchange.request)).get("size", "1024x1024"))
    width, _, height = size.partition("x")
    await openai_images(png(int(width), int(height), "red"))(exchange)


def openai_server() -> ImageServer:
    return ImageServer(
        {
            "/v1/images/generations": openai_generations,
            "/v1/images/edits": openai_edits,
            "/v1/models": answer_json({"object": "list", "data": [{"id": "m"}]}),
        }
    )


# --- AUTOMATIC1111 ----------------------------------------------------------------------------


def sdapi_images(*images: bytes) -> Act:
    encoded = [base64_of(image) for image in images]
    return answer_json({"images": encoded, "parameters": {}, "info": "{}"})


async def sdapi_txt2img(exchange: Exchange) -> None:
    wanted = exchange.request.json
    image = png(wanted["width"], wanted["height"])
    await sdapi_images(*[image] * (wanted.get("n_iter", 1) * wanted.get("batch_size", 1)))(exchange)


async def sdapi_img2img(exchange: Exchange) -> None:
    wanted = exchange.request.json
    for image in wanted["init_images"]:
        size_of(base64.b64decode(image))
    await sdapi_images(png(wanted["width"], wanted["height"], "red"))(exchange)


async def sdapi_extras(exchange: Exchange) -> None:
    wanted = exchange.request.json
    assert wanted["resize_mode"] == 1
    image = png(wanted["upscaling_resize_w"], wanted["upscaling_resize_h"])
    await answer_json({"html_info": "<p>", "image": base64_of(image)})(exchange)


CHECKPOINT = {
    "title": "dream.safetensors [879db523c3]",
    "model_name": "dream",
    "hash": "879db523c3",
    "sha256": "879db523c30d3b9017143d56705015e15a2cb5628762c11d086fed9538abd7fd",
    "filename": "/models/dream.safetensors",
    "config": None,
}


def sdapi_server() -> ImageServer:
    return ImageServer(
        {
            "/sdapi/v1/txt2img": sdapi_txt2img,
            "/sdapi/v1/img2img": sdapi_img2img,
            "/sdapi/v1/extra-single-image": sdapi_extras,
            "/sdapi/v1/sd-models": answer_json([CHECKPOINT]),
            "/sdapi/v1/upscalers": answer_json([{"name": "None"}, {"name": "R-ESRGAN 4x+"}]),
        }
    )


# --- ComfyUI ----------------------------------------------------------------------------------


class ComfyServer(ImageServer):
    """A ComfyUI with a queue, a history and files; jobs end when `finish` says so, or at once.

    `is_old`: from before servers took a client's id for a job.
    """

    def __init__(self, *, is_old: bool = False, finishes: bool = True) -> None:
        super().__init__(
            {
                "/system_stats": answer_json({"system": {"os": "posix"}, "devices": []}),
                "/prompt": self._prompt,
                "/history/": self._history_of,
                "/history": self._delete_history,
                "/queue": self._queue,
                "/interrupt": self._interrupt,
                "/upload/image": self._upload,
                "/view": self._view,
            }
        )
        self.is_old = is_old
        self.finishes = finishes
        self.pending: list[str] = []
        self.running: list[str] = []
        self.graphs: dict[str, dict[str, Any]] = {}
        self.history: dict[str, Any] = {}
        self.interrupted: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self.images: dict[str, bytes] = {}
        self.refusal: dict[str, Any] | None = None
        self.make: Callable[[dict[str, Any]], bytes] = lambda graph: png()

    def finish(self, job_id: str) -> None:
        """The job has made its picture."""
        self._end(job_id)
        name = f"ComfyUI_{len(self.images):05}_.png"
        self.images[name] = self.make(self.graphs[job_id])
        self.history[job_id] = {
            "prompt": [0, job_id, self.graphs[job_id], {}, ["9"]],
            "outputs": {"9": {"images": [{"filename": name, "subfolder": "", "type": "output"}]}},
            "status": {"status_str": "success", "completed": True, "messages": []},
        }

    def fail(self, job_id: str, *messages: list[Any]) -> None:
        self._end(job_id)
        status = {"status_str": "error", "completed": False, "messages": list(messages)}
        self.history[job_id] = {"prompt": [], "outputs": {}, "status": status}

    def lose(self, job_id: str) -> None:
        """As if the server had been started again."""
        self._end(job_id)

    def _end(self, job_id: str) -> None:
        self.pending = [other for other in self.pending if other != job_id]
        self.running = [other for other in self.running if other != job_id]
        if self.pending and not self.running:
            self.running.append(self.pending.pop(0))

    async def _prompt(self, exchange: Exchange) -> None:
        wanted = exchange.request.json
        assert wanted["client_id"]
        if self.refusal is not None:
            await answer_json(self.refusal, 400)(exchange)
            return
        job_id = str(uuid.uuid4()) if self.is_old else wanted["prompt_id"]
        self.graphs[job_id] = wanted["prompt"]
        (self.pending if self.running else self.running).append(job_id)
        if self.finishes:
            self.finish(job_id)
        number = len(self.graphs)
        await answer_json({"prompt_id": job_id, "number": number, "node_errors": {}})(exchange)

    async def _history_of(self, exchange: Exchange) -> None:
        job_id = exchange.request.path.rpartition("/")[2]
        entry = self.history.get(job_id)
        await answer_json({} if entry is None else {job_id: entry})(exchange)

    async def _delete_history(self, exchange: Exchange) -> None:
        for job_id in exchange.request.json["delete"]:
            self.history.pop(job_id, None)
        await answer(200)(exchange)

    async def _queue(self, exchange: Exchange) -> None:
        if exchange.request.method == "POST":
            for job_id in exchange.request.json["delete"]:
                if job_id in self.pending:
                    self.pending.remove(job_id)
            await answer(200)(exchange)
            return
        as_items = {
            "queue_running": [[0, job_id, {}, {}, []] for job_id in self.running],
            "queue_pending": [[1, job_id, {}, {}, []] for job_id in self.pending],
        }
        await answer_json(as_items)(exchange)

    async def _interrupt(self, exchange: Exchange) -> None:
        wanted = json.loads(exchange.request.body or b"{}").get("prompt_id")
        for job_id in list(self.running):
            if self.is_old or wanted in (None, job_id):
                self.interrupted.append(job_id)
                self.fail(job_id, ["execution_interrupted", {"prompt_id": job_id}])
        await answer(200)(exchange)

    async def _upload(self, exchange: Exchange) -> None:
        form = dict(form_of(exchange.request))
        (file,) = [part for part in parts_of(exchange.request) if part.get_filename()]
        name = str(file.get_filename())
        path = f"{form['subfolder']}/{name} [{form['type']}]"
        data = form["image"]
        assert isinstance(data, bytes)
        self.uploads[path] = data
        place = {"name": name, "subfolder": form["subfolder"], "type": form["type"]}
        await answer_json(place)(exchange)

    async def _view(self, exchange: Exchange) -> None:
        query = dict(urllib.parse.parse_qsl(exchange.request.path.partition("?")[2]))
        image = self.images.get(query.get("filename", ""))
        if image is None:
            await answer(404, content_type="text/plain")(exchange)
        else:
            await answer(200, image, content_type="image/png")(exchange)


async def eventually(holds: Callable[[], object], seconds: float = 5.0) -> None:
    """Return as soon as it is so; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.005)
