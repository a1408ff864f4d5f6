"""The exceptions are the published codes, and say what their readers want to know."""

import copy
import pickle

import pytest

import traghetto.client
from support.client import PUBLISHED
from traghetto.client import ApiStatusError, TraghettoError, error_of
from traghetto.client.exceptions import CLASSES
from traghetto.errors import ErrorCode

FAMILIES = {
    400: traghetto.client.BadRequest,
    401: traghetto.client.AuthenticationError,
    402: traghetto.client.PaymentRequired,
    403: traghetto.client.PermissionDenied,
    404: traghetto.client.NotFound,
    413: traghetto.client.BadRequest,
    415: traghetto.client.BadRequest,
    422: traghetto.client.Unprocessable,
    429: traghetto.client.RateLimited,
    500: traghetto.client.ServerError,
    502: traghetto.client.ServerError,
    503: traghetto.client.Unavailable,
    504: traghetto.client.ServerError,
}


def descendants(kind: type[TraghettoError]) -> list[type[TraghettoError]]:
    children = kind.__subclasses__()
    return children + [below for child in children for below in descendants(child)]


ALL = descendants(TraghettoError)


def test_every_code_has_exactly_one_class_and_the_reverse() -> None:
    """The tables are total: 40 codes, 40 classes, one to one."""
    published = [
        kind.published for kind in ALL if issubclass(kind, ApiStatusError) and kind.published
    ]
    assert len(published) == 40
    assert set(published) == set(ErrorCode) == set(CLASSES)
    assert {code.name for code in published} == PUBLISHED.keys()


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.name)
def test_a_class_is_called_as_its_code(code: ErrorCode) -> None:
    """Whoever knows a code knows its class, and finds it in the family of its status."""
    kind = CLASSES[code]
    assert kind.__name__ == "".join(part.capitalize() for part in code.name.split("_"))
    assert issubclass(kind, FAMILIES[code.value.status])
    assert not kind.__subclasses__()


def test_every_class_is_public_and_explained() -> None:
    """Each can be imported from the package, and its docstring is its own."""
    for kind in ALL:
        assert kind.__name__ in traghetto.client.__all__
        assert getattr(traghetto.client, kind.__name__) is kind
        assert kind.__doc__ is not None
        assert kind.__doc__ != kind.__mro__[1].__doc__


def test_everything_that_is_promised_can_be_imported() -> None:
    """`__all__` names nothing that does not exist, what is loaded late included."""
    for name in traghetto.client.__all__:
        assert getattr(traghetto.client, name) is not None


def test_an_unpublished_code_is_its_family() -> None:
    """A caller who catches a family also catches what no class stands for."""
    error = error_of(401, {"x-error-code": "ADMIN_KEY_REQUIRED"}, b'{"error":"x"}')
    assert type(error) is traghetto.client.AuthenticationError
    assert error.code == "ADMIN_KEY_REQUIRED"
    assert type(error_of(418, {}, b"teapot")) is ApiStatusError
    assert type(error_of(507, {}, b"")) is traghetto.client.ServerError


def test_text_has_code_message_issues_and_request() -> None:
    """What is printed is enough to mend a request or to ask an operator about it."""
    issues = [{"code": "custom", "path": ["messages", 0, "role"], "message": "Nobody"}]
    issues += [{"code": "custom", "path": [name], "message": "Bad"} for name in "abc"]
    body = {"error": "Invalid request parameters", "details": {"_errors": []}, "issues": issues}
    error = error_of(400, {"X-Request-Id": "r1"}, body)
    assert str(error) == (
        "INVALID_REQUEST: Invalid request parameters "
        "(messages.0.role: Nobody; a: Bad; b: Bad; and 1 more) [request r1]"
    )


def test_attributes_are_read_from_wherever_they_stand() -> None:
    """The members of the contract's other shapes (A.0) are attributes."""
    refunded = error_of(422, {}, {"error": "Your generation was blocked", "credits_refunded": True})
    assert (refunded.credits_refunded, refunded.charged) == (True, False)
    kept = error_of(422, {}, {"error": "Your generation was blocked", "credits_refunded": False})
    assert (kept.credits_refunded, kept.charged) == (False, True)
    provider = {
        "message": "The selected model provider rejected this request",
        "type": "provider_content_policy",
        "credits_refunded": True,
        "recommended_model": "gentler",
    }
    policy = error_of(422, {}, {"error": provider})
    assert type(policy) is traghetto.client.ContentPolicyViolation
    assert (policy.recommended_model, policy.credits_refunded) == ("gentler", True)
    prompt = error_of(422, {}, {"error": "x", "suggested_prompt": "a ferry"})
    assert prompt.suggested_prompt == "a ferry"
    rejected = error_of(400, {}, {"error": "x", "request_id": "r2"})
    assert rejected.request_id == "r2"
    assert error_of(500, {"cf-ray": "r3"}, None).request_id == "r3"


@pytest.mark.parametrize(
    ("message", "model"),
    [
        ("Specified model not found: lama. Did you mean: llama-3.3, llama-3.1?", "llama-3.3"),
        ("The model old has been deprecated. Please use qwen/qwen3:8b.", "qwen/qwen3:8b"),
        ("Specified model not found", None),
    ],
)
def test_a_model_is_recommended_in_words(message: str, model: str | None) -> None:
    """venice.ai names another model in its sentence only."""
    error = error_of(404, {}, {"error": message})
    assert type(error) is traghetto.client.ModelNotFound
    assert error.recommended_model == model


@pytest.mark.parametrize(
    ("status", "code", "charged"),
    [
        (500, "INFERENCE_FAILED", False),
        (402, "INSUFFICIENT_BALANCE", False),
        (422, "CONTENT_POLICY_VIOLATION", None),
        (400, "IDEMPOTENT_ANSWER_NOT_KEPT", True),
        (400, "A_CODE_OF_TOMORROW", None),
    ],
)
def test_what_an_error_costs(status: int, code: str, charged: bool | None) -> None:
    """Errors of the contract are free, but for edits that were refused after they were made."""
    assert error_of(status, {"x-error-code": code}, b"").charged is charged


def test_what_a_proxy_says_may_have_been_charged() -> None:
    """A page of a proxy tells nothing of what the server behind it did."""
    error = error_of(502, {}, b"<html><h1>Bad Gateway</h1></html>")
    assert type(error) is traghetto.client.ServerError
    assert (error.code, error.message, error.charged, error.retryable) == (
        None, "Bad Gateway", None, True,
    )  # fmt: skip


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.name)
def test_only_time_mends_what_is_retryable(code: ErrorCode) -> None:
    """Without a word of the server the contract decides; no header makes a 4xx retryable."""
    row = code.value
    error = error_of(row.status, {"x-error-code": code.name}, b"")
    assert error.retryable is (row.should_retry or code is ErrorCode.UNKNOWN_ERROR)
    told = error_of(row.status, {"x-error-code": code.name, "x-should-retry": "true"}, b"")
    assert told.retryable is (row.status == 429 or row.status >= 500)
    refused = error_of(row.status, {"x-error-code": code.name, "x-should-retry": "false"}, b"")
    assert refused.retryable is False


def test_exceptions_survive_copies_and_processes() -> None:
    """A worker process can hand one to its parent."""
    error = error_of(429, {"retry-after": "7"}, {"error": "Rate limit exceeded"})
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert (str(twin), twin.retry_after, twin.body) == (str(error), 7.0, error.body)
