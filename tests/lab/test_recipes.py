"""The recipes of the codes: all of them there, each true, also as the commands that are shown."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conformance.recipes import NOT_REACHABLE_YET
from support.client import PUBLISHED
from support.configuration import IMAGE_MODELS, PRICED_MODEL
from support.gateway import running_gateway
from support.upstream import answer_json, upstream_in_thread
from traghetto.errors import ErrorCode, row_of
from traghetto.guide.coverage import NOT_SERVED_YET
from traghetto.guide.recipes import RECIPES, Recipe, chat
from traghetto.testing import Lab, start_lab
from traghetto.testing.http import ask
from traghetto.testing.verification import Outcome, Server, verify


def outcomes_of(server: Server) -> dict[str, Outcome]:
    return {outcome.code: outcome for outcome in verify(server)}


def test_every_code_has_a_recipe_or_no_endpoint_yet() -> None:
    """Exactly one of both, and the list of those without is the one that may only shrink."""
    with_recipe = [recipe.code for recipe in RECIPES]
    assert len(set(with_recipe)) == len(with_recipe)
    assert set(with_recipe) | NOT_SERVED_YET == set(ErrorCode)
    assert not set(with_recipe) & NOT_SERVED_YET
    assert {code.name for code in NOT_SERVED_YET} == NOT_REACHABLE_YET


def test_a_lab_keeps_the_whole_contract(lab: Lab) -> None:
    """Every code that is served comes as published; twice, for nothing of it may linger."""
    for _ in range(2):
        outcomes = outcomes_of(Server(lab.url, lab))
        assert list(outcomes) == list(PUBLISHED)
        for name, outcome in outcomes.items():
            if ErrorCode[name] in NOT_SERVED_YET:
                assert outcome.status == "missing"
                continue
            assert outcome.status == "passed", outcome
            assert outcome.got is not None
            row = PUBLISHED[name]
            assert (outcome.got.status, outcome.got.message) == (row.status, row.message)
            assert outcome.got.code_header == name


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.code.name)
def test_the_commands_of_a_recipe_do_what_they_say(lab: Lab, recipe: Recipe) -> None:
    """As somebody pastes them into a shell that has curl."""
    script = "set -eu\n" + recipe.commands(lab.url.removesuffix("/api/v1"))
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    statuses = re.findall(rb"HTTP/1.1 (\d{3})", done.stdout.replace(b"HTTP/1.1 100", b""))
    assert int(statuses[-1]) == row_of(recipe.code).status, done.stdout
    assert f"x-error-code: {recipe.code.name}".encode() in done.stdout


def test_recipes_leave_a_lab_as_they_found_it(lab: Lab) -> None:
    """All of them pasted one after the other; then an ordinary request is answered."""
    root = lab.url.removesuffix("/api/v1")
    script = "\n".join(recipe.commands(root) for recipe in RECIPES)
    subprocess.run(["bash", "-c", script], capture_output=True, check=True, timeout=60)
    body = json.dumps(chat().body).encode()
    headers = {"authorization": f"Bearer {lab.key()}", "content-type": "application/json"}
    assert ask("POST", f"{lab.url}/chat/completions", headers, body).status == 200


def test_a_server_that_is_no_lab_is_asked_what_costs_nothing(tmp_path: Path) -> None:
    """With a key of its own, and nothing is charged to it."""
    with running_gateway(tmp_path, IMAGE_MODELS + PRICED_MODEL) as gateway:
        key = gateway.new_key()
        outcomes = outcomes_of(Server(f"{gateway.url}/api/v1", None, key, "priced"))
        assert gateway.differences() == []
        spent = [row["spent_usd"] for row in gateway.perform("keys.list")["keys"]]
        assert set(spent) == {"0"}
    remote = {recipe.code.name for recipe in RECIPES if recipe.is_remote}
    for name, outcome in outcomes.items():
        if name in remote:
            assert outcome.status == "passed", outcome
        else:
            assert outcome.status == ("missing" if name in NOT_REACHABLE_YET else "skipped")


def test_without_a_key_only_that_is_asked_which_needs_none(tmp_path: Path) -> None:
    """Nobody is asked with a key that was not given."""
    with running_gateway(tmp_path, PRICED_MODEL) as gateway:
        outcomes = outcomes_of(Server(f"{gateway.url}/api/v1"))
    assert outcomes["AUTHENTICATION_FAILED"].status == "passed"
    assert outcomes["MODEL_NOT_FOUND"].status == "skipped"


def test_a_server_that_breaks_the_contract_is_told_how() -> None:
    """The difference is named member by member; a header that is ours alone may be missing."""
    with upstream_in_thread(answer_json({"error": "No such model"}, 404)) as server:
        outcomes = outcomes_of(Server(server.url, None, "key"))
    outcome = outcomes["MODEL_NOT_FOUND"]
    assert outcome.status == "failed"
    assert outcome.reason == "message: expected 'Specified model not found', got 'No such model'"
    with upstream_in_thread(answer_json({"error": "Specified model not found"}, 404)) as server:
        outcomes = outcomes_of(Server(server.url, None, "key"))
    assert outcomes["MODEL_NOT_FOUND"].status == "passed"
    assert outcomes["INVALID_CONTENT_TYPE"].status == "failed"


def run(*arguments: str) -> tuple[int, Any, str]:
    done = subprocess.run(
        [sys.executable, "-m", "traghetto", "errors", "verify", *arguments],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_command_starts_a_lab_of_its_own() -> None:
    """It fails as long as codes are missing, and says which."""
    status, printed, _ = run("--json")
    rows = json.loads(printed)
    assert status == 1
    assert {row["code"] for row in rows if row["status"] == "missing"} == NOT_REACHABLE_YET
    assert {row["status"] for row in rows} == {"passed", "missing"}
    assert set(rows[0]) >= {"code", "status", "expected", "got"}


def test_the_command_verifies_a_lab_or_server_that_runs(tmp_path: Path) -> None:
    """A table for people; nobody there is one line."""
    with start_lab() as lab:
        status, printed, note = run("--base-url", lab.url)
        assert status == 1
        assert re.search(r"^MODEL_AT_CAPACITY +503 +passed$", printed, re.MULTILINE)
        assert "27 passed" in note
        assert "13 missing" in note
    status, _, note = run("--base-url", lab.url)
    assert status == 1
    assert "does not answer" in note
