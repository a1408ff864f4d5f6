"""What the backends across HTTP have in common: each is one model of one server."""

from __future__ import annotations

from traghetto.clock import Clock
from traghetto.engines.openai.answers import json_object
from traghetto.engines.openai.client import HttpClient
from traghetto.engines.openai.discovery import describe_models
from traghetto.engines.protocols import BackendModel


class OnServer:
    """One model of one server; the base of what can be done with it."""

    def __init__(self, name: str, client: HttpClient, model: str, *, clock: Clock) -> None:
        """`model` is the server's name for it; backends of one server share `client`."""
        self._name = name
        self._client = client
        self._model = model
        self._clock = clock
        self._is_open = True
        client.join()

    @property
    def name(self) -> str:
        return self._name

    @property
    def model(self) -> str:
        """The name by which `models` lists what this backend uses."""
        return self._model

    async def aclose(self) -> None:
        if self._is_open:
            self._is_open = False
            await self._client.leave()


class OnOpenAIServer(OnServer):
    """One model of a server that lists its models as OpenAI does."""

    def __init__(self, name: str, client: HttpClient, model: str, *, clock: Clock) -> None:
        super().__init__(name, client, model, clock=clock)
        self._known_models: dict[str, BackendModel] = {}

    async def models(self) -> list[BackendModel]:
        async with self._client.request("GET", self._client.api / "models") as response:
            listing = await json_object(response, self._clock)
        models = await describe_models(self._client, listing, self._known_models)
        self._known_models = {model.id: model for model in models}
        return models
