"""A lab as a test sees it."""

from __future__ import annotations

import contextlib
import http.client
import select
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from traghetto.testing.http import ask

START_SECONDS_MAX: Final = 30.0
STOP_SECONDS_MAX: Final = 15.0


class LabRefused(Exception):
    """The lab did not do what it was asked for; the message says why."""


@dataclass(frozen=True, slots=True)
class LabAccount:
    """An account in a lab, and its key."""

    name: str
    key: str
    key_id: str


class Lab:
    """A running lab.

    Its methods raise LabRefused for what makes no sense, and OSError where nobody answers.
    """

    def __init__(self, url: str, control_url: str, admin_key: str = "") -> None:
        """`url` is the base of the API, such as `http://127.0.0.1:8421/api/v1`."""
        self.url: Final = url
        self.control_url: Final = control_url
        self.admin_key = admin_key
        """An ADMIN key of the account `default`; a new one after each reset."""

    @classmethod
    def at(cls, url: str) -> Lab:
        """The lab whose API answers at `url`; raises LabRefused if no lab is there."""
        control_url = url.removesuffix("/").removesuffix("/api/v1").removesuffix("/v1") + "/lab"
        try:
            answer = ask("GET", control_url, {})
            admin_key = answer.json["admin_key"]
        except (http.client.HTTPException, KeyError, TypeError, ValueError) as problem:
            raise LabRefused(f"{control_url} is no lab") from problem
        return cls(url.rstrip("/"), control_url, admin_key)

    def account(self, state: str = "fresh", **members: Any) -> LabAccount:
        """A new account with a key, in a state such as `broke`; `members` say what differs.

        `key` is an object of the key's own: `account("fresh", usd="2", key={"limit_usd": "1"})`.
        """
        made = self.tell("accounts", state=state, **members)
        return LabAccount(made["account"]["name"], made["key"], made["key_facts"]["id"])

    def key(self, state: str = "fresh", **members: Any) -> str:
        """The key of a new account, as `account` makes it."""
        return self.account(state, **members).key

    def fault(
        self,
        name: str,
        model: str | None = None,
        *,
        calls: int | None = None,
        seconds: float | None = None,
        after_events: int | None = None,
    ) -> None:
        """Have a model fail for its next `calls` calls, or until `clear_faults`.

        The model is `chat` if none is named. `crash` is the failure of the gateway itself.
        """
        self.tell(
            "faults",
            fault=name,
            model=model,
            calls=calls,
            seconds=seconds,
            after_events=after_events,
        )

    def clear_faults(self) -> None:
        """Have everything work again."""
        self.tell("faults/clear")

    def capacity(self, concurrency_max: int | None, model: str = "chat") -> None:
        """Bound how many requests a model serves at once; 0 has it refuse all, None lifts it."""
        self.tell("capacity", model=model, concurrency_max=concurrency_max)

    def balances(self, account: LabAccount | str, **amounts: str) -> None:
        """Have an account own just so much: `balances(account, usd="0.5")`."""
        name = account if isinstance(account, str) else account.name
        self.tell("balances", account=name, **amounts)

    def advance(self, seconds: float) -> datetime:
        """Let time pass, all at once; the new time."""
        return _moment(self.tell("clock", advance_seconds=seconds))

    def set_time(self, moment: datetime) -> datetime:
        """Let time pass until `moment`, which has a time zone."""
        return _moment(self.tell("clock", set=moment.isoformat()))

    def next_day(self) -> datetime:
        """Let time pass until the next UTC day, with which epochs begin."""
        return _moment(self.tell("clock", to="next-day"))

    def next_month(self) -> datetime:
        """Let time pass until the next month in UTC."""
        return _moment(self.tell("clock", to="next-month"))

    def reset(self) -> None:
        """Everything as at the start: no account, no fault, the time of the machine."""
        self.admin_key = self.tell("reset")["admin_key"]

    def tell(self, action: str, **arguments: Any) -> Any:
        """The answer to an action of the lab's control."""
        headers = {"content-type": "application/json"}
        url = f"{self.control_url}/{action}"
        answer = ask("POST", url, headers, msgspec.json.encode(arguments))
        if answer.status != 200:
            raise LabRefused(_reason(answer.body))
        return answer.json


@contextlib.contextmanager
def start_lab(*, quiet: bool = False) -> Iterator[Lab]:
    """A lab in a process of its own, on a free port of this machine; it ends with the context, and
    with this process however that ends. A `quiet` one does not log the failures that it is told to
    have.

    Raises LabRefused if it does not start.
    """
    command = [sys.executable, "-m", "traghetto", "lab", "--port", "0", "--until-eof", "--json"]
    process = subprocess.Popen(  # noqa: S603 - our own command, without a shell
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], START_SECONDS_MAX)
        line = process.stdout.readline() if ready else b""
        if not line:
            raise LabRefused(
                f"the lab has not answered in {START_SECONDS_MAX:g} s, or ended before it did"
            )
        facts = msgspec.json.decode(line)
        yield Lab(facts["url"], facts["control_url"], facts["admin_key"])
    finally:
        process.stdin.close()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _moment(answer: Any) -> datetime:
    return datetime.fromisoformat(answer["utc"])


def _reason(body: bytes) -> str:
    """Why the lab refused: the first of its issues, or its sentence."""
    with contextlib.suppress(ValueError, KeyError, IndexError, TypeError):
        refused = msgspec.json.decode(body)
        issues = refused.get("issues")
        return str(issues[0]["message"] if issues else refused["error"])
    return body[:200].decode(errors="replace")
