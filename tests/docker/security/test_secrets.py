"""Canaries: where a secret of the host, of the settings or of a request could be found again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import Sandbox
from sandbox.containers.reaper import reap
from sandbox.functions.discovery import function_from_path
from tests.docker.security.conftest import docker, inspect
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.models import LogEntry
    from tests.docker.security.conftest import Arena

HOST = "canary-host-environment-1181"
SETTING = "canary-secrets-file-2292"
UNUSED = "canary-of-another-function-3303"
REQUEST = "canary-request-4414"
CALLER = "canary-caller-5525"
# The function gets these; the host's environment and other functions' secrets it must not get.
GIVEN = (SETTING, REQUEST, CALLER)
CANARIES = (HOST, SETTING, UNUSED, REQUEST, CALLER)

HOLD = """
import os, sys, time, pathlib
def handler(ctx):
    print("here", file=sys.stderr, flush=True)
    time.sleep(2)
    own = []
    for path in ("/proc/self/environ", "/proc/self/cmdline", "/proc/1/cmdline", "/proc/1/environ"):
        try: own.append(pathlib.Path(path).read_text())
        except OSError: pass
    places = "".join(own) + "".join(f"{k}={v}" for k, v in os.environ.items())
    return {"key": ctx.env["KEY"] == "%s", "input": ctx.input["token"] == "%s", "seen": [c for c in %r if c in places]}
""" % (SETTING, REQUEST, CANARIES)  # noqa: UP031
MANIFEST = "env:\n  KEY: ${API_KEY}\n"


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """Settings with a secrets file, and a secret in the host's environment."""
    path = tmp_path / "secrets.yaml"
    path.write_text(f"API_KEY: {SETTING}\nOTHER: {UNUSED}\n")
    monkeypatch.setenv("HOST_SECRET", HOST)
    monkeypatch.setenv("API_KEY", HOST)
    return {"secrets_file": str(path)}


def everywhere(container: str) -> str:
    """All that the host tells of a container, while it runs, to those who may ask the engine."""
    state = inspect(container)
    pid = state["State"]["Pid"]
    texts = [
        json.dumps(state),
        docker("ps", "--all", "--no-trunc", "--format={{json .}}"),
        docker("top", container, "-o", "pid,args"),
        docker("logs", container, check=False),
        docker("image", "history", "--no-trunc", state["Image"]),
        docker("image", "inspect", state["Image"]),
    ]
    for process in (pid, *children(pid)):
        files = [Path(f"/proc/{process}/{name}") for name in ("environ", "cmdline")]
        texts += [path.read_text(errors="replace") for path in files]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            texts.append(path.read_text(errors="replace"))
        except OSError:  # it has ended
            continue
    kept = Path("/var/lib/docker/containers", container).rglob("*")
    texts += [path.read_text(errors="replace") for path in kept if path.is_file()]
    bundles = Path("/run/docker/containerd/daemon").glob(f"*/moby/{container}/config.json")
    texts += [path.read_text() for path in bundles]
    return "\n".join(texts)


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def test_secrets_are_nowhere_but_in_the_request(arena: Arena, secrets: Mapping[str, Any]) -> None:
    found: list[str] = []
    since = str(int(time.time()) - 1)

    def look(entry: LogEntry) -> None:
        if entry.message == "here":
            found.append(everywhere(arena.engine.created[-1]))

    result = arena.attack(
        HOLD, {"token": REQUEST}, manifest=MANIFEST, settings=secrets, auth={"id": CALLER}, on_log=look
    )  # fmt: skip
    assert result.output == {"key": True, "input": True, "seen": []}
    assert len(found) == 1
    # The control: what was looked through does tell of the container.
    assert "alyx.sandbox.function" in found[0]
    assert "/function/index.py" in found[0]
    found.append(docker("events", "--since", since, "--until", str(int(time.time()) + 1), "--format={{json .}}"))  # fmt: skip
    assert arena.engine.created[-1] in found[1]
    store = arena.settings.store
    assert store is not None
    kept = "".join(path.read_text(errors="replace") for path in store.rglob("*") if path.is_file())
    for text in (*found, result.visible, engine_log()):
        for canary in CANARIES:
            assert canary not in text, canary
    # Bundles hold the functions' own files, and this function's source names what it looks for.
    assert UNUSED not in kept.replace(HOLD, "")


def engine_log() -> str:
    """What the engine that `make engine` started has logged, where it can be read."""
    path = Path("/var/lib/alyx-sandbox/engine/dockerd.log")
    return path.read_text(errors="replace")[-1_000_000:] if path.exists() else ""


FAILURES = {
    "a crash": "import sys\nsys.stdin.read()\nraise SystemExit(3)\n",
    "a timeout": "import sys, time\nsys.stdin.read()\ntime.sleep(60)\n",
    "no response": "import sys\nsys.stdin.read()\nprint('nothing')\n",
    "out of memory": "import sys\nsys.stdin.read()\nx = b'x' * (512 << 20)\n",
    "a flood": "import sys\nsys.stdin.read()\nwhile True: print('x' * 10000)\n",
    "no import": "import nothing_of_that_name\ndef handler(ctx): pass\n",
    "an exception": "def handler(ctx): raise ValueError('no')\n",
}


@pytest.mark.parametrize("name", FAILURES)
def test_no_error_document_holds_a_secret(
    crun: Arena, secrets: Mapping[str, Any], name: str
) -> None:
    result = crun.attack(
        FAILURES[name], {"token": REQUEST}, manifest=MANIFEST + "timeout: 1s\nmemory: 64mb\n",
        settings=secrets, auth={"id": CALLER, "claim": CALLER},
    )  # fmt: skip
    assert result.code != "OK"
    for canary in CANARIES:
        assert canary not in result.visible


def test_errors_of_the_platform_name_secrets_and_show_no_values(
    crun: Arena, secrets: Mapping[str, Any], tmp_path: Path
) -> None:
    code = "def handler(ctx): pass\n"
    refused = [
        crun.attack(code, manifest="env:\n  KEY: ${NO_SUCH}\n", settings=secrets),
        crun.attack(code, manifest="env:\n  KEY: ${HOST_SECRET}\n", settings=secrets),
        crun.attack(code, {"token": REQUEST, "bad": object()}, manifest=MANIFEST, settings=secrets),
        crun.attack(code, {"token": REQUEST * 1_000_000}, manifest=MANIFEST, settings=secrets),
        crun.attack(code, manifest=MANIFEST, settings=secrets, auth={"id": [CALLER]}),
    ]
    assert [result.code for result in refused] == ["POLICY_REFUSED"] * 2 + ["INVALID_REQUEST"] * 3
    bad = tmp_path / "bad.yaml"
    bad.write_text(f"API_KEY: {SETTING}\nAPI_KEY: {UNUSED}\nx: [{HOST}]\n")
    from sandbox import InvalidSettingsError, Settings

    with pytest.raises(InvalidSettingsError) as raised:
        Sandbox(tmp_path, settings=Settings(store=crun.settings.store, secrets_file=bad))
    for text in (*(result.visible for result in refused), f"{raised.value} {raised.value.details}"):
        for canary in CANARIES:
            assert canary not in text, text[:500]


CHILD = """
import json, pathlib, sys
from sandbox import Sandbox, Settings
from sandbox.functions.discovery import function_from_path
settings = Settings.model_validate(json.loads(sys.argv[1]))
canaries = json.loads(sys.stdin.read())
with Sandbox(sys.argv[2], settings=settings) as sandbox:
    function, _ = function_from_path(pathlib.Path(sys.argv[3]))
    sandbox.invoke(function, {"token": canaries["token"]}, auth={"id": canaries["caller"]}, on_log=lambda entry: print(entry.message, flush=True))
"""


def test_a_sandbox_that_was_killed_leaves_no_secret_in_a_file(
    crun: Arena, tmp_path: Path, secrets: Mapping[str, Any]
) -> None:
    """`kill -9` in the middle: nothing was on its way through a file."""
    home = tmp_path / "home"
    for name in ("tmp", "functions", "store"):
        (home / name).mkdir(parents=True)
    code = "import sys, time\nsys.stdin.read()\nprint('here', file=sys.stderr, flush=True)\ntime.sleep(60)\n"
    function = crun.write(code, manifest=MANIFEST)
    settings = {"store": str(home / "store"), "engine": {"runtime_class": "crun"}, **secrets}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(settings), str(home / "functions"), str(function)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"HOME": str(home), "TMPDIR": str(home / "tmp"), "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdin, child.stdout:
        child.stdin.write(json.dumps({"token": REQUEST, "caller": CALLER}))
        child.stdin.close()
        assert child.stdout.readline().strip() == "here"
        child.send_signal(signal.SIGKILL)
        child.wait(20)
    from sandbox.engine.docker.engine import DockerEngine

    engine = DockerEngine()
    try:
        assert reap(engine, home / "store") >= 1
    finally:
        engine.close()
    texts = [path.read_text(errors="replace") for path in home.rglob("*") if path.is_file()]
    assert texts  # the control: the bundle is there
    for text in texts:
        for canary in CANARIES:
            assert canary not in text
    assert list((home / "tmp").iterdir()) == []


def test_a_function_sees_its_own_secrets_and_nobody_else_s(
    arena: Arena, secrets: Mapping[str, Any]
) -> None:
    code = "import json, os\ndef handler(ctx):\n    return json.dumps([ctx.env, dict(os.environ), open('/proc/self/environ').read(), ctx.input])\n"
    seen = arena.attack(code, {"token": REQUEST}, manifest=MANIFEST, settings=secrets).output
    assert SETTING in seen  # the control
    assert HOST not in seen
    assert UNUSED not in seen
    bare = arena.attack(code, settings=secrets).output
    assert SETTING not in bare


def test_a_function_cannot_leave_a_secret_for_another(
    crun: Arena, secrets: Mapping[str, Any]
) -> None:
    """The engine keeps no copy of what was written: no log, no layer, no volume."""
    code = "import sys\ndef handler(ctx):\n    open('/tmp/x', 'w').write(ctx.env['KEY'])\n    open('/dev/shm/x', 'w').write(ctx.env['KEY'])\n    print('wrote', file=sys.stderr)\n"
    function, _ = function_from_path(crun.write(code, manifest=MANIFEST))
    volumes = docker("volume", "ls", "--quiet")
    assert crun.run(function, settings=secrets).code == "OK"
    container = crun.engine.created[-1]
    wait_until(lambda: container not in docker("ps", "--all", "--quiet", "--no-trunc"))
    assert set(docker("volume", "ls", "--quiet").split()) <= set(volumes.split())
    assert not Path("/var/lib/docker/containers", container).exists()
