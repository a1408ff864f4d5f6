"""Whatever arrives, the answer is one of the contract: no 500, no HTML, no foreign sentence.

Two sources of trouble: requests made from the published schema, valid and not (schemathesis), and
bytes that were never meant to be requests or forms (hypothesis). `TRAGHETTO_FUZZ_EXAMPLES` sets how many of
each are tried (of chat requests from the schema, which take a second each to invent, an eighth);
the usual number keeps a run within a minute.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from support.client import (
    CHAT,
    PUBLISHED,
    UPSTREAM_REJECTED,
    Answer,
    ask,
    chat_body,
    get,
)
from support.configuration import IMAGE_MODELS, PRICED_MODEL
from support.gateway import RunningGateway, raw_exchange, running_gateway
from support.images import base64_text, encoded, form, picture, png
from support.published import assert_answer_is_published
from support.repository import ROOT
from traghetto.errors import Adjunct

EXAMPLES = int(os.environ.get("TRAGHETTO_FUZZ_EXAMPLES", "120"))
EXAMPLES_OF_MANAGEMENT = -(-EXAMPLES // 4)
EXAMPLES_OF_IMAGES = -(-EXAMPLES // 5)
ROUNDS_MAX = 5
VICTIMS = 120
"""Enough that not every key is deleted by the requests that delete keys."""
BODY_BYTES_MAX = 65_536
OPENAPI = json.loads((ROOT / "spec" / "openapi.json").read_text())
SUCCESSES = frozenset({200})
SHAPES = (
    {"error"},
    {"error", "code"},
    {"error", "request_id"},
    {"error", "details", "issues"},
)
OWN_SENTENCES = {row.value.message for row in Adjunct}
SENTENCES = {row.message for row in PUBLISHED.values()} | OWN_SENTENCES

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
"""Examples are not made smaller: the schema is so large that it would take minutes."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Limits are small, so that what never ends does; the budget is large, so that all is read."""
    with running_gateway(
        tmp_path_factory.mktemp("fuzz"),
        PRICED_MODEL + 'size_class = "none"\n' + IMAGE_MODELS,
        rate_limits="off",
        body_bytes_max=BODY_BYTES_MAX,
        form_bytes_max=2 * BODY_BYTES_MAX,
        image_bytes_max=BODY_BYTES_MAX // 2,
        headers_seconds_max=0.5,
        body_grace_seconds=0.3,
        failed_requests_max=10**9,
        unsupported_requests_max=10**9,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def key(gateway: RunningGateway) -> str:
    return gateway.new_key(account={"usd": "100000"})


@pytest.fixture(autouse=True)
def sound(gateway: RunningGateway, capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """After every test the server lives, nothing unknown was logged, and the books are true."""
    yield
    written = capsys.readouterr().err
    assert '"level":"error"' not in written
    assert "library_message" not in written, "a library complains of a caller"
    assert get(gateway, "/health/ready").status == 200
    assert gateway.differences() == []


def assert_contract(reply: Answer, *, head: bool = False) -> None:
    """An answer of the contract: a success, or a row of the tables in one of its shapes."""
    assert re.fullmatch("[0-9a-f]{32}", reply.request_id)
    assert reply.headers["cf-ray"] == reply.request_id
    assert reply.headers["x-content-type-options"] == "nosniff"
    if reply.status in SUCCESSES:
        return
    assert 400 <= reply.status < 500, reply
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    assert "x-error-code" in reply.headers
    if head:
        return
    body = reply.json
    message = body["error"]
    if isinstance(message, dict):
        assert message.keys() == {"message", "type", "param", "code"}
        message = message["message"]
    else:
        assert body.keys() in SHAPES, reply
    rejected = UPSTREAM_REJECTED.format(request_id=reply.request_id)
    assert message in SENTENCES or message.startswith(rejected), reply
    code = reply.headers["x-error-code"]
    status = PUBLISHED[code].status if code in PUBLISHED else Adjunct[code].value.status
    assert reply.status == status


# Requests from the schema


def operation(method: str, path: str) -> Any:
    schema = schemathesis.openapi.from_dict(OPENAPI)
    return schema[path][method]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/chat/completions"),
        ("GET", "/models"),
        ("GET", "/models/traits"),
        ("GET", "/models/compatibility_mapping"),
    ],
)
def test_requests_of_the_published_schema_get_answers_of_the_contract(
    gateway: RunningGateway, key: str, method: str, path: str, mode: GenerationMode
) -> None:
    """Also those that break the schema: they are refused by its own words."""
    cases = operation(method, path).as_strategy(generation_mode=mode)

    @settings(fuzzed, max_examples=EXAMPLES if method == "GET" else -(-EXAMPLES // 8))
    @given(case=cases)
    def check(case: Any) -> None:
        if isinstance(case.body, dict) and mode is GenerationMode.POSITIVE:
            case.body["model"] = "priced"
        response = case.call(
            base_url=f"{gateway.url}/api/v1", headers={"authorization": f"Bearer {key}"}
        )
        headers = {name.lower(): values[0] for name, values in response.headers.items()}
        reply = Answer(response.status_code, response.message, headers, response.content)
        assert_contract(reply)
        # Of a stream only the first events are read; then this client leaves.
        assert not (reply.status == 200 and b'data: {"error"' in reply.body)

    check()


ADMIN_OPERATIONS = [
    ("GET", "/api_keys"),
    ("POST", "/api_keys"),
    ("PATCH", "/api_keys"),
    ("GET", "/api_keys/{id}"),
    ("DELETE", "/api_keys"),
    ("GET", "/api_keys/rate_limits"),
    ("GET", "/api_keys/rate_limits/log"),
    ("GET", "/billing/balance"),
    ("GET", "/billing/usage"),
    ("GET", "/billing/usage-analytics"),
    ("GET", "/billing/usage-history"),
]


@dataclass
class Owner:
    """An account with some history, its admin key, and other keys of its."""

    admin: str
    account: str
    victims: list[str]
    """Ids that a request may name instead of one that nobody has."""


@pytest.fixture(scope="module")
def owner(gateway: RunningGateway) -> Owner:
    name = "owner"
    gateway.perform("accounts.create", name=name, usd="100", bundled="0.00001", diem="5")
    admin = gateway.perform("keys.create", account=name, admin=True)["secret"]
    victims = [
        gateway.perform("keys.create", account=name, description="=1+1", limit_usd="1")
        for _ in range(VICTIMS)
    ]
    for victim in victims[:3]:
        assert ask(gateway, victim["secret"], chat_body()).status == 200
    return Owner(admin, name, [victim["key"]["id"] for victim in victims])


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        (method, path, mode)
        for method, path in ADMIN_OPERATIONS
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        # There is nothing to do wrong in asking for what takes no parameter and no key.
        if (path, mode) != ("/billing/usage", GenerationMode.NEGATIVE)
    ],
)
def test_management_answers_as_published_or_refuses(
    gateway: RunningGateway, owner: Owner, method: str, path: str, mode: GenerationMode
) -> None:
    """Keys and bills: a 200 has the published form, and nothing that is asked costs anything."""
    before = gateway.perform("accounts.show", account=owner.account)
    served: Counter[int] = Counter()

    @settings(fuzzed, max_examples=EXAMPLES_OF_MANAGEMENT)
    @given(case=operation(method, path).as_strategy(generation_mode=mode), data=st.data())
    def check(case: Any, data: st.DataObject) -> None:
        if data.draw(st.booleans()):
            _name_a_victim(case, data, owner.victims)
        accept = data.draw(st.sampled_from(["*/*", "text/csv", "text/csv;q=0.1, */*"]))
        response = case.call(
            base_url=f"{gateway.url}/api/v1",
            headers={"authorization": f"Bearer {owner.admin}", "accept": accept},
        )
        headers = {name.lower(): values[0] for name, values in response.headers.items()}
        reply = Answer(response.status_code, response.message, headers, response.content)
        assert_contract(reply)
        served[reply.status] += 1
        if reply.status == 200 and reply.headers["content-type"].startswith("application/json"):
            assert_answer_is_published(case.method, case.path, reply.json)

    good = 410 if path == "/billing/usage" else 200
    rounds = ROUNDS_MAX if mode is GenerationMode.POSITIVE else 1
    for _ in range(rounds):  # what is published is seldom all that is asked for, as a date to come
        check()
        if served[good]:
            break
    if mode is GenerationMode.POSITIVE:
        assert served[good], served
    assert gateway.perform("accounts.show", account=owner.account) == before
    assert get(gateway, "/api/v1/billing/balance", owner.admin).status == 200


def _name_a_victim(case: Any, data: st.DataObject, victims: list[str]) -> None:
    """Have a request that names a key name one that there is, and change little of it."""
    key_id = data.draw(st.sampled_from(victims))
    if isinstance(case.body, dict) and "id" in case.body:
        said = data.draw(st.sets(st.sampled_from(sorted(case.body))))
        case.body = {name: value for name, value in case.body.items() if name in said}
        case.body["id"] = key_id
    for parameters in (case.path_parameters, case.query):
        if isinstance(parameters, dict) and "id" in parameters:
            parameters["id"] = key_id


# Images, in JSON and in forms

IMAGE_OPERATIONS = (
    "/image/generate",
    "/images/generations",
    "/image/edit",
    "/image/multi-edit",
    "/image/upscale",
    "/image/background-remove",
)
PHOTOGRAPH = encoded(picture(256, 256), "jpeg", quality=30)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", IMAGE_OPERATIONS)
def test_requests_for_images_get_answers_of_the_contract(
    gateway: RunningGateway, key: str, path: str, mode: GenerationMode
) -> None:
    """Whatever the published schema allows or forbids, in both media types that it names."""
    served: Counter[tuple[str, int]] = Counter()

    @settings(fuzzed, max_examples=EXAMPLES_OF_IMAGES)
    @given(case=operation("POST", path).as_strategy(generation_mode=mode), data=st.data())
    def check(case: Any, data: st.DataObject) -> None:
        is_json = case.media_type == "application/json"
        if is_json and isinstance(case.body, dict) and data.draw(st.booleans()):
            _name_what_there_is(case.body, path)
        response = case.call(
            base_url=f"{gateway.url}/api/v1", headers={"authorization": f"Bearer {key}"}
        )
        headers = {name.lower(): values[0] for name, values in response.headers.items()}
        reply = Answer(response.status_code, response.message, headers, response.content)
        assert_contract(reply)
        served[case.media_type, reply.status] += 1

    for _ in range(ROUNDS_MAX if mode is GenerationMode.POSITIVE else 1):
        check()
        if served["application/json", 200] and len({media_type for media_type, _ in served}) == (
            2 if path in FORMS else 1
        ):
            break
    else:
        assert mode is GenerationMode.NEGATIVE, served


def _name_what_there_is(body: dict[str, Any], path: str) -> None:
    """Have a request name what there is: a model, an image, a size that is soon painted."""
    for member in ("modelId", "image_url", "aspect_ratio", "resolution", "style_preset"):
        body.pop(member, None)
    if "prompt" in body:
        body["prompt"] = "make it grayscale"
    if path == "/image/generate":
        body |= {"model": "painter", "width": 64, "height": 64}
    elif path == "/images/generations":
        body |= {"model": "painter", "size": "256x256"}
    if "image" in body or path == "/image/background-remove":
        body["image"] = base64_text(PHOTOGRAPH)
    if isinstance(body.get("images"), list):
        body["images"] = [base64_text(PHOTOGRAPH)]


def test_styles_are_listed_in_the_published_form(gateway: RunningGateway) -> None:
    """There is nothing that a caller could do wrong."""
    reply = get(gateway, "/api/v1/image/styles")
    assert reply.status == 200
    assert_answer_is_published("GET", "/image/styles", reply.json)


FORMS = {
    "/image/edit": "EditImageRequest",
    "/image/multi-edit": "MultiEditImageRequest",
    "/image/upscale": "UpscaleImageRequest",
    "/image/background-remove": "BackgroundRemoveImageRequest",
}
"""What takes forms, and the schema of their fields."""
form_values = st.sampled_from(
    [b"", b"true", b"FALSE", b"2", b"2.5", b"1e999", b"-0", b"nan", b"null", b"1K", b"9K", b"1:1",
     b"auto", b"png", b"jpg", b"editor", b"cutter", b"make it grayscale", b"\0", b"\xff\xfe",
     b"http://127.0.0.1/", b"[1]", b"x" * 40_000, png(256, 256), PHOTOGRAPH, PHOTOGRAPH[:300]]
) | st.binary(max_size=30)  # fmt: skip


def parts_of(path: str) -> st.SearchStrategy[tuple[str, bytes, bool]]:
    """The name, the content, and whether it comes as a file."""
    members = sorted(OPENAPI["components"]["schemas"][FORMS[path]]["properties"])
    names = st.sampled_from(members) | st.sampled_from(["images[]", "[]", "", "user"])
    return st.tuples(names, form_values, st.booleans())


forms = st.sampled_from(tuple(FORMS)).flatmap(
    lambda path: st.tuples(st.just(path), st.lists(parts_of(path), max_size=3))
)


@fuzzed
@given(chosen=forms, is_complete=st.booleans())
def test_forms_of_any_parts_get_answers_of_the_contract(
    gateway: RunningGateway,
    key: str,
    chosen: tuple[str, list[tuple[str, bytes, bool]]],
    is_complete: bool,
) -> None:
    """Files in the place of texts and texts in that of files, twice, empty, or beyond reason."""
    path, members = chosen
    sent = list(members)
    if is_complete:
        image = "images" if "multi" in path else "image"
        usual = [(image, PHOTOGRAPH, True), ("prompt", b"make it grayscale", False)]
        sent += [each for each in usual if each[0] not in {name for name, _, _ in members}]
    body = b"".join(_part(*each) for each in sent) + b"--frontier--\r\n"
    headers: dict[str, str | None] = {"content-type": "multipart/form-data; boundary=frontier"}
    assert_contract(ask(gateway, key, body, path=f"/api/v1{path}", headers=headers))


def _part(name: str, content: bytes, is_file: bool) -> bytes:
    head = f'--frontier\r\ncontent-disposition: form-data; name="{name}"'
    return head.encode() + b'; filename="x"' * is_file + b"\r\n\r\n" + content + b"\r\n"


TOKENS = [
    b"\r\n", b"\n", b"--", b"--a-boundary-of-the-tests", b"--a-boundary-of-the-tests--\r\n", b"\0",
    b"\r\n\r\n", b"content-transfer-encoding: base64\r\n", b"; filename*=utf-8''%E2%82%AC",
    b"x: " + b"y" * 5000, b"\xff",
]  # fmt: skip
BOUNDARIES = [
    "a-boundary-of-the-tests", '"a-boundary-of-the-tests"', "b", '""', "x" * 71, "", "a;boundary=b",
    '"', "a\\", "=",
]  # fmt: skip


@fuzzed
@given(data=st.data(), path=st.sampled_from(tuple(FORMS)))
def test_mutilated_forms_get_answers_of_the_contract(
    gateway: RunningGateway, key: str, data: st.DataObject, path: str
) -> None:
    """A good form over a socket of its own: cut, repeated, changed, or under another boundary."""
    image = "images" if "multi" in path else "image"
    good, _ = form({"prompt": "make it grayscale"}, [(image, PHOTOGRAPH)])
    body = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        # Most of a form is its file, and what matters is around it.
        place = data.draw(st.integers(0, 300) | st.integers(0, len(body)))
        change = data.draw(st.sampled_from(["cut", "insert", "replace", "repeat"]))
        if change == "cut":
            del body[place : place + data.draw(st.integers(1, 80))]
        elif change == "repeat":
            body[place:place] = body[place : place + 120]
        else:
            token = data.draw(st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=4))
            body[place : place + len(token) * (change == "replace")] = token
    boundary = data.draw(st.just(BOUNDARIES[0]) | st.sampled_from(BOUNDARIES))
    head = (
        f"POST /api/v1{path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n"
        f"authorization: Bearer {key}\r\n"
        f"content-type: multipart/form-data; boundary={boundary}\r\n"
    )
    if data.draw(st.booleans()):
        pieces = [bytes(body[start : start + 700]) for start in range(0, len(body), 700)]
        sent = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
        request = head.encode() + b"transfer-encoding: chunked\r\n\r\n" + sent
    else:
        request = head.encode() + b"content-length: %d\r\n\r\n" % len(body) + bytes(body)
    assert_contract(one_answer(raw_exchange(gateway.address, request)))


# Bodies that are nearly requests

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(10**400), 2**63, -(2**63) - 1, 1e308, -0.0]),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
MEMBERS = sorted(OPENAPI["components"]["schemas"]["ChatCompletionRequest"]["properties"])
FRAGMENTS = [
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"{",
    b'{"model":"priced","model":"priced","messages":[]}',
    b'{"model":"priced","messages":NaN}',
    b'{"model":"priced","messages":[{"role":"user","content":"\\ud800"}]}',
    b'{"model":"\\ud800\\udc00\\ud800","messages":[{"role":"user","content":"x"}]}',
    b'{"model":"priced","temperature":1e999,"messages":[{"role":"user","content":"x"}]}',
    b'{"model":"priced","seed":' + b"9" * 5000 + b',"messages":[]}',
    b'{"model":"priced","messages":[{"role":"user","content":"\xff\xfe"}]}',
    b"\xef\xbb\xbf{}",
    b"[" * 30_000,
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    b'{"model":"priced","messages":[' + b"1," * 20_000 + b"1]}",
    b'{"model":"priced","messages":[{"role":"user","content":"' + b"x" * BODY_BYTES_MAX + b'"}]}',
    b'{"model":"priced:strip_thinking_response=\\u0000&=&%ff","messages":[]}',
    b'{"model":"' + b"m" * 50_000 + b'","messages":[]}',
]


@pytest.mark.parametrize("body", FRAGMENTS, ids=range(len(FRAGMENTS)))
def test_known_tricks_are_refused(gateway: RunningGateway, key: str, body: bytes) -> None:
    """Depth, size, duplicates, numbers beyond reason, lone surrogates, bytes that are no text."""
    assert_contract(ask(gateway, key, body))


@fuzzed
@given(
    members=st.dictionaries(st.sampled_from(MEMBERS), values, max_size=4),
    stream=st.booleans(),
    message=values,
)
def test_wrong_types_anywhere_in_a_request_are_refused(
    gateway: RunningGateway, key: str, members: dict[str, Any], stream: bool, message: Any
) -> None:
    """A chat request with any members replaced by anything."""
    body: dict[str, Any] = chat_body("priced", stream=stream, max_tokens=4)
    if message:
        body["messages"] = [message]
    text = json.dumps(body | members)
    assert_contract(ask(gateway, key, text.encode()))


@fuzzed
@given(data=st.data())
def test_mutilated_json_is_refused(gateway: RunningGateway, key: str, data: st.DataObject) -> None:
    """A good body, cut, repeated or with bytes changed."""
    body = bytearray(json.dumps(chat_body("priced", max_tokens=4)).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(len(body) - 1, 0)))
        change = data.draw(st.sampled_from(["cut", "insert", "replace", "repeat"]))
        if change == "cut":
            del body[place : place + data.draw(st.integers(1, 40))]
        elif change == "repeat":
            body[place:place] = body[place : place + 30]
        else:
            end = place + (change == "replace")
            body[place:end] = data.draw(st.binary(min_size=1, max_size=4))
    assert_contract(ask(gateway, key, bytes(body)))


# Bytes that are nearly HTTP

header_names = st.sampled_from(
    [
        b"content-length",
        b"transfer-encoding",
        b"content-type",
        b"content-encoding",
        b"authorization",
        b"expect",
        b"upgrade",
        b"connection",
        b"host",
        b"x-forwarded-for",
        b"payment-signature",
        b"te",
        b"x-anything",
    ]
) | st.binary(min_size=1, max_size=8)
header_values = st.sampled_from(
    [
        b"0",
        b"5",
        b"-1",
        b"+5",
        b"5, 5",
        b"99999999999999999999",
        b"chunked",
        b"gzip, chunked",
        b"xchunked",
        b"application/json",
        b"application/json; charset=utf-16",
        b"text/html",
        b"gzip",
        b"Bearer",
        b"Bearer x",
        b"Basic eDp5",
        b"100-continue",
        b"h2c",
        b"websocket",
        b"keep-alive, upgrade",
        b"",
    ]
) | st.binary(max_size=24)
targets = st.sampled_from(
    [
        CHAT.encode(),
        b"/v1/models",
        b"/v1/models/priced",
        b"/v1/models/%00%ff",
        b"/v1/models?type=%ff&type=" + b"&" * 200,
        b"/v1/../etc/passwd",
        b"//v1/models",
        b"*",
        b"http://elsewhere/v1/models",
        b"/" + b"a" * 9000,
    ]
) | st.binary(min_size=1, max_size=16)
bodies = st.one_of(
    st.just(json.dumps(chat_body("priced", max_tokens=2)).encode()),
    st.sampled_from(
        [
            b"5\r\n{}   \r\n0\r\n\r\n",
            b"zz\r\n{}\r\n",
            b"5\r\n{}",
            b"ffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
            b"2;ext=1\r\n{}\r\n0\r\nx-trailer: y\r\n\r\n",
            b"{}GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n",
        ]
    ),
    st.binary(max_size=60),
)


@st.composite
def http_bytes(draw: st.DrawFn) -> bytes:
    method = draw(
        st.sampled_from([b"POST", b"GET", b"HEAD", b"PUT", b"OPTIONS", b"CONNECT", b"FOO", b""])
    )
    version = draw(st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b""]))
    headers = draw(st.lists(st.tuples(header_names, header_values), max_size=6))
    body = draw(bodies)
    if draw(st.booleans()):
        headers.append((b"host", b"gateway"))
    if draw(st.booleans()):
        headers.append((b"content-type", b"application/json"))
    if draw(st.booleans()):
        headers.append((b"content-length", b"%d" % len(body)))
    end = draw(st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r"]))
    lines = [b" ".join((method, draw(targets), version))]
    lines += [name + draw(st.sampled_from([b": "] * 8 + [b" : ", b""])) + v for name, v in headers]
    return end.join([*lines, b"", body])


@fuzzed
@given(sent=http_bytes() | st.binary(max_size=200))
def test_any_bytes_get_answers_of_the_contract_or_none(
    gateway: RunningGateway, key: str, sent: bytes
) -> None:
    """Then the client says that it is done, and the server closes in bounded time."""
    del key
    with socket.create_connection(gateway.address, timeout=15) as connection:
        received = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                received += piece
    for reply, head in answers(received, is_head=sent.startswith(b"HEAD")):
        assert_contract(reply, head=head)


@fuzzed
@given(sent=http_bytes())
def test_a_client_that_goes_on_waiting_is_answered_or_cut_in_time(
    gateway: RunningGateway, key: str, sent: bytes
) -> None:
    """Half a request ends in an answer or a close by the deadlines of the front door."""
    sent = sent.replace(b"Bearer x", b"Bearer " + key.encode())
    sent = sent.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
    with socket.create_connection(gateway.address, timeout=15) as connection:
        received = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
            while piece := connection.recv(65536):
                received += piece
    for reply, head in answers(received, is_head=sent.startswith(b"HEAD")):
        assert_contract(reply, head=head)


@fuzzed
@given(
    value=st.one_of(
        st.binary(max_size=40),
        st.from_regex(rb"[A-Za-z0-9_-]{1,300}", fullmatch=True),
        st.from_regex(rb"[ \t]?[A-Za-z0-9_-]{1,20}[ \t]?[.,/\x00-\xff]?", fullmatch=True),
    )
)
def test_an_idempotency_key_is_used_or_refused(
    gateway: RunningGateway, key: str, value: bytes
) -> None:
    """Any bytes in the header: a request is answered under that key, or it is a 400."""
    value = value.replace(b"\r", b"").replace(b"\n", b"")
    body = json.dumps(chat_body("priced", max_tokens=2)).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n"
        f"authorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nidempotency-key: "
    )
    request = head.encode() + value + b"\r\n\r\n" + body
    first, again = (one_answer(raw_exchange(gateway.address, request)) for _ in range(2))
    assert_contract(first)
    assert_contract(again)
    if re.fullmatch(rb"[A-Za-z0-9_-]{1,255}", value.strip(b" \t")):
        assert (first.status, again.status) == (200, 200), (value, first)
        assert again.headers["idempotent-replayed"] == "true"
        assert again.body == first.body
    else:
        assert (first.status, again.status) == (400, 400)


def one_answer(received: bytes) -> Answer:
    """The only answer in everything that a server sent."""
    ((answer, _),) = answers(received, is_head=False)
    return answer


class Unclosed(io.BytesIO):
    """Bytes that one answer after the other is read from: a finished one must not close them."""

    def close(self) -> None:
        """Stay open."""


@dataclass
class Received:
    """What `http.client` takes for a socket."""

    data: Unclosed

    def makefile(self, *_: Any, **__: Any) -> Unclosed:
        return self.data


def answers(received: bytes, *, is_head: bool) -> Iterator[tuple[Answer, bool]]:
    """The answers in everything that a server sent, and whether one is an answer to HEAD."""
    data = Unclosed(received)
    while data.tell() < len(received):
        rest = received[received.find(b"\r\n\r\n", data.tell()) + 4 :]
        # A request that is no HTTP has no method either: its refusal always has a body.
        bodiless = is_head and data.tell() == 0 and (not rest or rest.startswith(b"HTTP/1.1 "))
        method = "HEAD" if bodiless else "POST"
        source = cast(socket.socket, Received(data))
        response = http.client.HTTPResponse(source, method=method)
        response.begin()  # it passes over `100 Continue`
        yield Answer.read(response), method == "HEAD"
