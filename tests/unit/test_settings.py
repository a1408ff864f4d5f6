"""Settings: one declaration, four sources, and refusals that say where and what to do."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from traghetto.settings import (
    Moderation,
    Origin,
    RateNumbers,
    SettingInvalid,
    Settings,
    Upstream,
    build_settings,
    default_data_dir,
    setting_rows,
    table_rows,
)


def refusal(
    file: dict | None = None, environ: dict | None = None, flags: dict | None = None
) -> SettingInvalid:
    with pytest.raises(SettingInvalid) as caught:
        build_settings(file, environ, flags)
    return caught.value


def test_later_sources_win():
    """The command line beats the environment, which beats the file, which beats the default."""
    file = {"port": 1, "host": "a", "log_level": "warn"}
    environ = {"TRAGHETTO_PORT": "2", "TRAGHETTO_HOST": "b"}
    settings = build_settings(file, environ, {"port": "3", "host": None})
    assert (settings.port, settings.host, settings.log_level) == (3, "b", "warn")
    assert settings.connections_max == 10_000


def test_defaults_are_the_documented_ones():
    """A gateway without configuration listens on loopback port 8420 with the documented limits."""
    settings = build_settings()
    assert settings == Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8420)
    assert settings.body_bytes_max == 35 * 1024 * 1024
    assert (settings.first_event_seconds, settings.between_events_seconds) == (120.0, 30.0)
    assert settings.total_seconds == 600.0


def test_data_dir_follows_xdg(monkeypatch, tmp_path):
    """Data lives in $XDG_DATA_HOME, or in ~/.local/share where that is unset or relative."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "traghetto"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/ada")
    assert default_data_dir() == Path("/home/ada/.local/share/traghetto")


def test_unknown_key_is_refused_with_the_nearest():
    """A misspelt key of the file never passes silently."""
    assert str(refusal({"prot": 1})) == "prot: unknown key; did you mean `port`?"
    assert "remove it" in str(refusal({"zzzzzzzzzz": 1}))
    assert "did you mean `key_env`?" in str(
        refusal({"upstreams": [{"name": "a", "url": "http://a", "key_en": "X"}]})
    )


@pytest.mark.parametrize(
    ("file", "environ", "flags", "text"),
    [
        ({"port": "80"}, {}, {}, "port: expected a whole number, got text"),
        ({"port": 70000}, {}, {}, "port: expected a whole number of at most 65535"),
        (
            {"image_pixels_max": 33_177_601},
            {},
            {},
            "image_pixels_max: expected a whole number of at most 33177600",
        ),
        ({"durability": "ful"}, {}, {}, "choose one of full, normal"),
        ({"upstreams": {}}, {}, {}, "upstreams: write each upstream as a `[[upstreams]]` table"),
        ({"upstreams": [{"name": "a"}]}, {}, {}, "upstreams[0]: `url` is missing"),
        ({"upstreams": [{"name": "a", "url": "ftp://x"}]}, {}, {}, "starts with http://"),
        ({"upstreams": [{"name": "a", "url": "http://u:p@x"}]}, {}, {}, "no credentials"),
        (
            {"upstreams": [{"name": "a", "url": "http://x"}] * 2},
            {},
            {},
            "upstreams[1].name: 'a' is the name of another upstream",
        ),
        ({"rate_limits": {"xxl": {}}}, {}, {}, "rate_limits.xxl: unknown key"),
        ({"trusted_proxies": ["10.0.0.0/99"]}, {}, {}, "not a network"),
        ({"trusted_proxies": ["10.0.0.1/8"]}, {}, {}, "10.0.0.1/8 has host bits set"),
        ({"total_seconds": 891}, {}, {}, "total_seconds: an answer may take 891 s"),
        ({}, {}, {"hold_seconds_max": "600"}, "option --hold-seconds-max: an answer may take 600"),
        ({"upstreams": [{"name": "a\n", "url": "http://x"}]}, {}, {}, "upstreams[0].name"),
        ({"crash_policy": "void"}, {}, {}, "crash_policy: unknown key"),
        ({"cors_origins": ["example.com"]}, {}, {}, "not an origin"),
        ({"drain_seconds_max": Decimal("nan")}, {}, {}, "drain_seconds_max: expected"),
        (
            {},
            {"TRAGHETTO_PORT": "x"},
            {},
            "environment variable TRAGHETTO_PORT: expected a whole number",
        ),
        ({}, {"TRAGHETTO_TRUSTED_PROXIES": "x"}, {}, "environment variable TRAGHETTO_TRUSTED_PROX"),
        ({}, {}, {"log_level": "loud"}, "option --log-level: invalid enum value 'loud'; choose"),
        ({}, {}, {"nonsense": "1"}, "option --nonsense: unknown key"),
    ],
)
def test_unusable_values_are_refused(file, environ, flags, text):
    """A value that cannot be used is refused by the name its source has for it."""
    assert text in str(refusal(file, environ, flags))


def test_origin_is_told():
    """A refusal knows its source, so that only those of the file get a line number."""
    assert refusal({"port": "x"}).origin is Origin.FILE
    assert refusal({}, {"TRAGHETTO_PORT": "x"}).origin is Origin.ENVIRONMENT
    assert refusal({}, {}, {"port": "x"}).origin is Origin.FLAG


def test_text_becomes_typed_values():
    """The environment and the command line are text: lists are split, booleans and paths read."""
    settings = build_settings(
        {},
        {"TRAGHETTO_CORS_ORIGINS": "https://a.example, https://b.example"},
        {"access_log": "True", "data_dir": "/srv/x", "drain_seconds_max": "1.5"},
    )
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert (settings.access_log, settings.data_dir) == (True, Path("/srv/x"))
    assert settings.drain_seconds_max == 1.5


def test_rate_limit_tables_turn_limits_on():
    """Own numbers for a class mean that limits are on, whatever `auto` would have decided."""
    settings = build_settings({"rate_limits": {"xs": {"requests_per_minute": 3}}})
    assert settings.rate_limits == "on"
    assert settings.rate_limit_classes == {"xs": RateNumbers(3)}
    assert build_settings({"rate_limits": "off"}).rate_limits == "off"


def test_every_setting_is_described():
    """Each setting and upstream member has a description that ends as a sentence."""
    for row in (*setting_rows(), *table_rows(Upstream), *table_rows(Moderation)):
        assert row.description.endswith((".", "`on`.")), row.name
    rows = {row.name: row for row in setting_rows()}
    assert rows["port"].flag == "--port"
    assert rows["port"].environment == "TRAGHETTO_PORT"
    assert rows["port"].default == "8420"
    assert rows["durability"].kind == "full | normal"
    assert rows["error_code_header"].default == "true"
    assert "XDG_DATA_HOME" in rows["data_dir"].default


@pytest.mark.parametrize("row", setting_rows(), ids=lambda row: row.name)
def test_limits_have_units(row):
    """A setting with a number says its unit in its name or counts what its name says."""
    if row.kind in {"integer", "number"}:
        counted = ("port", "_count_max", "connections", "requests_max", "depth_max", "nodes_max")
        counted += ("pixels_max", "workers_max")
        assert "bytes" in row.name or "seconds" in row.name or any(c in row.name for c in counted)


def test_a_kind_is_that_of_the_value_however_it_is_bounded():
    """Bounds and an optional value do not hide that it is a number."""
    assert {row.kind for row in table_rows(RateNumbers)} == {"integer"}


def test_an_answer_may_end_just_before_its_hold():
    """The longest deadline leaves time to settle; queueing comes before the hold."""
    assert build_settings({"total_seconds": 890}).total_seconds == 890
