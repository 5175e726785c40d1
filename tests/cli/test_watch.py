"""`sandbox watch` in this process, over the fake engine; tests/docker has it as a process."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.call import Call
from sandbox.local.address import find_address
from sandbox.local.client import connect
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from sandbox.testing import FakeEngine

    Run = Callable[..., Result]
    Play = Callable[..., FakeEngine]


@pytest.fixture
def project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with a place for sockets."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(project))
    return project


def test_it_serves_the_command_line_until_ctrl_c(sandbox: Run, play: Play, project: Path) -> None:
    play(hello=lambda ctx: ctx.input)
    address = find_address(project / "functions", None, os.environ)
    seen: list[Any] = []

    def invoke() -> None:
        try:
            wait_until(address.socket.exists)
            wait_until((project / "store/bundles").exists)
            connection = connect(address)
            assert connection is not None
            with connection:
                call = Call(function="hello", input={"n": 1})
                seen.append(json.loads(str(connection.invoke(call, on_log=print)))["output"])
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor(1) as threads:
        invoked = threads.submit(invoke)
        ended = sandbox("watch", "--json", "--poll")
        invoked.result(30)
    assert ended.exit_code == 0
    assert seen == [{"n": 1}]
    assert not address.socket.exists()
    assert json.loads(ended.stdout.splitlines()[0])["event"] in ("ready", "warning")


def test_a_second_one_is_told_that_there_is_a_first(
    sandbox: Run, play: Play, project: Path
) -> None:
    from sandbox_cli.local_socket import open_socket
    from sandbox_cli.screens import TextScreen

    from sandbox import Sandbox, Settings

    play()
    address = find_address(project / "functions", None, os.environ)
    secrets = project / "secrets.yaml"
    secrets.write_text("KEY: 1\n")
    warnings: list[str] = []

    class Screen(TextScreen):
        def warn(self, message: str) -> None:
            warnings.append(message)

    screen = Screen(project)
    settings = Settings(store=project / "store", secrets_file=secrets)
    with Sandbox("functions", settings=settings) as functions:
        first = open_socket(address, functions, screen)
        assert first is not None
        with first:
            assert open_socket(address, functions, screen) is None
            assert "another process" in warnings[0]
            connection = connect(address)
            assert connection is not None
            with connection:
                pass
            # Secrets are read at the start only: with others, this process is not asked.
            secrets.write_text("KEY: another\n")
            assert connect(address) is None
            secrets.unlink()
            assert connect(address) is None
        (project / "alyx-sandbox").chmod(0o755)
        address.directory.rename(project / "elsewhere")
        address.directory.write_text("no directory")
        assert open_socket(address, functions, screen) is None
    assert "will not go through this process" in warnings[1]
