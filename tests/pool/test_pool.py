"""The pool over the fake engine: booted ahead, refilled, reused, let go; tests/docker has containers."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import EngineUnavailableError, Sandbox
from sandbox.call import Call
from sandbox.engine.base import ContainerStartError
from sandbox.engine.steps import WaitFor
from sandbox.errors import BootFailedError, OverloadedError
from sandbox.store.owners import LABEL_FUNCTION
from sandbox.testing import FakeEngine, FakeFunction
from tests.fakes import ready, wait_for_ready
from tests.waiting import wait_until

if TYPE_CHECKING:
    from sandbox.testing import FakeContext, FakeProcess
    from tests.fakes import Directory

WARM = "warm: 1"


def state(sandbox: Sandbox, name: str = "f") -> dict[str, Any]:
    """The pool's state of a function; zeros before it was first asked."""
    return defaultdict(int, sandbox.pool_states().get(name, {}))


def invoke(sandbox: Sandbox) -> bool | None:
    """Whether a successful invocation was cold."""
    response = sandbox.invoke("f")
    assert response.success, response.error
    assert response.stats is not None
    return response.stats.cold


@pytest.mark.parametrize("stdio", [False, True], ids=["handler", "stdio"])
def test_the_next_container_is_booted_before_it_is_asked(directory: Directory, stdio: bool) -> None:
    directory.write("f", WARM, stdio=stdio)
    engine = FakeEngine(default=lambda ctx: ctx.input)
    with directory.sandbox(engine, warm=True) as sandbox:
        assert invoke(sandbox)
        for _ in range(3):
            wait_for_ready(sandbox, "f")
            assert not invoke(sandbox)


def test_without_a_pool_each_container_is_cold(directory: Directory) -> None:
    directory.write("f", WARM)
    engine = FakeEngine()
    with directory.sandbox(engine, warm=True, pool={"enabled": False}) as sandbox:
        assert all(invoke(sandbox) for _ in range(3))
        assert ready(sandbox, "f") == 0
    assert engine.created == 3


def test_as_many_are_kept_as_the_manifest_asks_for(directory: Directory) -> None:
    directory.write("f", "warm: 3")
    engine = FakeEngine()
    with directory.sandbox(engine, warm=True) as sandbox:
        sandbox.warm("f")
        wait_for_ready(sandbox, "f", 3)
        assert len(engine.containers({LABEL_FUNCTION: "f"})) == 3


def test_no_more_than_the_budget_are_kept(directory: Directory) -> None:
    for name in ("f", "g"):
        directory.write(name, "warm: 4")
    engine = FakeEngine()
    with directory.sandbox(engine, warm=True, pool={"containers": 5, "starts": 5}) as sandbox:
        for name in ("f", "g"):
            sandbox.warm(name)
        wait_until(lambda: ready(sandbox, "f") + ready(sandbox, "g") == 5)
        # One that is full still serves.
        assert invoke(sandbox) is False
        wait_until(lambda: ready(sandbox, "f") + ready(sandbox, "g") == 5)
        assert len(engine.containers({})) == 5


def test_with_reuse_a_container_answers_until_it_is_worn_out(directory: Directory) -> None:
    directory.write("f", "reuse: 3")
    boots = itertools.count(1)
    boot = FakeFunction(boot=lambda process: next(boots), answer=lambda ctx: ctx.input)
    engine = FakeEngine(default=boot)
    with directory.sandbox(engine, ceilings={"reuse": 3}) as sandbox:
        assert [invoke(sandbox) for _ in range(4)] == [True, False, False, True]
    assert engine.created == 2


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (lambda ctx: ctx.process.stall(), "TIMEOUT"),
        (lambda ctx: ctx.process.exit(3), "FUNCTION_CRASHED"),
        (lambda ctx: ctx.process.respond({"request_id": "other", "success": True}), None),
        (lambda ctx: ctx.process.write("no JSON\n"), None),
        (lambda ctx: ctx.process.report.update(tmp_full=True), None),
    ],
    ids=["timeout", "crash", "another's id", "no JSON", "limit"],
)
def test_with_reuse_anything_out_of_the_ordinary_retires_the_container(
    directory: Directory, trouble: Any, code: str | None
) -> None:
    directory.write("f", "reuse: 100\ntimeout: 100ms")

    def act(ctx: FakeContext) -> Any:
        return trouble(ctx) if ctx.input.get("odd") else 1

    engine = FakeEngine(default=act)
    with directory.sandbox(engine, ceilings={"reuse": 100}) as sandbox:
        assert [invoke(sandbox) for _ in range(2)] == [True, False]
        response = sandbox.invoke("f", {"odd": True})
        assert (response.error.code if response.error else None) == code
        assert invoke(sandbox)
    assert engine.created == 2


def test_a_warm_container_that_dies_is_replaced(directory: Directory) -> None:
    directory.write("f", WARM)
    processes: list[FakeProcess] = []

    def boot(process: FakeProcess) -> None:
        processes.append(process)

    engine = FakeEngine(default=FakeFunction(boot=boot))
    with directory.sandbox(engine, warm=True) as sandbox:
        sandbox.warm("f")
        wait_for_ready(sandbox, "f")
        (first,) = engine.containers({})
        engine.remove(first.id)
        wait_until(lambda: len(processes) == 2 and ready(sandbox, "f"))
        assert not invoke(sandbox)


@pytest.mark.parametrize(
    ("boot", "reason"),
    [
        (lambda process: process.exit(0), "ended before it was asked (exit code 0)"),
        (lambda process: process.die(11), "ended before it was asked (signal 11)"),
        (
            lambda process: process.respond({"success": True, "output": 1}),
            "answered before it was asked",
        ),
    ],
    ids=["ends", "dies", "answers"],
)
def test_a_script_that_does_not_wait_for_its_request_is_always_cold(
    directory: Directory, boot: Any, reason: str
) -> None:
    directory.write("f", WARM, stdio=True)
    engine = FakeEngine(default=FakeFunction(boot=boot))
    with directory.sandbox(engine, warm=True) as sandbox:
        sandbox.warm("f")
        wait_until(lambda: state(sandbox)["cold_only"])
        assert reason in state(sandbox)["cold_only"]
    # Another process knows it from the store.
    with directory.sandbox(engine, warm=True) as sandbox:
        sandbox.warm("f")
        assert reason in state(sandbox)["cold_only"]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (FakeFunction(boot=lambda process: 1 / 0), "division by zero"),
        (FakeFunction(boot=lambda process: process.exit(3)), "exit code 3"),
        (FakeFunction(boot=lambda process: process.stall()), "limits.boot"),
        (FakeFunction(boot=lambda process: process.flood("stderr")), "its cap on logs"),
        (FakeFunction(failures={"start": ContainerStartError("no file")}), "could not be started"),
        (FakeFunction(failures={"create": EngineUnavailableError("away")}), "away"),
    ],
    ids=["raises", "ends", "stalls", "floods", "is not started", "is not made"],
)
def test_one_that_does_not_boot_is_not_tried_without_end(
    directory: Directory, behaviour: FakeFunction, reason: str
) -> None:
    directory.write("f", WARM)
    engine = FakeEngine(default=behaviour)
    limits = {"boot": "100ms", "logs": "64kb"}
    with directory.sandbox(engine, warm=True, limits=limits) as sandbox:
        sandbox.warm("f")
        wait_until(lambda: state(sandbox)["boot_failure"])
        assert reason in state(sandbox)["boot_failure"]
        assert ready(sandbox, "f") == 0
        assert engine.created <= 2


def test_a_burst_beyond_the_queue_is_refused_at_once_and_the_rest_is_served(
    directory: Directory,
) -> None:
    directory.write("f")
    go = threading.Event()

    def wait(ctx: FakeContext) -> int:
        assert go.wait(30)
        return 1

    engine = FakeEngine(default=wait)
    queue = {"length": 3, "per_function": 2}
    with (
        directory.sandbox(engine, concurrency=2, queue=queue) as sandbox,
        ThreadPoolExecutor(8) as threads,
    ):
        served = [threads.submit(sandbox.invoke, "f") for _ in range(4)]
        wait_until(lambda: state(sandbox)["busy"] == state(sandbox)["waiting"] == 2)
        for _ in range(4):
            with pytest.raises(OverloadedError) as refused:
                sandbox.invoke("f")
            assert refused.value.retry_after >= 1
        go.set()
        assert [item.result(30).output for item in served] == [1] * 4


def test_one_hot_function_leaves_a_place_to_another(directory: Directory) -> None:
    for name in ("hot", "quiet"):
        directory.write(name)
    tokens = threading.Semaphore(0)
    order: list[str] = []

    def wait(ctx: FakeContext) -> int:
        assert tokens.acquire(timeout=30)
        order.append(ctx.function)
        return 1

    engine = FakeEngine(default=wait)
    with (
        directory.sandbox(engine, concurrency=2) as sandbox,
        ThreadPoolExecutor(13) as threads,
    ):
        running = [threads.submit(sandbox.invoke, "hot") for _ in range(12)]
        wait_until(lambda: state(sandbox, "hot")["waiting"] == 10)
        running.append(threads.submit(sandbox.invoke, "quiet"))
        wait_until(lambda: state(sandbox, "quiet")["waiting"] == 1)
        for _ in running:
            tokens.release()
            time.sleep(0)
        assert all(item.result(30).success for item in running)
    assert order.index("quiet") <= 5  # and not behind all that came before it


def test_who_is_interrupted_while_it_waits_leaves_its_place(directory: Directory) -> None:
    directory.write("f")
    go = threading.Event()
    engine = FakeEngine(default=lambda ctx: go.wait(30))
    with (
        directory.sandbox(engine, concurrency=1) as sandbox,
        ThreadPoolExecutor(1) as threads,
    ):
        running = threads.submit(sandbox.invoke, "f")
        wait_until(lambda: state(sandbox)["busy"])
        steps = sandbox.steps(Call(function="f"))
        while not isinstance(next(steps), WaitFor):
            pass
        assert state(sandbox)["waiting"] == 1
        with pytest.raises(KeyboardInterrupt):
            steps.throw(KeyboardInterrupt)
        assert state(sandbox)["waiting"] == 0
        go.set()
        assert running.result(30).success


def test_what_was_made_for_one_who_is_interrupted_is_removed(directory: Directory) -> None:
    directory.write("f")
    engine = FakeEngine()
    with directory.sandbox(engine) as sandbox:
        steps = sandbox.steps(Call(function="f"))
        while not isinstance(next(steps), WaitFor):
            pass
        wait_until(lambda: engine.created and not state(sandbox)["booting"])
        with pytest.raises(KeyboardInterrupt):
            steps.throw(KeyboardInterrupt)
        wait_until(lambda: not engine.containers({}))
        assert state(sandbox)["busy"] == 0


def test_a_new_version_takes_over_only_when_it_boots(directory: Directory) -> None:
    def boot(process: FakeProcess) -> None:
        if broken.is_set():
            raise ValueError("half done")

    broken = threading.Event()
    directory.write("f", WARM)
    engine = FakeEngine(default=FakeFunction(boot=boot))
    with directory.sandbox(engine, warm=True) as sandbox:
        sandbox.prepare("f")
        first = sandbox.invoke("f").stats
        assert first is not None
        assert not first.cold

        broken.set()
        directory.write("f", WARM, files={"more.py": "1"})
        sandbox.reload()
        with pytest.raises(BootFailedError, match="half done"):
            sandbox.prepare("f")
        assert state(sandbox)["version"] == first.version

        broken.clear()
        sandbox.reload()
        sandbox.prepare("f")
        second = sandbox.invoke("f").stats
        assert second is not None
        assert not second.cold
        assert second.version != first.version
        # Nothing of the first version is left.
        wait_until(lambda: len(engine.containers({})) == ready(sandbox, "f"))


@pytest.mark.parametrize(
    "boot",
    [lambda process: process.stall(), lambda process: process.flood("stderr")],
    ids=["stalls", "floods"],
)
def test_a_version_that_never_boots_is_not_put_into_service(
    directory: Directory, boot: Any
) -> None:
    directory.write("f")
    engine = FakeEngine(default=FakeFunction(boot=boot))
    limits = {"boot": "100ms", "logs": "64kb"}
    with directory.sandbox(engine, limits=limits) as sandbox, pytest.raises(BootFailedError):
        sandbox.prepare("f")


def test_a_script_that_ends_by_itself_can_be_put_into_service(directory: Directory) -> None:
    directory.write("f", stdio=True)

    def boot(process: FakeProcess) -> None:
        process.write('{"success": true, "output": 1}\n')
        process.exit()

    with directory.sandbox(FakeEngine(default=FakeFunction(boot=boot))) as sandbox:
        sandbox.prepare("f")
        assert sandbox.invoke("f").output == 1


def test_containers_of_a_removed_function_are_removed(directory: Directory) -> None:
    directory.write("f", "warm: 2")
    engine = FakeEngine()
    with directory.sandbox(engine, warm=True) as sandbox:
        sandbox.warm("f")
        wait_for_ready(sandbox, "f", 2)
        for path in (directory.path / "f").iterdir():
            path.unlink()
        sandbox.reload()
        wait_until(lambda: not engine.containers({}))
        assert sandbox.pool_states() == {}


def test_what_boots_while_it_is_closed_is_removed(directory: Directory) -> None:
    directory.write("f", WARM)
    engine = FakeEngine(default=FakeFunction(delays={"create": 0.2}))
    with directory.sandbox(engine, warm=True) as sandbox:
        sandbox.warm("f")
        wait_until(lambda: state(sandbox)["booting"])
    assert engine.created == 1


def test_many_at_once_lose_nothing(directory: Directory) -> None:
    directory.write("f")
    engine = FakeEngine(default=lambda ctx: ctx.input)
    with (
        directory.sandbox(engine, warm=True, concurrency=4) as sandbox,
        ThreadPoolExecutor(20) as threads,
    ):
        calls = [threads.submit(sandbox.invoke, "f", {"n": number}) for number in range(60)]
        assert [call.result(60).output for call in calls] == [{"n": number} for number in range(60)]
