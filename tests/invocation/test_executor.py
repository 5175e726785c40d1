"""Every way an invocation can end, on the fake engine; tests/docker has real containers."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import (
    EngineUnavailableError,
    FunctionError,
    FunctionNotFoundError,
    InvalidRequestError,
    OverloadedError,
    PolicyRefusedError,
    RuntimeNotAvailableError,
)
from sandbox.cancellation import Cancellation
from sandbox.engine.base import ContainerStartError
from sandbox.images.image_recipes import reference
from sandbox.protocol.report import Report
from sandbox.testing import FakeEngine, FakeFunction
from tests.waiting import wait_until

if TYPE_CHECKING:
    from sandbox import FunctionResponse
    from sandbox.testing import FakeContext, FakeProcess
    from tests.fakes import Directory


def invoke(
    directory: Directory,
    behaviour: Any = None,
    input: dict[str, Any] | None = None,
    *,
    stdio: bool = False,
    manifest: str = "",
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> FunctionResponse:
    """Invoke a function that behaves like that."""
    directory.write("f", manifest, stdio=stdio)
    engine = FakeEngine(default=behaviour or FakeFunction())
    with directory.sandbox(engine, **(settings or {})) as sandbox:
        return sandbox.invoke("f", input, **options)


def error(response: FunctionResponse) -> FunctionError:
    assert not response.success
    assert response.output is None
    assert response.error is not None
    return response.error


BOTH = pytest.mark.parametrize("stdio", [False, True], ids=["handler", "stdio"])


@BOTH
def test_the_output_comes_back_with_figures_of_the_run(directory: Directory, stdio: bool) -> None:
    response = invoke(directory, lambda ctx: ctx.input["n"] + 1, {"n": 1}, stdio=stdio)
    assert (response.success, response.output, response.error) == (True, 2, None)
    assert response.stats is not None
    assert response.stats.cold
    assert response.stats.boot_ms > 0
    assert (response.stats.cpu_ms, response.stats.peak_memory_bytes) == (1.5, 9_000_000)
    assert response.stats.limits_hit == ()


def test_the_function_is_told_who_calls_and_what_for(directory: Directory) -> None:
    seen: list[FakeContext] = []
    invoke(
        directory,
        seen.append,
        {"a": 1},
        manifest="env: {COLOUR: red}",
        settings={"alyx_url": "http://localhost:1234"},
        auth={"id": "ada"},
        request_id="req_1",
    )
    (ctx,) = seen
    assert (ctx.input, ctx.request_id, ctx.function) == ({"a": 1}, "req_1", "f")
    assert ctx["auth"]["id"] == "ada"
    assert ctx.env == {"COLOUR": "red"}
    assert ctx.alyx_url.endswith(":1234")
    assert ctx.internal_token == ""


def test_logs_come_as_they_are_written_and_stay(directory: Directory) -> None:
    def talk(ctx: FakeContext) -> None:
        for log in (ctx.log.debug, ctx.log.info, ctx.log.warn, ctx.log.error):
            log("logged", {"n": 1})
        ctx.process.write("printed\n", "stderr")

    heard: list[Any] = []
    response = invoke(directory, talk, on_log=heard.append)
    assert list(response.logs) == heard
    assert sorted((entry.level, entry.message) for entry in heard) == [
        ("debug", "logged"),
        ("error", "logged"),
        ("info", "logged"),
        ("info", "printed"),
        ("warn", "logged"),
    ]


@BOTH
def test_a_failure_that_the_function_answers(directory: Directory, stdio: bool) -> None:
    answer = FunctionError(code="SAD", message="it is what it is", details={"n": 1})
    assert error(invoke(directory, lambda _: answer, stdio=stdio)) == answer


def test_what_a_handler_raises_is_function_error(directory: Directory) -> None:
    def fail(ctx: FakeContext) -> None:
        raise ValueError("no such user")

    response = invoke(directory, fail)
    assert (error(response).code, error(response).message) == ("FUNCTION_ERROR", "no such user")
    assert any("ValueError" in entry.message for entry in response.logs)


@BOTH
def test_an_output_that_is_no_json_is_the_functions_failure(
    directory: Directory, stdio: bool
) -> None:
    found = error(invoke(directory, lambda _: {1, 2}, stdio=stdio))
    assert found.code == ("FUNCTION_CRASHED" if stdio else "FUNCTION_ERROR")
    assert "JSON" in str(found.details if stdio else found.message)


def test_what_a_script_raises_is_function_crashed(directory: Directory) -> None:
    def fail(ctx: FakeContext) -> None:
        raise ValueError("no such user")

    found = error(invoke(directory, fail, stdio=True))
    assert (found.code, found.details["exit_code"]) == ("FUNCTION_CRASHED", 1)
    assert "no such user" in found.details["stderr"]


@BOTH
def test_no_answer_until_the_deadline_is_timeout(directory: Directory, stdio: bool) -> None:
    killed = threading.Event()

    def hang(ctx: FakeContext) -> None:
        ctx.log.info("so far")
        try:
            ctx.process.stall()
        finally:
            killed.set()

    response = invoke(directory, hang, stdio=stdio, manifest="timeout: 100ms")
    found = error(response)
    assert (found.code, found.details["limit"], found.details["setting"]) == (
        "TIMEOUT",
        0.1,
        "timeout",
    )
    assert [entry.message for entry in response.logs] == ["so far"]
    assert killed.wait(10)


def test_a_callers_time_limit_ends_at_the_operators_ceiling(directory: Directory) -> None:
    settings = {"ceilings": {"timeout": "50ms"}, "defaults": {"timeout": "50ms"}}
    response = invoke(directory, lambda ctx: ctx.process.stall(), settings=settings, timeout=60)
    assert error(response).details["limit"] == 0.05


@BOTH
@pytest.mark.parametrize("with_init", [False, True], ids=["reported", "with init"])
def test_out_of_memory(directory: Directory, stdio: bool, with_init: bool) -> None:
    def hog(ctx: FakeContext) -> None:
        ctx.process.run_out_of_memory(with_init=with_init)

    found = error(invoke(directory, hog, stdio=stdio, manifest="memory: 64mb"))
    assert (found.code, found.details["limit"]) == ("OUT_OF_MEMORY", 64 << 20)


@BOTH
def test_an_exit_is_function_crashed_with_its_code(directory: Directory, stdio: bool) -> None:
    found = error(invoke(directory, lambda ctx: ctx.process.exit(7), stdio=stdio))
    assert (found.code, found.details["exit_code"], found.details["signal"]) == (
        "FUNCTION_CRASHED",
        7,
        None,
    )


@BOTH
@pytest.mark.parametrize("with_init", [False, True], ids=["reported", "with init"])
def test_a_signal_is_function_crashed_with_its_name(
    directory: Directory, stdio: bool, with_init: bool
) -> None:
    def die(ctx: FakeContext) -> None:
        ctx.process.die(signal.SIGSEGV, with_init=with_init)

    found = error(invoke(directory, die, stdio=stdio))
    assert (found.code, found.details["signal"]) == ("FUNCTION_CRASHED", "SIGSEGV")


@BOTH
def test_a_flood_on_stdout_is_output_too_large(directory: Directory, stdio: bool) -> None:
    settings = {"limits": {"output": "100kb"}}
    response = invoke(directory, lambda ctx: ctx.process.flood(), stdio=stdio, settings=settings)
    found = error(response)
    assert (found.code, found.details["setting"]) == ("OUTPUT_TOO_LARGE", "limits.output")
    assert found.details["observed"] > found.details["limit"] == 100 << 10


@BOTH
def test_a_flood_of_logs_is_output_too_large(directory: Directory, stdio: bool) -> None:
    settings = {"limits": {"logs": "100kb"}}
    response = invoke(
        directory, lambda ctx: ctx.process.flood("stderr"), stdio=stdio, settings=settings
    )
    found = error(response)
    assert (found.code, found.details["setting"]) == ("OUTPUT_TOO_LARGE", "limits.logs")
    assert sum(len(entry.message) for entry in response.logs) <= 100 << 10


@BOTH
def test_an_answer_that_is_no_response_is_invalid_response(
    directory: Directory, stdio: bool
) -> None:
    def babble(ctx: FakeContext) -> None:
        ctx.process.write("hello\n")
        ctx.process.exit(0)

    found = error(invoke(directory, babble, stdio=stdio))
    assert found.code == "INVALID_RESPONSE"
    assert "hello" in found.details["stdout"]


def test_a_handler_that_answers_another_request_gives_no_response(directory: Directory) -> None:
    def confuse(ctx: FakeContext) -> None:
        ctx.process.respond({"request_id": "another", "success": True, "output": "secret"})
        ctx.process.exit(0)

    response = invoke(directory, confuse)
    assert error(response).code == "INVALID_RESPONSE"
    assert "another request" in error(response).message


def test_a_response_is_not_held_back_by_what_comes_after_it(directory: Directory) -> None:
    def linger(ctx: FakeContext) -> None:
        ctx.process.respond({"success": True, "output": 1})
        ctx.process.stall()

    assert invoke(directory, linger, stdio=True).output == 1


def test_a_json_line_that_may_be_a_log_is_no_response_before_the_end(directory: Directory) -> None:
    def step(ctx: FakeContext) -> int:
        ctx.process.respond({"success": True, "step": 1})
        ctx.process.sleep(0.1)
        return 2

    response = invoke(directory, step, stdio=True)
    assert response.output == 2
    assert [entry.message for entry in response.logs] == ['{"success":true,"step":1}']


def refuse_to_import(process: FakeProcess) -> None:
    raise ImportError("no module named x")


def take_for_ever(process: FakeProcess) -> None:
    process.stall()


def end(process: FakeProcess) -> None:
    process.exit(3)


def need_memory(process: FakeProcess) -> None:
    process.run_out_of_memory()


@pytest.mark.parametrize(
    ("boot", "message"),
    [
        (refuse_to_import, "no module named x"),
        (take_for_ever, "was not ready for a request within 100ms"),
        (end, "exited with code 3"),
        (need_memory, "memory limit"),
    ],
)
def test_a_handler_that_does_not_boot_is_init_failed(
    directory: Directory, boot: Any, message: str
) -> None:
    response = invoke(directory, FakeFunction(boot=boot), settings={"limits": {"boot": "100ms"}})
    assert error(response).code == "INIT_FAILED"
    assert message in error(response).message


def test_a_command_that_the_engine_cannot_start_is_init_failed(directory: Directory) -> None:
    failure = ContainerStartError("no such file")
    found = error(invoke(directory, FakeFunction(failures={"start": failure})))
    assert (found.code, found.details["reason"]) == ("INIT_FAILED", "no such file")


def test_a_command_that_init_cannot_run_is_init_failed(directory: Directory) -> None:
    def missing(process: FakeProcess) -> None:
        process.report["exec_errno"] = 2
        process.exit(127)

    found = error(invoke(directory, FakeFunction(boot=missing)))
    assert (found.code, found.details["errno"]) == ("INIT_FAILED", "ENOENT")


@pytest.mark.parametrize("moment", ["running", "waiting"])
def test_a_cancelled_invocation_ends_at_once(directory: Directory, moment: str) -> None:
    directory.write("f")
    begun = threading.Event()

    def hang(ctx: FakeContext) -> None:
        begun.set()
        ctx.process.stall()

    with (
        directory.sandbox(FakeEngine({"f": hang}), concurrency=1) as sandbox,
        ThreadPoolExecutor(2) as threads,
    ):
        first, second = Cancellation(), Cancellation()
        running = threads.submit(sandbox.invoke, "f", cancellation=first)
        assert begun.wait(10)
        if moment == "waiting":
            waiting = threads.submit(sandbox.invoke, "f", cancellation=second)
            wait_until(lambda: sandbox.pool_states()["f"]["waiting"])
            second.cancel()
            assert error(waiting.result(10)).code == "CANCELLED"
        first.cancel()
        assert error(running.result(10)).code == "CANCELLED"


def test_whoever_cancels_too_late_gets_the_response(directory: Directory) -> None:
    cancellation = Cancellation()

    def answer(ctx: FakeContext) -> None:
        ctx.process.respond({"request_id": ctx.request_id, "success": True, "output": 1})
        cancellation.cancel()
        ctx.process.stall()

    assert invoke(directory, answer, cancellation=cancellation).output == 1


def test_a_place_that_never_comes_free_is_overloaded(directory: Directory) -> None:
    directory.write("f")
    begun = threading.Event()

    def hang(ctx: FakeContext) -> None:
        begun.set()
        ctx.process.stall()

    cancellation = Cancellation()
    with (
        directory.sandbox(FakeEngine({"f": hang}), concurrency=1) as sandbox,
        ThreadPoolExecutor(1) as threads,
    ):
        running = threads.submit(sandbox.invoke, "f", cancellation=cancellation)
        assert begun.wait(10)
        with pytest.raises(OverloadedError) as refused:
            sandbox.invoke("f", timeout=0.05)
        assert refused.value.retry_after > 0
        cancellation.cancel()
        running.result(10)


def test_an_engine_that_is_too_slow_to_make_a_container_is_timeout(directory: Directory) -> None:
    slow = FakeFunction(delays={"create": 0.5})
    found = error(invoke(directory, slow, manifest="timeout: 50ms"))
    assert found.code == "TIMEOUT"
    assert found.details["boot_ms"] >= 40


@pytest.mark.parametrize("operation", ["create", "start", "receive"])
def test_an_engine_that_fails_is_no_response(directory: Directory, operation: Any) -> None:
    behaviour = FakeFunction(failures={operation: EngineUnavailableError("it is away")})
    with pytest.raises(EngineUnavailableError, match="it is away"):
        invoke(directory, behaviour)


def test_an_engine_that_comes_back_serves_again(directory: Directory) -> None:
    directory.write("f")
    engine = FakeEngine()
    with directory.sandbox(engine) as sandbox:
        assert sandbox.invoke("f").success
        engine.unreachable = True
        with pytest.raises(EngineUnavailableError):
            sandbox.invoke("f")
        engine.unreachable = False
        assert sandbox.invoke("f").success


def test_an_image_that_is_missing_or_out_of_date_is_named(directory: Directory) -> None:
    directory.write("f")
    engine = FakeEngine()
    engine.remove_image(reference("python"))
    with directory.sandbox(engine) as sandbox:
        with pytest.raises(RuntimeNotAvailableError, match="is not built yet"):
            sandbox.invoke("f")
        engine.import_image(directory.path, tag=reference("python"), labels={})
        with pytest.raises(RuntimeNotAvailableError, match="is out of date"):
            sandbox.invoke("f")


def test_what_cannot_be_asked_starts_no_container(directory: Directory) -> None:
    directory.write("f")
    directory.write("keen", "env: {KEY: '${KEY}'}")
    engine = FakeEngine()
    with directory.sandbox(engine, limits={"request": "1kb"}) as sandbox:
        with pytest.raises(FunctionNotFoundError):
            sandbox.invoke("g")
        with pytest.raises(InvalidRequestError, match="are allowed|the most is"):
            sandbox.invoke("f", {"text": "x" * 2000})
        with pytest.raises(InvalidRequestError, match="no object"):
            sandbox.invoke("f", [1])  # type: ignore[arg-type]
        with pytest.raises(PolicyRefusedError, match="KEY"):
            sandbox.invoke("keen")
    assert engine.created == 0


@pytest.mark.parametrize(
    ("seen", "setting"),
    [
        ({"pids_denied": 3}, "pids"),
        ({"tmp_full": True, "tmp_bytes": 1}, "tmp"),
        ({"shm_full": True}, "tmp"),
        ({"oom_kills": 1}, "memory"),
        ({"largest_file": 1 << 40}, "limits.file_size"),
        ({"denied": ["example.org"]}, "network"),
    ],
)
def test_a_limit_that_was_touched_is_listed(
    directory: Directory, seen: dict[str, Any], setting: str
) -> None:
    assert seen.keys() <= Report.__dataclass_fields__.keys()

    def touch(ctx: FakeContext) -> None:
        ctx.process.report.update(seen)

    response = invoke(directory, touch)
    assert response.success
    assert response.stats is not None
    assert [hit.setting for hit in response.stats.limits_hit] == [setting]


def test_a_secret_does_not_get_out(directory: Directory) -> None:
    secrets = directory.store.parent / "secrets.yaml"
    secrets.write_text("KEY: hunter2-hunter2\n")

    def leak(ctx: FakeContext) -> FunctionError:
        ctx.log.info(f"the key is {ctx.env['KEY']}")
        return FunctionError(code="LEAK", message=ctx.env["KEY"])

    response = invoke(
        directory, leak, manifest="env: {KEY: '${KEY}'}", settings={"secrets_file": secrets}
    )
    assert error(response).code == "LEAK"
    assert "hunter2" not in response.to_json()
