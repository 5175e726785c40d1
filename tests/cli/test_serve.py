"""`sandbox serve`, where it cannot begin: what is said, and that nothing is left."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def serve(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("SANDBOX_")}
    return subprocess.run(
        [sys.executable, "-m", "sandbox_cli", "serve", *arguments],
        cwd=project, env=clean | {"SANDBOX_STORE": str(project / "store")},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_an_address_that_others_reach_asks_for_authentication(tmp_path: Path, host: str) -> None:
    ended = serve(tmp_path, "--host", host)
    assert ended.returncode == 2
    assert "authentication: required" in ended.stderr
    assert ended.stdout == ""


def test_a_port_that_is_taken_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = serve(tmp_path, "--json", "--port", str(port))
    assert ended.returncode == 2
    error = json.loads(ended.stdout)["error"]
    assert error["code"] == "INVALID_SETTINGS"
    assert str(port) in error["message"]
    assert list((tmp_path / "store/owners").iterdir()) == []


def test_settings_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    (tmp_path / "sandbox.yaml").write_text("server: {drain: soon}\n")
    ended = serve(tmp_path)
    assert ended.returncode == 2
    assert "server.drain" in ended.stderr
