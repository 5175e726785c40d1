"""The server in a container, beside the engine: no key, nothing of this machine's but what it gets."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sandbox.store.owners import LABEL_STORE
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.engine.docker.engine import DockerEngine

IMAGE = "alyx-sandbox/server:latest"
COMPOSE = Path(__file__).parent.parent.parent / "deploy" / "compose.yaml"
SOCKET = "/var/run/docker.sock"
pytestmark = pytest.mark.skipif(
    not Path(SOCKET).exists() or os.geteuid() != 0,
    reason="the container gets this machine's engine, and a directory of another user",
)

REACHES = """
import urllib.request
def handler(ctx):
    with urllib.request.urlopen(f"http://{ctx.input['place']}/healthz", timeout=5) as response:
        return {"status": response.status, "name": ctx.input.get("name")}
"""


def service(name: str) -> dict[str, Any]:
    found = yaml.safe_load(COMPOSE.read_text())["services"][name]
    assert isinstance(found, dict)
    return found


def docker(*arguments: str | Path) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def confinement(name: str) -> list[str]:
    """What the compose file says of a service's rights, as options of `docker run`."""
    of = service(name)
    assert of["read_only"] is True
    options = ["--read-only", "--user", of["user"]]
    options += [word for item in of["security_opt"] for word in ("--security-opt", item)]
    options += [word for item in of["cap_drop"] for word in ("--cap-drop", item)]
    options += [word for item in of.get("cap_add", ()) for word in ("--cap-add", item)]
    return options + [word for item in of.get("tmpfs", ()) for word in ("--tmpfs", item)]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store's path in the container; on the host, only `gateways` below it is there."""
    state = tmp_path_factory.mktemp("state")
    (state / "gateways").mkdir()
    return state


@pytest.fixture(scope="module")
def server(
    state: Path, tmp_path_factory: pytest.TempPathFactory, engine: DockerEngine
) -> Iterator[str]:
    """The name of a container that serves two functions, at a port of this machine's loopback."""
    functions = tmp_path_factory.mktemp("functions")
    functions.chmod(0o755)
    (functions / "reach").mkdir()
    (functions / "reach" / "index.py").write_text(REACHES)
    (functions / "reach" / "function.yaml").write_text('network: ["127.0.0.1:18080"]\n')
    (functions / "hello").mkdir()
    (functions / "hello" / "index.py").write_text("def handler(ctx):\n    return ctx.input\n")
    volume = f"alyx-test-{uuid.uuid4().hex[:8]}"
    places = ["-v", f"{volume}:{state}", "-v", f"{state}/gateways:{state}/gateways"]
    owner = ["-m", "700", "-o", "10001", "-g", "10001", str(state), f"{state}/gateways"]
    entry, *words = service("prepare")["entrypoint"]
    assert [word for word in words if not word.startswith("/")] == ["-d", *owner[:-2]]
    docker(
        "run", "--rm", "--network", "none", *confinement("prepare"), *places,
        "--entrypoint", entry, IMAGE, "-d", *owner,
    )  # fmt: skip
    settings = {
        "SANDBOX_STORE": str(state),
        "SANDBOX_SERVER__PORT": "18080",
        "SANDBOX_NETWORK__ALLOW": '["127.0.0.1:18080"]',
        "SANDBOX_NETWORK__ALLOW_PRIVATE": '["127.0.0.1:18080"]',
    }
    name = docker(
        "run", "--detach", "--network", "host", *confinement("server"), *places,
        "--group-add", str(Path(SOCKET).stat().st_gid), "-v", f"{SOCKET}:{SOCKET}",
        "-v", f"{functions}:/functions:ro", "--stop-timeout", "45",
        *(word for item in settings.items() for word in ("-e", "=".join(item))), IMAGE,
    )  # fmt: skip
    try:
        wait_until(lambda: _health(name) == "healthy", message=lambda: docker("logs", name))
        yield name
    finally:
        identity = subprocess.run(
            ["docker", "exec", name, "cat", f"{state}/id"], capture_output=True, text=True
        ).stdout
        docker("stop", name)
        log = docker("logs", name)
        ended = docker("inspect", "--format", "{{.State.ExitCode}}", name)
        docker("rm", "--volumes", name)
        docker("volume", "rm", volume)
        mine = {LABEL_STORE: identity or "none"}
        left = engine.containers(mine)
        for kept in engine.volumes(mine):
            assert engine.remove_volume(kept.name)
        assert left == []
        # It ended by itself: one that does not drain in time is killed, and that is 137.
        assert ended != "137", log


def test_it_serves_functions_whose_files_it_has_in_no_place_of_the_host_s(
    server: str, state: Path
) -> None:
    """And a function's way out, through a socket that both see under one path."""
    key = json.loads(
        docker("exec", server, "sandbox", "keys", "create", "tests", "--json")
    )["key"]  # fmt: skip
    assert _invoke("hello", {"name": "World"}, key)["output"] == {"name": "World"}
    reached = _invoke("reach", {"place": "127.0.0.1:18080"}, key)
    assert reached["success"], reached
    assert reached["output"]["status"] == 200
    assert [path.name for path in state.iterdir()] == ["gateways"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        _invoke("hello", {}, "nobody's")
    refused.value.close()
    assert refused.value.code == 401


def test_it_has_no_rights_but_the_engine_s_socket(server: str) -> None:
    status = docker("exec", server, "cat", "/proc/1/status")
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert found["Uid"].split() == ["10001"] * 4
    assert {int(found[name], 16) for name in found if name.startswith("Cap")} == {0}
    assert found["NoNewPrivs"] == "1"
    written = subprocess.run(["docker", "exec", server, "touch", "/functions/x"], check=False)
    assert written.returncode != 0


def test_the_compose_file_stops_it_later_than_it_drains() -> None:
    """And what Compose replaces a container for leaves the store and the health check alone."""
    of = service("server")
    assert int(of["stop_grace_period"][:-1]) > int(of["environment"]["SANDBOX_SERVER__DRAIN"][:-1])
    assert of["depends_on"] == {"prepare": {"condition": "service_completed_successfully"}}
    assert of["volumes"][2:] == service("prepare")["volumes"]
    assert all(volume.endswith(":ro") for volume in of["volumes"] if "/functions" in volume)
    checked = json.loads(docker("inspect", "--format", "{{json .Config.Healthcheck}}", IMAGE))
    assert "/healthz" in checked["Test"][-1]


def _health(name: str) -> str:
    return docker("inspect", "--format", "{{.State.Health.Status}}", name)


def _invoke(name: str, document: dict[str, Any], key: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:18080/api/functions/{name}",
        data=json.dumps(document).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.loads(response.read())
    assert isinstance(answer, dict)
    return answer
