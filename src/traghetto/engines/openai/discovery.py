"""What the models of an OpenAI-compatible server are like, as far as the server tells.

`/v1/models` is common to all servers and says little; vLLM and llama.cpp add the context there,
and llama.cpp, LM Studio and Ollama have an endpoint of their own that knows more. Those are asked
once per model, recognised by the owner they write into their listing, and a failure there only
means that less is known. What a server does not say (vLLM: whether a model sees images) an operator
writes into the model's entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from yarl import URL

from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.openai.client import HttpClient, read_body
from traghetto.engines.protocols import BackendModel
from traghetto.wire.completion import decode_answer

MODELS_MAX: Final = 10_000
DETAILS_BYTES_MAX: Final = 8 << 20
_CONTEXT_TOKENS_MAX: Final = 100_000_000
_TYPES: Final = {"llm": "text", "vlm": "text", "embeddings": "embedding"}
"""LM Studio's types of models, as ours."""


async def describe_models(
    client: HttpClient, listing: dict[str, Any], known: Mapping[str, BackendModel]
) -> list[BackendModel]:
    """The models in a `/v1/models` answer, with details; those in `known` are not asked about.

    Raises EngineFailure (BROKEN) if `listing` is not a list of models.
    """
    items = listing.get("data")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise EngineFailure(FailureKind.BROKEN, "the list of models is not one")
    models = []
    for item in items[:MODELS_MAX]:
        model_id = item.get("id")
        if isinstance(model_id, str) and model_id:
            model = known.get(model_id) or await _describe(client, model_id, item)
            models.append(model)
    return models


async def _describe(client: HttpClient, model_id: str, item: dict[str, Any]) -> BackendModel:
    try:
        match item.get("owned_by"):
            case "llamacpp":
                return await _describe_llama_cpp(client, model_id, item)
            case "library":
                return await _describe_ollama(client, model_id)
            case "organization_owner":
                return await _describe_lm_studio(client, model_id)
    except EngineFailure:
        # The endpoint is missing or guarded; the listing itself still counts.
        pass
    modalities = _member(item, "architecture").get("input_modalities")  # OpenRouter and its like
    sees = isinstance(modalities, list) and "image" in modalities
    return BackendModel(
        model_id,
        _context(item, "max_model_len", "context_length", "n_ctx"),
        capabilities={"supportsVision": True} if sees else {},
    )


async def _describe_llama_cpp(
    client: HttpClient, model_id: str, item: dict[str, Any]
) -> BackendModel:
    trained = _context(_member(item, "meta"), "n_ctx", "n_ctx_train")
    try:
        props = await _get(client, client.root / "props")
    except EngineFailure:
        return BackendModel(model_id, trained)
    # One request has one slot, whose context is what counts.
    slot = _context(_member(props, "default_generation_settings"), "n_ctx")
    modalities = _member(props, "modalities")
    sees = modalities.get("vision") is True  # and then any number of images
    capabilities = {"supportsVision": True, "supportsMultipleImages": True} if sees else {}
    return BackendModel(model_id, slot or trained, capabilities=capabilities)


async def _describe_ollama(client: HttpClient, model_id: str) -> BackendModel:
    body = msgspec.json.encode({"model": model_id})
    shown = await _get(client, client.root / "api" / "show", method="POST", body=body)
    info = _member(shown, "model_info")
    context = next((_context(info, key) for key in info if key.endswith(".context_length")), None)
    offered = shown.get("capabilities")
    names = offered if isinstance(offered, list) else []
    capabilities = {
        ours: True
        for theirs, ours in (
            ("vision", "supportsVision"),
            ("tools", "supportsFunctionCalling"),
            ("thinking", "supportsReasoning"),
        )
        if theirs in names
    }
    is_embedding = "embedding" in names and "completion" not in names
    kind = "embedding" if is_embedding else "text"
    return BackendModel(model_id, context, type=kind, capabilities=capabilities)


async def _describe_lm_studio(client: HttpClient, model_id: str) -> BackendModel:
    shown = await _get(client, client.root.joinpath("api/v0/models", model_id, encoded=True))
    capabilities = {"supportsVision": True} if shown.get("type") == "vlm" else {}
    offered = shown.get("capabilities")
    if isinstance(offered, list) and "tool_use" in offered:
        capabilities["supportsFunctionCalling"] = True
    return BackendModel(
        model_id,
        _context(shown, "loaded_context_length", "max_context_length"),
        type=_TYPES.get(str(shown.get("type")), "text"),
        capabilities=capabilities,
    )


async def _get(
    client: HttpClient, url: URL, *, method: str = "GET", body: bytes | None = None
) -> dict[str, Any]:
    async with client.request(method, url, body) as response:
        raw = await read_body(response, DETAILS_BYTES_MAX)
        status = response.status
    try:
        answer = decode_answer(raw)
    except ValueError:
        answer = None
    if status != 200 or not isinstance(answer, dict):
        raise EngineFailure(FailureKind.BROKEN, "the details of a model are not to be had")
    return answer


def _member(value: dict[str, Any], name: str) -> dict[str, Any]:
    member = value.get(name)
    return member if isinstance(member, dict) else {}


def _context(value: dict[str, Any], *names: str) -> int | None:
    """The first plausible number of tokens among the members `names`."""
    for name in names:
        number = value.get(name)
        if type(number) is int and 0 < number <= _CONTEXT_TOKENS_MAX:
            return number
    return None
