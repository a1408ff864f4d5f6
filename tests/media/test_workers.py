"""Workers: the limits really hold, a task cannot outlive its caller, and nothing is left behind.

The tasks are those of `traghetto.workers.trials`, run by real processes, on both event loops.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from traghetto.workers import frames
from traghetto.workers.failures import (
    TaskFailed,
    TaskRefused,
    TaskTimedOut,
    WorkerDied,
    WorkersBusy,
)
from traghetto.workers.limits import WorkerLimits
from traghetto.workers.pool import Workers
from traghetto.workers.share import Share

TRIAL = "traghetto.workers.trials:"
SECONDS = 30.0
"""Longer than anything takes that is meant to end by itself."""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a test on one of the event loops."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run_test(test):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(test())

    return run_test


@asynccontextmanager
async def pool(
    *, processes_max: int = 1, idle_seconds_max: float = 60.0, **limits
) -> AsyncIterator[Workers]:
    workers = Workers(
        WorkerLimits(**limits), processes_max=processes_max, idle_seconds_max=idle_seconds_max
    )
    try:
        yield workers
    finally:
        ids = workers.process_ids
        await workers.aclose()
        assert workers.processes == 0
        assert not any(map(is_running, ids))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def trial(workers: Workers, name: str, value=None, seconds_max: float = SECONDS):
    return await workers.run(TRIAL + name, value, seconds_max=seconds_max)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


def test_values_cross_and_come_back(run):
    """What a task is given and what it answers are the same values on both sides."""
    value = {
        "none": None,
        "yes": True,
        "numbers": [0, -1, 2**63, 1.5],
        "text": "Ünïcode \U0001f30b",
        "bytes": [b"", b"short", b"x" * 5_000_000, b"y" * 4097],
        "empty": [{}, [], ""],
    }

    async def test():
        async with pool() as workers:
            assert await trial(workers, "echo", value) == value

    run(test)


def test_nothing_runs_before_the_first_task(run):
    """A gateway without images pays for no process."""

    async def test():
        async with pool(processes_max=4) as workers:
            assert workers.processes == 0
            await trial(workers, "echo", 1)
            await trial(workers, "echo", 2)
            assert workers.processes == 1, "an idle process was not used again"

    run(test)


@linux_only
def test_a_worker_knows_nothing_of_the_gateway(run, monkeypatch):
    """Neither secrets of the environment nor open files, and no path to its directory."""
    monkeypatch.setenv("TRAGHETTO_UPSTREAM_KEY", "sk-secret")
    inherited, other = os.pipe()
    os.set_inheritable(inherited, True)

    async def test():
        with socket.create_server(("127.0.0.1", 0)) as server:
            os.set_inheritable(server.fileno(), True)
            async with pool() as workers:
                about = await trial(workers, "about")
        assert set(about["environment"]) <= {
            *("PATH", "LD_LIBRARY_PATH", "LANG", "LC_CTYPE", "MALLOC_ARENA_MAX"),
            *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
        }
        assert about["environment"]["OMP_NUM_THREADS"] == "1"
        assert about["directory"] == "/"
        assert "" not in about["path"]
        # The standard streams, the socket, and the listing of the descriptors itself.
        assert len(about["descriptors"]) == 5
        status = dict(line.split(":\t", 1) for line in about["status"].splitlines())
        assert status["NoNewPrivs"] == "1"
        assert int(status["CapEff"], 16) in (0, 1 << 2)
        assert int(status["CapPrm"], 16) in (0, 1 << 2)
        assert about["niceness"] == min(
            19, os.getpriority(os.PRIO_PROCESS, 0) + WorkerLimits().niceness
        )
        heavy = {"PIL", "numpy", "cv2", "onnxruntime", "asyncio", "aiohttp", "traghetto.settings"}
        assert not heavy.intersection(about["modules"])

    try:
        run(test)
    finally:
        os.close(inherited)
        os.close(other)


def test_a_refusal_arrives_with_its_words(run):
    """What a task refuses deliberately is told as it was said."""

    async def test():
        async with pool() as workers:
            with pytest.raises(TaskRefused) as caught:
                await trial(workers, "refuse", "too green")
            assert (caught.value.kind, caught.value.reason) == ("trial", "too green")
            assert workers.processes == 1

    run(test)


def test_the_text_of_a_foreign_exception_does_not_get_out(run):
    """Type and place are told; the text could hold what a caller sent."""

    async def test():
        async with pool() as workers:
            with pytest.raises(TaskFailed) as caught:
                await trial(workers, "fail", "the prompt of somebody")
            assert "RuntimeError at traghetto.workers.trials:" in str(caught.value)
            assert "somebody" not in str(caught.value)

    run(test)


def test_only_our_own_functions_are_tasks(run):
    """No other module can be named, and a name that does not exist fails."""

    async def test():
        async with pool() as workers:
            for task in ("os:getcwd", "traghetto", "traghettish.x:y"):
                with pytest.raises(ValueError, match="a task is a function of ours"):
                    await workers.run(task, None, seconds_max=SECONDS)
            for task in ("traghetto.nowhere:x", TRIAL + "nothing"):
                with pytest.raises(TaskFailed):
                    await workers.run(task, None, seconds_max=SECONDS)

    run(test)


def test_memory_is_bounded(run):
    """A task that wants more than it may have fails, and its process is replaced."""

    async def test():
        async with pool(memory_bytes_max=512 << 20) as workers:
            assert await trial(workers, "take_memory", 64 << 20) == 64 << 20
            before = workers.process_ids
            with pytest.raises(TaskFailed, match="MemoryError"):
                await trial(workers, "take_memory", 1 << 30)
            assert await trial(workers, "echo", 1) == 1
            assert workers.process_ids != before

    run(test)


def test_nothing_is_written_to_disk(run, tmp_path):
    """Not a single byte of a file, wherever it may be."""

    async def test():
        async with pool() as workers:
            with pytest.raises(TaskFailed, match="OSError"):
                await trial(workers, "write_file", str(tmp_path / "x"))

    run(test)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0


def test_descriptors_are_bounded(run):
    """A task cannot use up the descriptors of the machine."""

    async def test():
        async with pool() as workers:
            with pytest.raises(TaskFailed, match="OSError"):
                await trial(workers, "open_files", 100)

    run(test)


@linux_only
def test_the_network_is_out_of_reach(run):
    """Where the kernel has namespaces for us, not even the loopback of the gateway is there.

    It is skipped where it has not; what holds there is said in `workers.confinement`.
    """

    async def test():
        with socket.create_server(("127.0.0.1", 0)) as server:
            async with pool() as workers:
                await trial(workers, "echo", 1)
                if not workers.is_offline:
                    pytest.skip("the kernel makes no network namespace for this user")
                with pytest.raises(TaskFailed, match="OSError"):
                    await trial(workers, "connect", list(server.getsockname()))

    run(test)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("crash", None, id="segmentation fault"),
        pytest.param("leave", 0, id="exit"),
        pytest.param("talk_nonsense", b"\0\0\0\5hello", id="no msgpack"),
        pytest.param("talk_nonsense", b"\xff\xff\xff\xff", id="a head of 4 GiB"),
        pytest.param("talk_nonsense", b"\0\0", id="half a length"),
        pytest.param("talk_nonsense", b"\0\0\0\3\x92\x90\x01", id="an answer that is a number"),
        pytest.param("talk_nonsense", b"\0\0\0\4\x92\x90\x91\x07", id="an unknown status"),
        pytest.param(
            "talk_nonsense",
            b"\0\0\0\x08\x92\x91\xce\xff\xff\xff\xff\xc0",
            id="a segment of 4 GiB",
        ),
    ],
)
def test_a_death_is_told_and_mended(run, name, value):
    """A process that dies, or answers with anything but an answer, costs its own task only."""

    async def test():
        async with pool() as workers:
            with pytest.raises(WorkerDied):
                await trial(workers, name, value)
            assert await trial(workers, "echo", 1) == 1

    run(test)


def test_the_deadline_of_a_task_kills_it(run):
    """A task that computes for ever is ended, and its process with it."""

    async def test():
        async with pool() as workers:
            await trial(workers, "echo", 1)
            (pid,) = workers.process_ids
            with pytest.raises(TaskTimedOut):
                await trial(workers, "spin", seconds_max=0.2)
            await until(lambda: not is_running(pid))
            assert await trial(workers, "echo", 2) == 2

    run(test)


def test_results_are_bounded(run):
    """A result beyond the bound fails before it is sent."""

    async def test():
        async with pool(result_bytes_max=1_000_000) as workers:
            assert len(await trial(workers, "answer_bytes", 900_000)) == 900_000
            with pytest.raises(TaskFailed, match="the result cannot be sent"):
                await trial(workers, "answer_bytes", 1_000_001)

    run(test)


def test_inputs_are_bounded(run):
    """A payload beyond the bound is refused before a process has it."""

    async def test():
        async with pool(input_bytes_max=1_000_000) as workers:
            with pytest.raises(ValueError, match="larger than 1000000 bytes"):
                await trial(workers, "echo", bytes(1_000_001))
            assert workers.processes == 0

    run(test)


def test_a_library_that_prints_disturbs_nothing(run):
    """Standard output and error are not where answers go."""

    async def test():
        async with pool() as workers:
            for count in (10, 1_000_000):
                assert await trial(workers, "print_noise", count) == count

    run(test)


def test_a_cancelled_task_has_no_late_answer(run):
    """The next task gets its own answer, from another process."""

    async def test():
        async with pool() as workers:
            await trial(workers, "echo", 0)
            (pid,) = workers.process_ids
            for pause in (0.0, 0.002, 0.05):
                task = asyncio.ensure_future(trial(workers, "echo", [1, b"x" * 3_000_000]))
                await asyncio.sleep(pause)
                task.cancel()
                await asyncio.wait([task])
                assert await trial(workers, "echo", "mine") == "mine"
            task = asyncio.ensure_future(trial(workers, "spin"))
            await asyncio.sleep(0.05)
            pid = workers.process_ids[0]
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: not is_running(pid))
            assert await trial(workers, "echo", "mine") == "mine"

    run(test)


def test_cancelling_at_any_moment_loses_no_place(run):
    """After many cancellations, also of starting processes and of waiting tasks, all places work."""

    async def test():
        async with pool(processes_max=2) as workers:
            for step in range(12):
                tasks = [asyncio.ensure_future(trial(workers, "echo", n)) for n in range(5)]
                await asyncio.sleep(step * 0.006)
                for task in tasks[step % 3 :: 2]:
                    task.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
                for number, end in enumerate(ends):
                    assert end == number or isinstance(end, asyncio.CancelledError)
            await asyncio.gather(*(trial(workers, "echo", n) for n in range(8)))
            assert workers.processes <= 2

    run(test)


def test_tasks_start_in_the_order_in_which_they_came(run):
    """Nobody who waits is overtaken, and no more processes run than may."""

    async def test():
        async with pool(processes_max=1) as workers:
            ended = []

            async def one(number):
                await trial(workers, "echo", number)
                ended.append(number)
                assert workers.processes == 1

            await asyncio.gather(*map(one, range(20)))
            assert ended == list(range(20))

    run(test)


def test_waiting_is_bounded_in_number_and_time(run):
    """A further task is refused at once, and one that waits too long in the end."""

    async def test():
        async with pool(tasks_waiting_max=1, wait_seconds_max=0.2) as workers:
            running = asyncio.ensure_future(trial(workers, "spin"))
            await asyncio.sleep(0)
            waiting = asyncio.ensure_future(trial(workers, "echo", 1))
            await asyncio.sleep(0)
            with pytest.raises(WorkersBusy, match="1 tasks wait already"):
                await trial(workers, "echo", 2)
            with pytest.raises(WorkersBusy, match=r"no process was free for 0\.2 s"):
                await waiting
            running.cancel()
            await asyncio.wait([running])

    run(test)


def test_long_tasks_leave_room_for_short_ones(run):
    """However many of a share run and wait, the rest of the pool is for the others."""

    async def test():
        async with pool(processes_max=2) as workers:
            share = Share(workers, processes_max=1)
            long = [
                asyncio.ensure_future(share.run(TRIAL + "spin", None, seconds_max=SECONDS))
                for _ in range(4)
            ]
            await until(lambda: bool(workers.process_ids))
            assert await asyncio.gather(*(trial(workers, "echo", n) for n in range(4))) == [
                *range(4)
            ]
            assert not any(task.done() for task in long)
            for task in long[:3]:
                task.cancel()
            await asyncio.wait(long[:3])
            long[3].cancel()
            await asyncio.wait(long)
            assert await share.run(TRIAL + "echo", 5, seconds_max=SECONDS) == 5

    run(test)


def test_waiting_in_a_share_is_bounded_in_number_and_time(run):
    """Like that for a process of the pool."""

    async def test():
        async with pool(processes_max=2, tasks_waiting_max=1, wait_seconds_max=0.2) as workers:
            share = Share(workers, processes_max=1)
            running = asyncio.ensure_future(share.run(TRIAL + "spin", None, seconds_max=SECONDS))
            await asyncio.sleep(0)
            waiting = asyncio.ensure_future(share.run(TRIAL + "echo", 1, seconds_max=SECONDS))
            await asyncio.sleep(0)
            with pytest.raises(WorkersBusy, match="1 long tasks wait already"):
                await share.run(TRIAL + "echo", 2, seconds_max=SECONDS)
            with pytest.raises(WorkersBusy, match=r"no process was free for 0\.2 s"):
                await waiting
            running.cancel()
            await asyncio.wait([running])

    run(test)


def test_principals_take_turns_in_a_share(run):
    """And none of them has all of its waiting places."""

    async def test():
        async with pool(processes_max=2, tasks_waiting_max=6) as workers:
            share = Share(workers, processes_max=1)
            ended = []

            async def one(principal):
                await share.run(TRIAL + "echo", None, seconds_max=SECONDS, principal=principal)
                ended.append(principal)

            waiting = []
            for principal in ("a", "a", "a", "a", "b"):
                waiting.append(asyncio.ensure_future(one(principal)))
                await asyncio.sleep(0)
            with pytest.raises(WorkersBusy):
                await share.run(TRIAL + "echo", None, seconds_max=SECONDS, principal="a")
            await asyncio.gather(*waiting)
            assert ended == ["a", "a", "b", "a", "a"]

    run(test)


def test_principals_take_turns(run):
    """Who has one task to be done does not wait for all that another has; each one's own keep
    their order."""

    async def test():
        async with pool() as workers:
            ended = []

            async def one(principal, number):
                await workers.run(TRIAL + "echo", None, seconds_max=SECONDS, principal=principal)
                ended.append((principal, number))

            many = [("a", number) for number in range(6)]
            await asyncio.gather(*(one(*each) for each in [*many, ("b", 0), ("b", 1), ("c", 0)]))
            assert [each for each in ended if each[0] == "a"] == many
            assert ended[:6] == [*many[:2], ("b", 0), ("c", 0), ("a", 2), ("b", 1)]

    run(test)


def test_nobody_takes_all_the_places_in_which_tasks_wait(run):
    """Half of them stay for others."""

    async def test():
        async with pool(tasks_waiting_max=4) as workers:
            tasks = [
                asyncio.ensure_future(
                    workers.run(TRIAL + name, None, seconds_max=SECONDS, principal="a")
                )
                for name in ("spin", "echo", "echo")
            ]
            await asyncio.sleep(0)
            with pytest.raises(WorkersBusy):
                await workers.run(TRIAL + "echo", None, seconds_max=SECONDS, principal="a")
            other = asyncio.ensure_future(
                workers.run(TRIAL + "echo", 7, seconds_max=SECONDS, principal="b")
            )
            await asyncio.sleep(0)
            tasks[0].cancel()
            assert await other == 7
            await asyncio.wait(tasks)

    run(test)


def test_idle_processes_end(run):
    """When no task has come for a while, no process is left, and the next task starts one."""

    async def test():
        async with pool(processes_max=2, idle_seconds_max=0.1) as workers:
            await asyncio.gather(trial(workers, "echo", 1), trial(workers, "echo", 2))
            ids = workers.process_ids
            await until(lambda: workers.processes == 0)
            assert not any(map(is_running, ids))
            assert await trial(workers, "echo", 3) == 3

    run(test)


def test_processes_are_replaced_after_so_many_tasks(run):
    """What a library leaks is given back."""

    async def test():
        async with pool(tasks_per_process_max=2) as workers:
            pids = [(await trial(workers, "about"))["pid"] for _ in range(5)]
            assert len(set(pids)) == 3

    run(test)


def test_a_process_that_somebody_kills_costs_no_task(run):
    """An idle one that the system ended is noticed before a task is given to it."""

    async def test():
        async with pool() as workers:
            await trial(workers, "echo", 1)
            (pid,) = workers.process_ids
            os.kill(pid, 9)
            await until(lambda: pid not in workers.process_ids)
            assert await trial(workers, "echo", 2) == 2

    run(test)


def test_closing_ends_what_runs_and_what_waits(run):
    """No process survives, and everybody who waits is told."""

    async def test():
        workers = Workers(WorkerLimits(), processes_max=1, idle_seconds_max=60)
        running = asyncio.ensure_future(trial(workers, "spin"))
        waiting = asyncio.ensure_future(trial(workers, "echo", 1))
        await until(lambda: bool(workers.process_ids))
        await asyncio.sleep(0.1)
        ids = workers.process_ids
        await workers.aclose()
        ends = await asyncio.gather(running, waiting, return_exceptions=True)
        assert [type(end) for end in ends] in (
            [WorkerDied, WorkersBusy],
            [WorkersBusy, WorkersBusy],  # it was closed before the process had come up
        )
        assert not any(map(is_running, ids))
        assert workers.processes == 0
        with pytest.raises(WorkersBusy):
            await trial(workers, "echo", 1)

    run(test)


def children() -> set[int]:
    """The processes that this one has, dead or alive."""
    own = str(os.getpid())
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[1] == own:
                found.add(int(entry.name))
    return found


@linux_only
def test_closing_at_any_moment_leaves_nothing(run):
    """Also in the middle of starting, and with a queue; when it returns, nothing runs."""
    before = children()

    async def test():
        for step in range(12):
            workers = Workers(WorkerLimits(), processes_max=2, idle_seconds_max=60)
            tasks = [asyncio.ensure_future(trial(workers, "echo", n)) for n in range(6)]
            await asyncio.sleep(step * 0.005)
            if step % 2:
                tasks[0].cancel()
            await workers.aclose()
            assert workers.processes == 0
            assert children() <= before
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            for number, end in enumerate(ends):
                expected = (WorkersBusy, WorkerDied, asyncio.CancelledError)
                assert end == number or isinstance(end, expected)

    run(test)


@linux_only
def test_workers_die_with_the_gateway(tmp_path):
    """Also when the gateway is killed and can tidy nothing up."""
    script = tmp_path / "gateway.py"
    script.write_text(
        "import asyncio, os, signal\n"
        "from traghetto.workers.limits import WorkerLimits\n"
        "from traghetto.workers.pool import Workers\n"
        "async def main():\n"
        "    w = Workers(WorkerLimits(), processes_max=1, idle_seconds_max=60)\n"
        "    await w.run('traghetto.workers.trials:echo', 1, seconds_max=30)\n"
        "    print(w.process_ids[0], flush=True)\n"
        "    task = asyncio.ensure_future(\n"
        "        w.run('traghetto.workers.trials:spin', None, seconds_max=60))\n"
        "    await asyncio.sleep(0.1)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )

    async def test():
        gateway = await asyncio.create_subprocess_exec(
            sys.executable, str(script), stdout=asyncio.subprocess.PIPE
        )
        assert gateway.stdout is not None
        pid = int(await gateway.stdout.readline())
        await gateway.wait()

        def is_gone() -> bool:
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except FileNotFoundError:
                return True
            return state == "Z"  # nobody has waited for it yet

        await until(is_gone)

    asyncio.run(test())


def test_long_values_do_not_hold_the_event_loop(run):
    """Sixty megabytes cross both ways while everything else goes on."""

    async def test():
        async with pool() as workers:
            await trial(workers, "echo", 1)
            turns = 0

            async def count():
                nonlocal turns
                while True:
                    await asyncio.sleep(0)
                    turns += 1

            counting = asyncio.ensure_future(count())
            started = time.perf_counter()
            data = b"x" * 60_000_000
            assert len(await trial(workers, "echo", data)) == len(data)
            counting.cancel()
            # Were a value copied in one piece, the loop would turn a few times in all.
            assert turns > 100, f"{turns} turns in {time.perf_counter() - started:.2f} s"

    run(test)


@pytest.mark.parametrize("head", [b"", b"\xc1", b"\x92\x90", b"\x91" * 5000, b"\x92\x91\xff\xc0"])
def test_a_message_that_is_none_is_malformed(head):
    """Whatever a worker sends is read strictly, and fails in one way."""
    with pytest.raises(frames.Malformed):
        frames.segment_lengths(head, 1000)


def test_a_value_names_the_segments_that_there_are():
    """A segment that is not there, and an extension of another kind, are malformed."""
    head, segments = frames.pack([b"x" * 5000], 1 << 20)
    assert frames.unpack(head[4:], segments) == [b"x" * 5000]
    with pytest.raises(frames.Malformed):
        frames.unpack(head[4:], [])
    with pytest.raises(frames.Malformed):
        frames.unpack(b"\x92\x90\xd5\x07\0\0", [])
