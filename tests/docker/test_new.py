"""Every template of `sandbox new`, in a real container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from click.testing import CliRunner
from sandbox_cli.main import cli

from sandbox import Sandbox
from sandbox.runtimes import Runtime

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.config.settings import Settings
    from sandbox.engine.docker.engine import DockerEngine


def test_every_new_function_answers(
    functions: Path, engine: DockerEngine, settings: Settings
) -> None:
    names = []
    for runtime in Runtime:
        for interface in ("handler", "stdio"):
            names.append(f"{runtime}-{interface}")
            arguments = ["new", names[-1], "--runtime", runtime.value, "--interface", interface]
            result = CliRunner().invoke(cli, [*arguments, "--functions", str(functions)])
            assert result.exit_code == 0, result.output
    answers = {}
    with Sandbox(functions, settings=settings, engine=engine) as sandbox:
        for name in names:
            response = sandbox.invoke(name, {"name": "Ada"})
            answers[name] = response.error or response.output
            assert any("greeting" in entry.message for entry in response.logs), name
    assert answers == {name: {"message": "Hello, Ada!"} for name in names}
