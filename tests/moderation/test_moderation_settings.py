"""The `[moderation]` table: where its values come from, and how it refuses."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from traghetto.catalog.config_file import ConfigInvalid, read_configuration
from traghetto.cli import main
from traghetto.settings import Moderation, Origin, SettingInvalid, Settings, build_settings
from traghetto.settings.sources import MODERATION_NAMES

URL = "http://127.0.0.1:8090/v1"


def moderation_of(table: Any, environ: dict[str, str] | None = None) -> Moderation:
    return build_settings({"moderation": table}, environ).moderation


def test_nothing_is_forbidden_by_default() -> None:
    """No table, no word list, no classifier."""
    assert build_settings().moderation == Settings().moderation == Moderation()
    assert moderation_of({}) == Moderation()


def test_a_table_is_read() -> None:
    """Every member, with numbers as TOML gives them."""
    assert moderation_of(
        {
            "words_file": "words.txt",
            "classifier_url": URL,
            "classifier_key_env": "KEY",
            "classifier_model": "m",
            "classifier_seconds_max": 2,
            "judges": ["images"],
            "on_failure": "allow",
            "categories": {"violence": "allow", "sexual/minors": "blocked"},
            "thresholds": {"hate": Decimal("0.5"), "violence": 1},
        }
    ) == Moderation(
        words_file=Path("words.txt"),
        classifier_url=URL,
        classifier_key_env="KEY",
        classifier_model="m",
        classifier_seconds_max=2.0,
        judges=("images",),
        on_failure="allow",
        categories={"violence": "allow", "sexual/minors": "blocked"},
        thresholds={"hate": 0.5, "violence": 1.0},
    )


def test_the_environment_replaces_members() -> None:
    """Each member that is not a table has a variable, which goes before the file."""
    given = {
        "TRAGHETTO_MODERATION_WORDS_FILE": "/w",
        "TRAGHETTO_MODERATION_CLASSIFIER_URL": URL,
        "TRAGHETTO_MODERATION_CLASSIFIER_KEY_ENV": "KEY",
        "TRAGHETTO_MODERATION_CLASSIFIER_MODEL": "m",
        "TRAGHETTO_MODERATION_CLASSIFIER_SECONDS_MAX": "2.5",
        "TRAGHETTO_MODERATION_JUDGES": "prompts, images",
        "TRAGHETTO_MODERATION_ON_FAILURE": "allow",
    }
    assert set(given) == {f"TRAGHETTO_MODERATION_{name.upper()}" for name in MODERATION_NAMES}
    read = moderation_of({"judges": ["images"], "categories": {"hate": "adult"}}, given)
    assert read == Moderation(
        words_file=Path("/w"),
        classifier_url=URL,
        classifier_key_env="KEY",
        classifier_model="m",
        classifier_seconds_max=2.5,
        judges=("prompts", "images"),
        on_failure="allow",
        categories={"hate": "adult"},
    )


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (3, "moderation: write it as a `[moderation]` table"),
        ({"word_file": "x"}, "moderation.word_file: unknown key; did you mean `words_file`?"),
        ({"judges": ["prompts"], "on_failure": "ignore"}, "choose one of refuse, allow"),
        ({"judges": ["prompt"]}, "choose one of prompts, images"),
        ({"judges": []}, "moderation.judges: expected a list with a length of at least 1"),
        ({"classifier_seconds_max": 0}, "classifier_seconds_max: expected a number above 0"),
        ({"classifier_seconds_max": 61}, "classifier_seconds_max: expected a number of at most 60"),
        ({"classifier_model": "m"}, "moderation.classifier_model: there is no classifier; set"),
        ({"classifier_key_env": "K"}, "moderation.classifier_key_env: there is no classifier"),
        ({"categories": {"hate": "adult"}}, "moderation.categories: there is no classifier"),
        ({"thresholds": {"hate": 1}}, "moderation.thresholds: there is no classifier"),
        ({"classifier_url": "127.0.0.1"}, "moderation.classifier_url: starts with http://"),
        ({"classifier_url": "http://"}, "and names a host"),
        ({"classifier_url": "http://u:p@h"}, "carries no credentials"),
        ({"classifier_url": f"{URL}?key=k"}, "remove `?` and `#`"),
        ({"classifier_url": "http://h:99999"}, "check its host and its port"),
        ({"classifier_url": "http://[h"}, "check its host and its port"),
        ({"classifier_url": URL, "categories": []}, "moderation.categories: expected a table"),
        (
            {"classifier_url": URL, "categories": {"hate": "alow"}},
            "moderation.categories.hate: invalid enum value 'alow'; choose one of allow, blocked",
        ),
        (
            {"classifier_url": URL, "thresholds": {"hate": Decimal("1.1")}},
            "moderation.thresholds.hate: expected a number of at most 1",
        ),
        (
            {"classifier_url": URL, "thresholds": {"hate": Decimal("nan")}},
            "moderation.thresholds.hate: expected",
        ),
        *(
            (
                {"classifier_url": URL, "categories": {"sexual/minors": effect}},
                "moderation.categories.sexual/minors: cannot be allowed",
            )
            for effect in ("allow", "adult")
        ),
    ],
)
def test_unusable_values_are_refused(table: Any, text: str) -> None:
    """By their place, with what to do."""
    with pytest.raises(SettingInvalid) as refusal:
        moderation_of(table)
    assert text in str(refusal.value)
    assert refusal.value.origin is Origin.FILE


@pytest.mark.parametrize(
    ("name", "value"), [("CLASSIFIER_URL", "ftp://h"), ("JUDGES", "all"), ("ON_FAILURE", "x")]
)
def test_a_variable_is_refused_by_its_name(name: str, value: str) -> None:
    """So that nobody looks for it in the file."""
    with pytest.raises(SettingInvalid) as refusal:
        moderation_of({}, {f"TRAGHETTO_MODERATION_{name}": value})
    assert str(refusal.value).startswith(f"environment variable TRAGHETTO_MODERATION_{name}: ")
    assert refusal.value.origin is Origin.ENVIRONMENT


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('[moderation]\nwords_file = "{}/none"\n', 2, "is not a file"),
        ('[moderation]\nclassifier_url = "http://h"\nclassifier_key_env = "NONE"\n', 3, "not set"),
        (
            '[moderation]\nclassifier_url = "http://h"\n\n[moderation.categories]\n"hate" = "x"\n',
            5,
            "invalid enum value",
        ),
    ],
)
def test_a_file_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, problem: str
) -> None:
    """What is wrong, or named and not there, is found before anything starts."""
    path = tmp_path / "traghetto.toml"
    path.write_text(text.format(tmp_path))
    with pytest.raises(ConfigInvalid) as refusal:
        read_configuration(path, {}, backends_required=False, must_run_here=True)
    assert str(refusal.value).startswith(f"{path}:{line}: moderation.")
    assert problem in str(refusal.value)


def test_check_reads_the_word_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`models check` refuses what a start would refuse, with the line of the list."""
    words = tmp_path / "words.txt"
    config = tmp_path / "traghetto.toml"
    config.write_text(f'[moderation]\nwords_file = "{words}"\n')
    for content, status, said in (
        ("[blocked]\nbomb\n", 0, "valid"),
        ("[blocked]\nbomb\n[adlt]\n", 1, f"{words}:3: unknown section; did you mean `[adult]`?"),
    ):
        words.write_text(content)
        with pytest.raises(SystemExit) as ended:
            main(["models", "check", "--config", str(config), "--found-later"])
        assert ended.value.code == status
        written = capsys.readouterr()
        assert said in written.out + written.err
