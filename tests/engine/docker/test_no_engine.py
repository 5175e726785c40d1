"""Where no engine answers."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fakes import Directory

NO_ENGINE = """
import sys
from sandbox import EngineUnavailableError, Sandbox, Settings
with Sandbox(sys.argv[1], settings=Settings(store=sys.argv[2]), warm=False) as sandbox:
    try:
        sandbox.invoke("echo")
    except EngineUnavailableError as error:
        print(error)
"""


def test_no_engine_is_an_error_that_says_what_to_do(directory: Directory) -> None:
    """In a process of its own: the SDK leaves a socket open where it cannot connect."""
    directory.write("echo")
    environment = os.environ | {"DOCKER_HOST": f"unix://{directory.path}/no.sock"}
    ended = subprocess.run(
        [sys.executable, "-c", NO_ENGINE, str(directory.path), str(directory.store)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "no container engine answers" in ended.stdout
    assert "make engine" in ended.stdout
