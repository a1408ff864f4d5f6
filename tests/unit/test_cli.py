"""The frame of the command line, and `traghetto errors`."""

import json
import socket
import subprocess
import sys

import click
import pytest

import traghetto.cli
from support.repository import ROOT
from traghetto import __version__
from traghetto.cli.output import print_json, print_table
from traghetto.errors import Adjunct, ErrorCode


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "traghetto", *arguments], capture_output=True, text=True, check=False
    )


def run_here(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of a command in this process."""
    with pytest.raises(SystemExit) as ended:
        traghetto.cli.main(arguments)
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def test_module_runs_as_a_program() -> None:
    """`python -m traghetto --version` prints the version."""
    done = run("--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"traghetto, version {__version__}")


def test_help_names_every_command(capsys) -> None:
    """`--help` lists the commands without loading one."""
    status, out, _ = run_here(capsys, "--help")
    assert status == 0
    for name in traghetto.cli.COMMANDS:
        assert f"  {name} " in out


@pytest.mark.parametrize("name", traghetto.cli.COMMANDS)
def test_every_command_of_the_table_exists(capsys, name: str) -> None:
    """Every command loads and explains itself."""
    status, out, _ = run_here(capsys, name, "--help")
    assert status == 0
    assert out.startswith(f"Usage: traghetto {name}")


def test_unknown_command_is_one_refusal(capsys) -> None:
    """A command that does not exist is refused with exit status 2."""
    status, out, err = run_here(capsys, "sail")
    assert (status, out) == (2, "")
    assert "No such command 'sail'" in err


@pytest.mark.parametrize("failure", [FileNotFoundError(2, "No such file", "x"), ValueError("x")])
def test_expected_failures_are_one_line(capsys, monkeypatch, failure: Exception) -> None:
    """A failure that an operator can mend has no traceback."""

    @click.command()
    def command() -> None:
        raise failure

    monkeypatch.setitem(traghetto.cli.root.commands, "boom", command)
    monkeypatch.setattr(traghetto.cli.LazyGroup, "get_command", click.Group.get_command)
    status, out, err = run_here(capsys, "boom")
    assert (status, out, err) == (1, "", f"traghetto: {failure}\n")


def test_defects_keep_their_traceback(monkeypatch) -> None:
    """A failure that nobody expected is not hidden."""

    @click.command()
    def command() -> None:
        raise RuntimeError("a defect")

    monkeypatch.setitem(traghetto.cli.root.commands, "boom", command)
    monkeypatch.setattr(traghetto.cli.LazyGroup, "get_command", click.Group.get_command)
    with pytest.raises(RuntimeError, match="a defect"):
        traghetto.cli.main(["boom"])


def test_errors_list_is_the_published_contract(capsys) -> None:
    """`errors list --json` prints exactly the rows of spec/errors.json."""
    status, out, _ = run_here(capsys, "errors", "list", "--json")
    assert status == 0
    assert json.loads(out) == json.loads((ROOT / "spec" / "errors.json").read_text())


def test_errors_list_all_adds_the_adjuncts(capsys) -> None:
    """`errors list --all` prints the rows of both tables."""
    _, out, _ = run_here(capsys, "errors", "list", "--all", "--json")
    names = [row["code"] for row in json.loads(out)]
    assert names == [code.name for code in (*ErrorCode, *Adjunct)]


@pytest.mark.parametrize("code", [*ErrorCode, *Adjunct], ids=lambda code: code.name)
def test_errors_show_explains_every_code(capsys, code: ErrorCode | Adjunct) -> None:
    """Every code can be shown, and the body shown is the one that clients get."""
    status, out, _ = run_here(capsys, "errors", "show", code.name.lower(), "--json")
    assert status == 0
    facts = json.loads(out)
    assert (facts["code"], facts["status"]) == (code.name, code.value.status)
    assert "error" in json.loads(facts["body_example"])


def test_errors_show_answers_the_questions(capsys) -> None:
    """For people, one line per fact, with yes, no and none spelled out, and then what it means."""
    _, out, _ = run_here(capsys, "errors", "show", "MODEL_OVERLOADED")
    assert "Status:             429\n" in out
    assert "Log level:          none\n" in out
    assert "Retry:              yes, after the seconds in Retry-After\n" in out
    assert "Counted as failed:  no\n" in out
    assert "Charged:            sometimes\n" in out
    assert "\nMeaning\n  The model's backend says that it has too much to do right now.\n" in out
    for heading in ("Possible causes", "What to do", "What is charged"):
        assert f"\n{heading}\n  " in out


def test_errors_show_speaks_italian(capsys) -> None:
    """`--lang it` translates everything but what is on the wire."""
    _, out, _ = run_here(capsys, "errors", "show", "MODEL_NOT_FOUND", "--lang", "it")
    assert "Messaggio:          Specified model not found\n" in out
    assert "\nChe cosa fare\n  Prendi l'`id` da `GET /models`" in out
    assert "What to do" not in out


def test_errors_show_for_programs_has_both_languages(capsys) -> None:
    """`--json` says everything at once."""
    _, out, _ = run_here(capsys, "errors", "show", "INVALID_REQUEST", "--json")
    facts = json.loads(out)
    assert (facts["charged"], facts["served"]) == ("never", True)
    assert "Invalid JSON request" in facts["other_messages"]
    assert facts["explanation"].keys() == {"en", "it"}
    for explanation in facts["explanation"].values():
        assert explanation.keys() == {"meaning", "causes", "remedy", "charge"}


def test_errors_show_suggests_near_names(capsys) -> None:
    """An unknown code is refused with the names that are near."""
    status, _, err = run_here(capsys, "errors", "show", "overloaded")
    assert status == 2
    assert "did you mean MODEL_OVERLOADED?" in err


def test_models_check_refuses_what_serve_would_refuse(capsys, tmp_path) -> None:
    """A file is valid only if the gateway would start with it on this machine."""
    priced = '[[models]]\nid = "a"\npricing = { input = "0", output = "0" }\n'
    upstream = '[[upstreams]]\nname = "u"\nurl = "http://127.0.0.1:1/v1"\n'
    config = tmp_path / "traghetto.toml"
    for text, problem in (
        ("", "models: none; name at least one"),
        (priced, "nothing serves model 'a'"),
        (priced + 'engine = "simulator"\nfault = "bogus"\n', "choose one of overloaded"),
        (priced + 'engine = "llama"\ngguf = "/nowhere.gguf"\n', "/nowhere.gguf is not a file"),
        (upstream + 'key_env = "NOT_SET"\n' + priced + 'upstreams = ["u"]\n', "NOT_SET is not"),
    ):
        config.write_text(text)
        checked = run_here(capsys, "models", "check", "--config", str(config))
        served = run_here(capsys, "serve", "--config", str(config), "--data-dir", str(tmp_path))
        assert checked == served, "the same refusal"
        assert checked[0] == 1
        assert problem in checked[2]
    config.write_text(priced)
    assert run_here(capsys, "models", "check", "--config", str(config), "--found-later")[0] == 0


def test_serve_says_what_is_wrong_with_the_place_it_was_given(capsys, tmp_path) -> None:
    """A taken port, no port at all, and a data directory that cannot be are sentences."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        serve = ("serve", "--data-dir", str(tmp_path / "data"), "--port")
        status, printed, err = run_here(capsys, *serve, port)
        assert (status, printed) == (1, ""), "no key is shown that nobody could use"
        assert not (tmp_path / "data").exists()
        assert f"traghetto: port {port} is in use: choose another with --port\n" in err
    status, _, err = run_here(capsys, *serve, "99999")
    assert (status, err) == (
        1, "traghetto: option --port: expected a whole number of at most 65535\n"
    )  # fmt: skip
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        status, _, err = run_here(capsys, "serve", "--port", "0", "--data-dir", str(place))
        assert status == 1
        assert f"{place} cannot be the data directory (" in err


def test_table_aligns_columns(capsys) -> None:
    """Columns are as wide as their longest cell; integers are aligned to the right."""
    print_table(("NAME", "COUNT"), [("a", 5), ("longer", 1234), (None, 7)])
    assert capsys.readouterr().out == (
        "NAME    COUNT\na           5\nlonger   1234\n-           7\n"
    )


def test_empty_table_prints_its_headers(capsys) -> None:
    """Nothing to show differs from nothing printed."""
    print_table(("NAME", "COUNT"), [])
    assert capsys.readouterr().out == "NAME  COUNT\n"


def test_json_is_one_document(capsys) -> None:
    """`--json` output can be piped into a program as it is."""
    print_json({"a": [1, None], "b": "é"})
    assert json.loads(capsys.readouterr().out) == {"a": [1, None], "b": "é"}
