"""How the built-in engines have pixels computed: one Protocol, and one map of how that can end."""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec

from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_protocols import PRINCIPAL
from traghetto.workers.failures import TaskRefused, TaskTimedOut, WorkerError, WorkersBusy

SECONDS_MAX: Final = 60.0
"""How long a task may take unless an engine says otherwise."""
FRUITLESS: Final = "fruitless"
"""The kind of a refusal of a sound input that nothing comes of."""
MISCONFIGURED: Final = "misconfigured"
"""The kind of a refusal that the operator must mend. Any other kind blames the input."""
PROMPT: Final = "prompt"
"""The kind of a refusal of the words; the caller is told that it was they."""
_KINDS: Final = {
    FRUITLESS: FailureKind.FRUITLESS,
    MISCONFIGURED: FailureKind.MISCONFIGURED,
}


class Workers(Protocol):
    """Processes that run tasks; `traghetto.workers` has them."""

    async def run(self, task: str, payload: Any, *, seconds_max: float, principal: str = "") -> Any:
        """What the function `task` (`module:function`) makes of `payload`; raises WorkerError.

        `principal` is who takes turns where tasks wait.
        """
        ...


async def carry_out(
    workers: Workers, task: str, payload: Any, *, seconds_max: float = SECONDS_MAX
) -> Any:
    """The result of `task`; raises EngineFailure instead of what workers raise.

    `payload` may be a `msgspec.Struct`; the task gets it as plain values and converts it back.
    """
    plain = msgspec.to_builtins(payload, builtin_types=(bytes,))
    try:
        return await workers.run(task, plain, seconds_max=seconds_max, principal=PRINCIPAL.get())
    except WorkersBusy as busy:
        raise EngineFailure(FailureKind.AT_CAPACITY, "all image workers are busy") from busy
    except TaskTimedOut as late:
        raise EngineFailure(FailureKind.TIMED_OUT, "an image task took too long") from late
    except TaskRefused as refused:
        kind = _KINDS.get(refused.kind, FailureKind.REJECTED_INPUT)
        fields = (PROMPT,) if refused.kind == PROMPT else ()
        raise EngineFailure(kind, refused.reason, fields=fields) from refused
    except WorkerError as failed:
        raise EngineFailure(FailureKind.BROKEN, "an image task failed") from failed
    except ValueError as large:
        reason = "the pictures are larger than a worker takes"
        raise EngineFailure(FailureKind.TOO_LARGE, reason) from large
