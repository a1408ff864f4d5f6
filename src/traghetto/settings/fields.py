"""THE SETTINGS: every knob of the gateway, declared once.

A field of `Settings` is the declaration: its name, type, bounds, default and description (which
states the unit). Its TOML key, environment variable, command-line flag and line in the reference
page derive from it.

Invariants: no secret is a setting (only names of variables and files that hold secrets are);
every limit has its unit in its name.
"""

from __future__ import annotations

import ipaddress
import os
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from traghetto.bounds import IMAGE_FILE_BYTES_MAX, IMAGE_PIXELS_MAX, WORKER_MEMORY_BYTES_MAX
from traghetto.money import parse_usd
from traghetto.settings.invalid import SettingInvalid

_DAY: Final = 86_400
_Positive = Annotated[int, Meta(ge=1)]

HOLD_SECONDS_MAX: Final = 900
SETTLE_SECONDS: Final = 10.0
"""Time that a hold must have left when its answer is given up, so that it can be settled."""

SizeClass = Literal["xs", "s", "m", "l", "image", "audio", "embedding", "none"]
"""Which row of the rate limit table holds for a model; `none` has no limit."""

SimulatorFault = Literal[
    "overloaded",
    "at-capacity",
    "offline",
    "unreachable",
    "content-policy",
    "context-exceeded",
    "rejected-input",
    "broken",
    "hang",
    "slow",
    "stall-after",
    "cut-after",
    "malformed",
    "invalid-utf8",
    "in-band-error",
    "in-band-overload",
    "no-finish-reason",
    "no-done",
    "no-usage",
]
"""What a file may call a permanent fault: the values of the simulator's `Fault`, which says what
each does."""


def default_data_dir() -> Path:
    """Where state lives unless told otherwise: `$XDG_DATA_HOME/traghetto`, by the XDG rules."""
    base = os.environ.get("XDG_DATA_HOME", "")
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "share"
    return root / "traghetto"


class RateNumbers(msgspec.Struct, frozen=True):
    """An operator's own limits for one size class; None is no limit."""

    requests_per_minute: Annotated[
        _Positive | None, Meta(description="Requests per account and model in 60 seconds.")
    ] = None
    tokens_per_minute: Annotated[
        _Positive | None, Meta(description="Tokens per account and model in 60 seconds.")
    ] = None


Api = Literal["openai", "sdapi", "comfyui"]
"""The protocols that a server behind the gateway may speak."""


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """One server behind the gateway: a `[[upstreams]]` table."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z",
            description="How models, logs, metrics and health name it.",
        ),
    ]
    url: Annotated[str, Meta(description="Base URL, such as `http://127.0.0.1:8000/v1`.")]
    api: Annotated[
        Api,
        Meta(
            description="What it speaks: `openai`; for images also `sdapi` (AUTOMATIC1111, Forge, "
            "SD.Next) or `comfyui`."
        ),
    ] = "openai"
    key_env: Annotated[
        str | None,
        Meta(
            description="Environment variable that holds its API key; for `sdapi` it holds "
            "`user:password`."
        ),
    ] = None
    tokenize: Annotated[
        Literal["vllm", "llama.cpp"] | None,
        Meta(description="How it counts tokens exactly; without it the backend alone decides."),
    ] = None

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("`url` starts with http:// or https:// and names a host")
        if parts.username or parts.password:
            raise ValueError("`url` carries no credentials: name a variable in `key_env`")
        if self.tokenize is not None and self.api != "openai":
            raise ValueError('`tokenize` is for text: it needs api = "openai"')


ModerationEffect = Literal["allow", "blocked", "adult", "minor"]
"""What it means that a classifier finds a category."""

MINORS_CATEGORY: Final = "sexual/minors"


class Moderation(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator forbids in images and their prompts: the `[moderation]` table."""

    words_file: Annotated[
        Path | None, Meta(description="Word list (UTF-8) that prompts are compared with.")
    ] = None
    classifier_url: Annotated[
        str | None,
        Meta(
            description="Base URL of a server with OpenAI's `/moderations`, such as "
            "`http://127.0.0.1:8000/v1`."
        ),
    ] = None
    classifier_key_env: Annotated[
        str | None, Meta(description="Environment variable that holds its API key.")
    ] = None
    classifier_model: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="Model that it is asked for; its own choice if not given."),
    ] = None
    classifier_seconds_max: Annotated[
        float, Meta(gt=0, le=60, description="Deadline of one judgement, in seconds.")
    ] = 5.0
    judges: Annotated[
        tuple[Literal["prompts", "images"], ...],
        Meta(min_length=1, description="What the classifier is asked about: `prompts`, `images`."),
    ] = ("prompts", "images")
    on_failure: Annotated[
        Literal["refuse", "allow"],
        Meta(
            description="What becomes of a request while the classifier fails: `refuse` turns it "
            "away, `allow` goes on as if nothing had been found."
        ),
    ] = "refuse"
    categories: Annotated[
        Mapping[str, ModerationEffect],
        Meta(
            description="What its categories mean: `blocked`, `adult`, `minor` or `allow`.",
            extra={
                "default": f"`{MINORS_CATEGORY}` is `minor`, `sexual` is `adult`, others are "
                "`blocked`"
            },
        ),
    ] = {}
    thresholds: Annotated[
        Mapping[str, Annotated[float, Meta(ge=0, le=1)]],
        Meta(
            description="Scores, 0 to 1, from which a category is found, whatever the classifier "
            "itself makes of them.",
            extra={"default": "the classifier decides"},
        ),
    ] = {}

    def __post_init__(self) -> None:
        if self.classifier_url is None:
            for name in ("classifier_key_env", "classifier_model", "categories", "thresholds"):
                if getattr(self, name):
                    raise SettingInvalid((name,), "there is no classifier; set `classifier_url`")
            return
        if problem := _problem_of_classifier_url(self.classifier_url):
            raise SettingInvalid(("classifier_url",), problem)
        if self.categories.get(MINORS_CATEGORY) in {"allow", "adult"}:
            raise SettingInvalid(
                ("categories", MINORS_CATEGORY), "cannot be allowed; use `minor` or `blocked`"
            )


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The values of every setting."""

    host: Annotated[str, Meta(min_length=1, description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    ] = 8420
    data_dir: Annotated[
        Path,
        Meta(
            description="Directory of the books, keys and control socket (0700).",
            extra={"default": "`$XDG_DATA_HOME/traghetto`, else `~/.local/share/traghetto`"},
        ),
    ] = msgspec.field(default_factory=default_data_dir)
    pepper_file: Annotated[
        Path | None,
        Meta(
            description="File (0600) with the secret that API key digests are made with.",
            extra={"default": "`pepper` in the data directory"},
        ),
    ] = None
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(description="Networks (CIDR) of the proxies whose `X-Forwarded-For` counts."),
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...],
        Meta(description="Origins that browsers may call from, such as `https://app.example`."),
    ] = ()

    headers_bytes_max: Annotated[
        int, Meta(ge=1024, description="Request line and headers together, in bytes.")
    ] = 65_536
    headers_count_max: Annotated[int, Meta(ge=8, description="Number of headers in a request.")] = (
        100
    )
    headers_seconds_max: Annotated[
        float, Meta(gt=0, le=_DAY, description="Deadline of a whole request head, in seconds.")
    ] = 10.0
    body_bytes_max: Annotated[
        int, Meta(ge=1024, description="Size of a request body, in bytes.")
    ] = 36_700_160
    form_bytes_max: Annotated[
        int, Meta(ge=1024, description="Size of a form with its files, in bytes.")
    ] = 67_108_864
    body_grace_seconds: Annotated[
        float, Meta(ge=0, le=_DAY, description="Time before that rate counts, in seconds.")
    ] = 10.0
    body_bytes_per_second_min: Annotated[
        int, Meta(ge=1, description="Lowest average rate of a body, in bytes per second.")
    ] = 1024
    body_seconds_max: Annotated[
        float, Meta(gt=0, le=_DAY, description="Deadline of a whole request body, in seconds.")
    ] = 300.0
    write_stall_seconds_max: Annotated[
        float,
        Meta(gt=0, le=_DAY, description="How long a client may read nothing, in seconds."),
    ] = 60.0
    keep_alive_seconds_max: Annotated[
        float, Meta(gt=0, le=_DAY, description="How long a connection may be idle, in seconds.")
    ] = 75.0
    connections_max: Annotated[int, Meta(ge=1, description="Open connections in all.")] = 10_000
    connections_per_address_max: Annotated[
        int, Meta(ge=1, description="Open connections of one client address.")
    ] = 2_000
    bodies_in_flight_bytes_max: Annotated[
        int,
        Meta(ge=1024, description="Bodies in memory together, in bytes; above it reading waits."),
    ] = 268_435_456
    json_depth_max: Annotated[
        int, Meta(ge=8, le=512, description="Nesting of a JSON body, in levels.")
    ] = 64
    json_nodes_max: Annotated[
        int, Meta(ge=100, description="Values in a JSON body, keys not counted.")
    ] = 200_000
    drain_seconds_max: Annotated[
        float, Meta(ge=0, le=_DAY, description="How long a stop waits for requests, in seconds.")
    ] = 30.0

    error_code_header: Annotated[
        bool, Meta(description="Send the name of the error's code in `x-error-code`.")
    ] = True
    openai_error_objects: Annotated[
        bool, Meta(description="Send every error as an OpenAI error object.")
    ] = False
    credits_url: Annotated[
        str,
        Meta(min_length=1, description="Where INSUFFICIENT_BALANCE sends people to add funds."),
    ] = "https://venice.ai/settings/api"
    ratelimit_reset_style: Annotated[
        Literal["docs", "live"],
        Meta(
            description="Units of the reset headers: `docs` is Unix seconds for requests and "
            "seconds remaining for tokens, `live` is Unix milliseconds for both."
        ),
    ] = "docs"
    rate_limits: Annotated[
        Literal["on", "off", "auto"],
        Meta(
            description="Whether models have rate limits; `auto` is on, except when the simulator "
            "or a model file was started without configuration. In the TOML file, tables "
            "`[rate_limits.CLASS]` set own numbers and mean `on`."
        ),
    ] = "auto"
    failed_requests_max: Annotated[
        int, Meta(ge=1, description="Failed requests of one key in a window before a block.")
    ] = 20
    unsupported_requests_max: Annotated[
        int,
        Meta(ge=1, description="Requests for unsupported features in a window before a block."),
    ] = 200
    failed_requests_window_seconds: Annotated[
        int, Meta(ge=1, le=_DAY, description="Length of that window, in seconds.")
    ] = 30
    failed_requests_block_seconds: Annotated[
        int, Meta(ge=1, le=_DAY, description="Length of the block, in seconds.")
    ] = 30

    durability: Annotated[
        Literal["full", "normal"],
        Meta(description="`full` survives a power cut; `normal` can lose the last commits in one."),
    ] = "full"
    overdraft: Annotated[
        Literal["last", "never"],
        Meta(
            description="`last`: the request that takes the last funds may exceed them; `never`: "
            "it ends early instead."
        ),
    ] = "last"
    hold_seconds_max: Annotated[
        int,
        Meta(ge=60, le=_DAY, description="Life of a hold on funds, and of a stream, in seconds."),
    ] = HOLD_SECONDS_MAX

    kept_answers_bytes_max: Annotated[
        int,
        Meta(
            ge=0,
            description="Answers kept for `Idempotency-Key`, together and encrypted, in bytes; "
            "above it a repeated request is refused instead of answered again. "
            "One account has at most a quarter.",
        ),
    ] = 1_073_741_824

    report_seconds_max: Annotated[
        float,
        Meta(gt=0, le=_DAY, description="Deadline of a billing report, in seconds."),
    ] = 20.0

    first_event_seconds: Annotated[
        float, Meta(gt=0, le=_DAY, description="Deadline of a stream's first event, in seconds.")
    ] = 120.0
    between_events_seconds: Annotated[
        float, Meta(gt=0, le=_DAY, description="Longest pause within a stream, in seconds.")
    ] = 30.0
    total_seconds: Annotated[
        float,
        Meta(gt=0, le=_DAY, description="Deadline of a whole answer without stream, in seconds."),
    ] = 600.0
    stream_ping_seconds: Annotated[
        float,
        Meta(
            gt=0, le=_DAY, description="Time between keep-alive comments in a stream, in seconds."
        ),
    ] = 15.0

    prompt_enhancement_model: Annotated[
        str,
        Meta(
            description="Id of the text model that rewrites prompts for images where a request "
            "asks for it (`enhance_prompt`); empty leaves all prompts as they are."
        ),
    ] = ""
    prompt_enhancement_usd: Annotated[
        str, Meta(description="Price of a rewritten prompt, in USD.")
    ] = "0.04"
    image_bytes_max: Annotated[
        int, Meta(ge=1024, le=67_108_864, description="Size of an image file, in bytes.")
    ] = IMAGE_FILE_BYTES_MAX
    image_pixels_max: Annotated[
        int,
        Meta(
            ge=65_536,
            le=IMAGE_PIXELS_MAX,
            description="Width times height of an image, in pixels.",
        ),
    ] = IMAGE_PIXELS_MAX
    media_workers_max: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="Processes that decode and compute images; none runs before there is "
            "an image. Engines of our own take all but one of them; with 1 they have another one "
            "beside it.",
        ),
    ] = 3
    media_worker_memory_bytes_max: Annotated[
        int, Meta(ge=268_435_456, description="Address space of each of them, in bytes.")
    ] = WORKER_MEMORY_BYTES_MAX
    media_seconds_max: Annotated[
        float, Meta(gt=0, le=_DAY, description="How long decoding an image may take, in seconds.")
    ] = 10.0
    media_fetch_seconds_max: Annotated[
        float,
        Meta(gt=0, le=_DAY, description="Deadline of fetching what a URL names, in seconds."),
    ] = 10.0
    media_fetch_allow_networks: Annotated[
        tuple[str, ...],
        Meta(
            description="Networks (CIDR) that URLs of callers may lead to although they are not "
            "public, on any port; for tests."
        ),
    ] = ()

    access_log: Annotated[bool, Meta(description="Write one record per request.")] = False
    log_level: Annotated[
        Literal["debug", "info", "warn", "error"], Meta(description="Lowest level of records.")
    ] = "info"

    upstreams: tuple[Upstream, ...] = ()
    rate_limit_classes: Mapping[SizeClass, RateNumbers] = {}
    """Own numbers per size class, from `[rate_limits.CLASS]`; other classes keep the defaults."""
    moderation: Moderation = Moderation()

    def __post_init__(self) -> None:
        for name in ("trusted_proxies", "media_fetch_allow_networks"):
            for network in getattr(self, name):
                try:
                    ipaddress.ip_network(network)
                except ValueError as error:
                    raise SettingInvalid((name,), f"not a network: {error}") from None
        for origin in self.cors_origins:
            parts = urllib.parse.urlsplit(origin)
            if origin != "*" and not (parts.scheme and parts.netloc and not parts.path):
                raise SettingInvalid(("cors_origins",), f"not an origin: {origin!r}")
        if problem := outlives_hold(self.total_seconds, self.hold_seconds_max):
            is_default = self.hold_seconds_max == HOLD_SECONDS_MAX
            raise SettingInvalid(("total_seconds" if is_default else "hold_seconds_max",), problem)
        try:
            price = parse_usd(self.prompt_enhancement_usd)
        except ValueError as error:
            raise SettingInvalid(("prompt_enhancement_usd",), str(error)) from None
        if price < 0:
            raise SettingInvalid(("prompt_enhancement_usd",), "a price is never negative")
        names = [upstream.name for upstream in self.upstreams]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise SettingInvalid(
                    ("upstreams", index, "name"), f"{name!r} is the name of another upstream"
                )


def outlives_hold(total_seconds: float, hold_seconds_max: int) -> str | None:
    """Why no answer may take `total_seconds`; None where its hold on funds lasts long enough."""
    if total_seconds + SETTLE_SECONDS <= hold_seconds_max:
        return None
    return (
        f"an answer may take {total_seconds:g} s (`total_seconds`), but its hold on funds lasts "
        f"{hold_seconds_max} s (`hold_seconds_max`) and has to last {SETTLE_SECONDS:g} s longer"
    )


def _problem_of_classifier_url(url: str) -> str | None:
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        return "not a URL; check its host and its port"
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        return "starts with http:// or https:// and names a host"
    if parts.username or parts.password:
        return "carries no credentials: name a variable in `classifier_key_env`"
    if parts.query or parts.fragment:
        return "ends with its path: remove `?` and `#`"
    return None
