"""The server's life in this process, over the fake engine; tests/docker has it as a process.

The server runs in the main thread, which alone gets signals; the test's steps run in another.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sse_starlette.sse import AppStatus

from sandbox import InvalidSettingsError
from sandbox.server.http.operations import RESERVED
from sandbox.server.lifecycle import Lifecycle
from sandbox.server.service import Service
from sandbox.testing import FakeEngine, FakeFunction
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox.deploy.reload_events import WatchEvent
    from sandbox.testing import FakeBuild, FakeContext, FakeProcess
    from tests.fakes import Directory


class Reporter:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.events: list[WatchEvent] = []
        self.warnings: list[str] = []
        self.announced = threading.Event()

    def announce(self, url: str) -> None:
        self.urls.append(url)
        self.announced.set()

    def show(self, event: WatchEvent) -> None:
        self.events.append(event)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


class Companion:
    """Remembers when it was ended."""

    def __init__(self, events: list[str], name: str) -> None:
        self._events, self._name = events, name

    def stop(self) -> None:
        self._events.append(f"stop {self._name}")

    def close(self) -> None:
        self._events.append(f"close {self._name}")


class Server:
    """A server over the fake engine. `settings` are read at the start and with each reload."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.begun, self.go = threading.Event(), threading.Event()
        self.builds: Callable[[FakeBuild], Any] = lambda build: {}
        self.boots: Callable[[FakeProcess], object] = lambda process: None
        self.engine = FakeEngine(
            {
                "hello": FakeFunction(answer=lambda ctx: ctx.env, boot=self._boot),
                "sleeps": self._sleep,
            },
            build=self._build_function,
        )
        self.settings: dict[str, Any] = {}
        self.server: dict[str, Any] = {"port": 0, "drain": "20s"}
        self.reporter = Reporter()
        self.companions: list[str] = []
        self.watch = False
        self.client: httpx.Client
        for name in ("hello", "sleeps"):
            directory.write(name)

    def _boot(self, process: FakeProcess) -> None:
        self.boots(process)

    def _build_function(self, build: FakeBuild) -> Any:
        return self.builds(build)

    def _sleep(self, ctx: FakeContext) -> str:
        ctx.log.info("asleep")
        self.begun.set()
        wait_until(lambda: self.go.is_set() or ctx.process.killed.is_set())
        return "slept"

    def build(self, before: Service | None) -> Service:
        settings = self.directory.settings(**self.settings, server=self.server)
        return Service.build(
            settings, self.directory.path, reserved=RESERVED, before=before, engine=self.engine
        )

    def run(self, steps: Callable[[], None]) -> None:
        """Serve, carry the steps out, and end. Raises what the steps raise."""
        lifecycle = Lifecycle(
            self.build,
            reporter=self.reporter,
            open_socket=lambda _: Companion(self.companions, str(len(self.companions))),
            watch=self.watch,
        )

        def carry_out() -> None:
            assert self.reporter.announced.wait(30)
            self.client = httpx.Client(base_url=self.reporter.urls[0], timeout=60, trust_env=False)
            try:
                with self.client:
                    steps()
            finally:
                self.go.set()
                if not ended.is_set():
                    self.signal(signal.SIGTERM)

        ended = threading.Event()
        with ThreadPoolExecutor(1) as threads:
            carried_out = threads.submit(carry_out)
            try:
                lifecycle.run()
            finally:
                ended.set()
            carried_out.result(60)
        assert self.engine.containers({}) == []

    @staticmethod
    def signal(number: signal.Signals) -> None:
        os.kill(os.getpid(), number)

    def invoke(self, name: str) -> httpx.Response:
        return self.client.post(f"/api/functions/{name}", json={})

    def refuses(self) -> bool:
        """Whether it takes no connections any more."""
        try:
            httpx.get(f"{self.reporter.urls[0]}/healthz", trust_env=False)
        except httpx.TransportError:
            return True
        return False


@pytest.fixture
def server(directory: Directory, caplog: pytest.LogCaptureFixture) -> Iterator[Server]:
    """A server that has not started; what it changes in this process is put back."""
    handlers = {it: signal.getsignal(it) for it in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)}
    thresholds = gc.get_threshold()
    caplog.set_level(logging.INFO, "sandbox")
    yield Server(directory)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    gc.set_threshold(*thresholds)
    gc.unfreeze()
    AppStatus.should_exit = False


def test_what_runs_may_finish_and_a_supervisor_is_told(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor,
        ThreadPoolExecutor(1) as threads,
    ):
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(30)

        def steps() -> None:
            assert supervisor.recv(64) == b"READY=1"
            assert server.invoke("hello").status_code == 200
            asking = threads.submit(server.invoke, "sleeps")
            assert server.begun.wait(30)
            server.signal(signal.SIGTERM)
            assert supervisor.recv(64) == b"STOPPING=1"
            wait_until(server.refuses)
            server.go.set()
            assert asking.result(30).json()["output"] == "slept"

        server.run(steps)
    assert server.companions == ["stop 0", "close 0"]


@pytest.mark.parametrize("signals", [1, 2], ids=["its limit", "a second signal"])
def test_what_does_not_finish_in_time_is_killed(server: Server, signals: int) -> None:
    server.server["drain"] = "200ms" if signals == 1 else "60s"

    def steps() -> None:
        with ThreadPoolExecutor(1) as threads:
            asking = threads.submit(server.invoke, "sleeps")
            assert server.begun.wait(30)
            for _ in range(signals):
                server.signal(signal.SIGTERM)
                wait_until(server.refuses)  # two that come at once are one
            answer = asking.result(30)
            assert (answer.status_code, answer.json()["error"]["code"]) == (499, "CANCELLED")

    server.run(steps)


def test_a_reload_takes_effect_and_what_runs_goes_on(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = tmp_path / "secrets.yaml"
    secrets.write_text("KEY: first\n")
    server.settings["secrets_file"] = secrets
    server.directory.write("hello", "env: {KEY: '${KEY}'}")

    def secret() -> str:
        return str(server.invoke("hello").json()["output"]["KEY"])

    def steps() -> None:
        with ThreadPoolExecutor(1) as threads:
            assert secret() == "first"
            asking = threads.submit(server.invoke, "sleeps")
            assert server.begun.wait(30)
            secrets.write_text("KEY: second\n")
            server.signal(signal.SIGHUP)
            wait_until(lambda: secret() == "second")
            assert server.client.get("/api/functions/stats").json()["running"] == 1
            server.go.set()
            assert asking.result(30).json()["output"] == "slept"
        counted = server.client.get("/metrics").text
        assert 'code="OK",function="sleeps",trigger="http"} 1.0' in counted

    server.run(steps)
    assert "were read again" in caplog.text
    assert set(server.companions) == {"stop 0", "close 0", "stop 1", "close 1"}
    assert server.companions[0] == "stop 0"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"secrets_file": "/nowhere/secrets.yaml"}, "the settings stay as they were: "),
        ({"concurency": 3}, "the settings stay as they were"),
    ],
    ids=["refused", "a defect"],
)
def test_what_cannot_be_used_changes_nothing(
    server: Server,
    settings: dict[str, Any],
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def steps() -> None:
        server.settings.update(settings)
        server.signal(signal.SIGHUP)
        wait_until(lambda: message in caplog.text)
        assert server.invoke("hello").status_code == 200

    server.run(steps)


def test_what_only_a_new_start_can_change_is_told(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def steps() -> None:
        server.server["cors"] = ["https://app.example.org"]
        server.signal(signal.SIGHUP)
        wait_until(lambda: "server.cors changes with the next start only" in caplog.text)

    server.run(steps)


def test_functions_are_warmed_up_and_what_cannot_be_is_told(server: Server) -> None:
    server.directory.write("hello", "warm: 1")
    server.directory.write("broken", files={"requirements.txt": "six"})
    server.directory.write("greedy", "env: {KEY: '${KEY}'}\nnetwork: ['example.org:443']")
    server.settings["build"] = {"network": "none"}

    def fail(build: FakeBuild) -> None:
        build.process.write("no such package\n", "stderr")
        build.process.exit(1)

    server.builds = fail

    def steps() -> None:
        wait_until(lambda: len(server.reporter.warnings) == 2)
        wait_until(lambda: server.client.get("/readyz").json()["warm"] >= 1)
        assert server.invoke("hello").json()["stats"]["cold"] is False

    server.run(steps)
    broken, greedy = sorted(server.reporter.warnings)
    assert "no such package" in broken
    assert greedy.startswith("greedy: ")


def test_with_watch_an_edit_is_served(server: Server) -> None:
    server.watch = True
    booted: list[FakeProcess] = []
    server.boots = booted.append
    server.directory.write("hello", "env: {VERSION: '1'}")

    def steps() -> None:
        wait_until(lambda: server.reporter.events)
        assert server.invoke("hello").json()["output"] == {"VERSION": "1"}
        server.directory.write("hello", "env: {VERSION: '2'}")
        wait_until(lambda: server.invoke("hello").json()["output"] == {"VERSION": "2"})

    server.run(steps)
    assert booted


def test_a_stream_and_a_request_on_its_way_are_served_to_their_end(server: Server) -> None:
    lines: list[str] = []

    def stream() -> None:
        headers = {"Accept": "text/event-stream"}
        with server.client.stream("POST", "/api/functions/sleeps", headers=headers) as answer:
            lines.extend(answer.iter_lines())

    def steps() -> None:
        url = server.client.base_url
        with (
            ThreadPoolExecutor(1) as threads,
            socket.create_connection((url.host, url.port or 0), timeout=30) as connection,
        ):
            streaming = threads.submit(stream)
            assert server.begun.wait(30)
            connection.sendall(
                b"POST /api/functions/hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{"
            )
            # Connections are read in the order they came: when this is answered, it was taken.
            assert server.client.get("/healthz").status_code == 200
            server.signal(signal.SIGTERM)
            wait_until(server.refuses)
            connection.sendall(b"}")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            server.go.set()
            streaming.result(30)

    server.run(steps)
    assert "event: response" in lines


def test_a_build_under_way_holds_up_no_end(server: Server) -> None:
    server.directory.write("built", files={"requirements.txt": "six"})
    server.settings["build"] = {"network": "none"}
    server.server["drain"] = "200ms"
    building = threading.Event()

    def hang(build: FakeBuild) -> None:
        building.set()
        build.process.stall()

    server.builds = hang
    server.run(lambda: wait_until(building.is_set))
    assert server.reporter.warnings == []


def test_an_address_that_cannot_be_had_is_told(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server.server["port"] = taken.getsockname()[1]
        server.reporter.announced.set()
        lifecycle = Lifecycle(
            server.build, reporter=server.reporter, open_socket=lambda _: None, watch=False
        )
        with pytest.raises(InvalidSettingsError, match="cannot listen at"):
            lifecycle.run()
        # Once ended, it stays so.
        lifecycle.reload()
        lifecycle.end()
