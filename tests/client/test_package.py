"""What a program that imports the client gets, and what it needs for it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from traghetto.client import AsyncChatStream, AsyncClient, ChatStream, Client
from traghetto.client.async_client import AsyncConnection, AsyncImages
from traghetto.client.options import Options
from traghetto.client.retry import RetryPolicy
from traghetto.client.sync_client import Connection, Images

TWINS = [
    (Client, AsyncClient),
    (Images, AsyncImages),
    (ChatStream, AsyncChatStream),
    (Connection, AsyncConnection),
]


def methods(kind: type[Any]) -> dict[str, tuple[list[inspect.Parameter], str | None]]:
    """What can be called, with which parameters, and what it says of itself."""
    found = [item for item in vars(kind).items() if inspect.isfunction(item[1])]
    return {
        name.replace("__a", "__", 1): (
            [
                parameter.replace(annotation=inspect.Parameter.empty)
                for parameter in inspect.signature(function).parameters.values()
            ],
            function.__doc__,
        )
        for name, function in found
    }


@pytest.mark.parametrize(("waiting", "asynchronous"), TWINS, ids=lambda kind: kind.__name__)
def test_both_clients_offer_the_same(waiting: type[Any], asynchronous: type[Any]) -> None:
    """Whoever knows one knows the other: names, parameters, defaults and documentation."""
    others = {
        name: (parameters, doc and doc.replace("`async with", "`with"))
        for name, (parameters, doc) in methods(asynchronous).items()
    }
    assert methods(waiting) == others


def test_exceptions_need_no_http_library() -> None:
    """Without the extra, `classify` works, and the clients say what is missing."""
    script = (
        "import sys; sys.modules['httpx2'] = None\n"
        "from traghetto.client import ModelOffline, classify, error_of\n"
        "print(type(error_of(503, {'x-error-code': 'MODEL_OFFLINE'}, b'')).__name__)\n"
        "try:\n"
        "    from traghetto.client import Client\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        "ModelOffline",
        "Client needs httpx2: pip install 'traghetto[client]'",
    ]


@pytest.mark.parametrize(
    ("base_url", "honours"),
    [
        ("http://127.0.0.1:8420/api/v1", True),
        ("https://api.venice.ai/api/v1", False),
        ("https://venice.ai/api/v1", False),
        ("https://my-venice.ai/api/v1", True),
    ],
)
def test_who_honours_idempotency_keys(base_url: str, honours: bool) -> None:
    """venice.ai does not, so that nothing is repeated there that may have been paid for."""

    def decided(told: bool | None) -> bool:
        options = Options.of(None, base_url, 1.0, RetryPolicy(), False, told, None)
        return options.persistence.idempotency_keys

    assert decided(None) is honours
    assert decided(True) is True
    assert decided(False) is False
