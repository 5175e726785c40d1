"""The fake engine at the seam: `sandbox.engine.base` says what each call does."""

from __future__ import annotations

import json
import select
import signal
import tarfile
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.engine.base import Exit, VolumeMount
from sandbox.errors import EngineUnavailableError, RuntimeNotAvailableError
from sandbox.images import catalog, image_builder
from sandbox.images.image_recipes import reference
from sandbox.protocol.report import Marks
from sandbox.runtimes import INIT
from sandbox.store.owners import LABEL_FUNCTION
from sandbox.testing import FakeContainer, FakeEngine, FakeFunction
from tests.fakes import spec
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.testing import FakeContext, FakeProcess


def request(**input: Any) -> bytes:
    document = {"request_id": "r", "function": "f", "input": input}
    return json.dumps(document).encode() + b"\n"


def soon(seconds: float = 10) -> float:
    return time.monotonic() + seconds


def read_all(container: FakeContainer) -> tuple[bytes, bytes]:
    """All that it writes until its end, to stdout and to stderr."""
    written = {"stdout": b"", "stderr": b""}
    while (chunk := container.receive(soon())) is not None:
        written[chunk.stream] += chunk.data
    return written["stdout"], written["stderr"]


def readable(container: FakeContainer) -> bool:
    return bool(select.select([container.fileno()], [], [], 0)[0])


def test_a_container_is_created_runs_ends_and_is_gone() -> None:
    engine = FakeEngine()
    container = engine.create(spec())
    states = []

    def note() -> None:
        states.extend(item.state for item in engine.containers({LABEL_FUNCTION: ""}))

    note()
    container.start()
    note()
    container.send(request(a=1), end=True)
    stdout, stderr = read_all(container)
    assert container.wait(0) == Exit(exit_code=0, oom_killed=False)
    note()
    container.remove()
    container.remove()
    note()
    assert states == ["created", "running", "exited"]
    ready, response = map(json.loads, stdout.splitlines())
    assert (ready["type"], response["output"]) == ("ready", {"a": 1})
    marks = Marks("n")
    assert marks.feed(stderr) == b""
    assert marks.report is not None
    assert (marks.report.exit_code, marks.report.stdout_bytes) == (0, len(stdout))
    assert engine.containers({}) == []


def test_its_descriptor_is_readable_when_there_is_something_to_receive() -> None:
    container = FakeEngine(default=FakeFunction(boot=lambda it: it.stall())).create(spec())
    assert not readable(container)
    container.start()
    with pytest.raises(TimeoutError):
        container.receive(0)
    assert not readable(container)
    container.kill()
    assert readable(container)
    assert container.receive(0) is None
    assert readable(container)
    container.remove()


def test_one_that_is_not_started_yet_cannot_be_killed() -> None:
    container = FakeEngine().create(spec())
    container.kill()
    with pytest.raises(TimeoutError):
        container.wait(0)
    container.start()
    assert container.receive(0) is not None
    container.remove()


def test_what_is_killed_writes_and_does_nothing_more() -> None:
    begun, ended = threading.Event(), threading.Event()

    def stubborn(ctx: FakeContext) -> None:
        begun.set()
        try:
            ctx.process.sleep(60)
        finally:
            ctx.process.write("last words", "stderr")
            ended.set()

    container = FakeEngine(default=stubborn).create(spec())
    container.start()
    container.send(request())
    assert begun.wait(10)
    container.kill()
    assert container.wait(0).exit_code == 128 + signal.SIGKILL
    assert ended.wait(10)
    assert b"last words" not in b"".join(read_all(container))
    container.remove()
    wait_until(lambda: container.id not in {thread.name for thread in threading.enumerate()})


def test_a_flood_waits_for_its_reader() -> None:
    container = FakeEngine(default=lambda ctx: ctx.process.flood()).create(spec())
    container.start()
    container.send(request())
    sizes = [len(chunk.data) for _ in range(20) if (chunk := container.receive(soon()))]
    assert max(sizes) == 64 * 1024
    container.close()  # nobody reads any more: it can still be killed
    container.kill()
    assert container.wait(10).exit_code == 128 + signal.SIGKILL
    container.remove()


def test_a_flood_that_is_closed_stops_at_once(tmp_path: Path) -> None:
    container = FakeEngine(default=lambda ctx: ctx.process.flood("stderr")).create(spec())
    container.start()
    container.send(request())
    wait_until(lambda: container.received)
    container.close()
    with pytest.raises(TimeoutError):
        container.wait(0.05)
    container.remove()


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("info", lambda engine: engine.info()),
        ("create", lambda engine: engine.create(spec())),
        ("containers", lambda engine: engine.containers({})),
        ("image", lambda engine: engine.image("x")),
    ],
)
def test_each_call_fails_while_it_is_to_and_all_when_unreachable(operation: Any, call: Any) -> None:
    engine = FakeEngine()
    engine.failures[operation] = ValueError("as was asked")
    with pytest.raises(ValueError, match="as was asked"):
        call(engine)
    del engine.failures[operation]
    call(engine)
    engine.unreachable = True
    with pytest.raises(EngineUnavailableError):
        call(engine)


def test_a_function_s_failures_are_its_own() -> None:
    engine = FakeEngine({"f": FakeFunction(failures={"create": ValueError("as was asked")})})
    with pytest.raises(ValueError, match="as was asked"):
        engine.create(spec())
    engine.create(spec(labels={LABEL_FUNCTION: "g"})).remove()


def test_a_delay_takes_its_time() -> None:
    engine = FakeEngine()
    engine.delays["create"] = 0.05
    began = time.monotonic()
    engine.create(spec()).remove()
    assert 0.05 <= time.monotonic() - began < 0.1


def test_a_boot_that_writes_is_heard_before_it_is_ready() -> None:
    def boot(process: FakeProcess) -> None:
        process.write("booting\n", "stderr")

    container = FakeEngine(default=FakeFunction(boot=boot)).create(spec())
    container.start()
    chunk = container.receive(soon())
    assert chunk is not None
    assert (chunk.stream, chunk.data) == ("stderr", b"booting\n")
    container.remove()


def test_containers_are_found_described_and_removed_by_id() -> None:
    engine = FakeEngine()
    container = engine.create(spec())
    assert [item.id for item in engine.containers({LABEL_FUNCTION: "f"})] == [container.id]
    assert engine.containers({LABEL_FUNCTION: "g"}) == []
    assert reference("python") in engine.describe(container.id)
    engine.remove(container.id)
    engine.remove(container.id)
    assert engine.containers({}) == []


def test_images_are_there_removed_unless_in_use_and_built_again() -> None:
    engine = FakeEngine()
    assert {item.state for item in catalog.status(engine)} == {"ready"}
    container = engine.create(spec())
    assert not engine.remove_image(reference("python"))
    container.remove()
    assert len(catalog.remove(engine)) > 5
    assert {item.state for item in catalog.status(engine)} == {"missing"}
    with pytest.raises(RuntimeNotAvailableError):
        engine.create(spec())
    image_builder.build(engine, base="debian:trixie-slim")
    assert {item.state for item in catalog.status(engine)} == {"ready"}


def test_a_volume_keeps_files_and_stays_while_it_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    with tarfile.open(tmp_path / "archive", "w") as archive:
        archive.add(tmp_path / "a", arcname="./d/a")
    seen: list[Any] = []
    engine = FakeEngine(build=lambda build: seen.append(build.files) or {})
    volume = engine.create_volume("v", labels={"l": "1"})
    engine.fill_volume("v", tmp_path / "archive", image="", labels={})
    assert engine.volume("v") == volume
    assert engine.volumes({"l": ""}) == [volume]
    assert engine.volumes({"l": "2"}) == []
    mount = VolumeMount(volume="v", target="/src")
    command = (INIT, "sh", "-c", "script", "install")
    container = engine.create(spec(working_dir="/src", mounts=(mount,), command=command))
    assert not engine.remove_volume("v")
    container.start()
    container.send(b"", end=True)
    read_all(container)
    container.remove()
    assert seen == [{"d/a": b"text"}]
    assert engine.remove_volume("v")
    assert engine.volume("v") is None
