"""A secret reaches the function that it is for, and shows nowhere else."""

from __future__ import annotations

import base64
import subprocess
from typing import TYPE_CHECKING

import pytest

from sandbox import Sandbox, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox.engine.docker.engine import DockerEngine
    from sandbox.models import LogEntry

SECRET = "c4nary/s3cret+1"
LEAK = """
import base64, glob, sys, time
def handler(ctx):
    token = ctx.env["AUTH"].split()[1]
    environments = []
    for path in glob.glob("/proc/[0-9]*/environ"):
        try: environments.append(open(path).read())
        except OSError: pass
    print("running", token, base64.b64encode(b"me:" + token.encode()).decode(), flush=True)
    print("partial", token[:8], file=sys.stderr, flush=True)
    ctx.log.info("sent " + token, {token: [token]})
    if ctx.input.get("fail"):
        raise ValueError("refused: " + token)
    return {"token": token, "seen": [token in text for text in environments]}
"""


@pytest.fixture
def sandbox(
    functions: Path, tmp_path: Path, engine: DockerEngine, settings: Settings
) -> Iterator[Sandbox]:
    for name in ("leak", "plain"):
        folder = functions / name
        folder.mkdir()
        (folder / "index.py").write_text(LEAK)
        auth = "${TOKEN}" if name == "leak" else SECRET
        (folder / "function.yaml").write_text(f'env:\n  AUTH: "Bearer {auth}"\n')
    (tmp_path / "secrets.yaml").write_text(f"TOKEN: {SECRET}\n")
    chosen = settings.model_copy(update={"secrets_file": tmp_path / "secrets.yaml"})
    with Sandbox(functions, settings=chosen, engine=engine) as sandbox:
        yield sandbox


def _inspected() -> str:
    ids = subprocess.run(
        ["docker", "ps", "--all", "--quiet"], check=True, capture_output=True, text=True
    ).stdout.split()
    # Some of them are other tests', and gone by now.
    shown = subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True).stdout
    assert "alyx.sandbox" in shown
    return shown


def test_a_secret_shows_in_the_output_and_nowhere_else(sandbox: Sandbox) -> None:
    entries: list[LogEntry] = []
    inspected: list[str] = []

    def on_log(entry: LogEntry) -> None:
        if entry.message.startswith("running"):
            inspected.append(_inspected())
        entries.append(entry)

    response = sandbox.invoke("leak", on_log=on_log)
    assert response.output["token"] == SECRET  # its own answer, unchanged
    assert response.output["seen"]
    assert not any(response.output["seen"])  # in no process's environment, its own included
    for logs in (response.logs, entries):
        text = "".join(str(entry.to_dict()) for entry in logs)
        assert SECRET not in text
        assert base64.b64encode(f"me:{SECRET}".encode()).decode() not in text
        assert "[secret TOKEN]" in text
        assert f"partial {SECRET[:8]}" in text  # a part of it is no secret that anybody knows
    assert len(inspected) == 1
    assert SECRET not in inspected[0]


def test_an_error_does_not_show_it(sandbox: Sandbox) -> None:
    error = sandbox.invoke("leak", {"fail": True}).error
    assert error is not None
    assert error.message == "refused: [secret TOKEN]"


def test_the_same_text_that_is_no_secret_shows(sandbox: Sandbox) -> None:
    """The control: nothing but the redaction keeps it out of the logs."""
    response = sandbox.invoke("plain")
    assert SECRET in "".join(entry.message for entry in response.logs)
