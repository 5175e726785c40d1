"""An engine on another machine: a second `dockerd`, reached over TCP with TLS.

It has a data directory of its own, and the tests hand it nothing but what goes through its API.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from sandbox import Sandbox, Settings
from sandbox.cancellation import Cancellation
from sandbox.engine.delivery import delivery_of
from sandbox.engine.docker.engine import DockerEngine
from sandbox.engine.volume_delivery import LABEL_CONTENT
from sandbox.errors import EngineUnavailableError, InvalidSettingsError
from sandbox.store.bundles import BundleStore
from sandbox.store.owners import LABEL_STORE, Owner
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox.models import FunctionResponse

BRIDGE = "alyx-remote0"
IMAGES = ("base", "python", "go", "binary")
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("dockerd") or not shutil.which("ip"),
    reason="a second dockerd needs root, and a bridge of its own",
)

ECHO = """
import sys
def handler(ctx):
    if ctx.input.get("sleep"):
        import time
        print("asleep", flush=True)
        time.sleep(60)
    return {"size": len(ctx.input.get("text", "")), "blob": "x" * ctx.input.get("blob", 0)}
"""
CAT = """
import json, sys
text = json.loads(sys.stdin.read())["input"]["text"]
print(json.dumps({"success": True, "output": text}))
"""
STDIO = """
import json, os, stat, sys
request = json.loads(sys.stdin.read())
here = [os.stat(path) for path in ("/function", "/function/index.py", "/function/run.sh")]
try:
    open("/function/new", "w")
    written = True
except OSError:
    written = False
print(json.dumps({"success": True, "output": {
    "modes": [oct(stat.S_IMODE(status.st_mode)) for status in here],
    "owners": [status.st_uid for status in here],
    "written": written,
    "link": open("/function/link").read(),
    "hosts": open("/etc/hosts").read(),
    "resolver": open("/etc/resolv.conf").read(),
}}))
"""


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and cert.pem with key.pem of a client; those of the server begin with `server-`."""
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    for prefix, name in (("server-", "127.0.0.1"), ("", "client.example.org")):
        issued = authority.issue_cert(name)
        issued.private_key_pem.write_to_path(str(directory / f"{prefix}key.pem"))
        issued.cert_chain_pems[0].write_to_path(str(directory / f"{prefix}cert.pem"))
    return directory


@pytest.fixture(scope="session")
def url(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a second dockerd listens, with the images that the tests use."""
    root = tmp_path_factory.mktemp("dockerd")
    (root / "daemon.json").write_text("{}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not `--bridge none`: a daemon that is told so removes docker0, the other daemon's.
    subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], check=False)
    subprocess.run(["ip", "address", "replace", "192.0.2.129/28", "dev", BRIDGE], check=True)
    with (root / "log").open("w") as log:
        daemon = subprocess.Popen(
            [
                "dockerd", "--config-file", root / "daemon.json", "--data-root", root / "data",
                "--exec-root", root / "exec", "--pidfile", root / "pid",
                "--host", f"unix://{root}/docker.sock", "--host", f"tcp://127.0.0.1:{port}",
                "--tlsverify", "--tlscacert", certificates / "ca.pem",
                "--tlscert", certificates / "server-cert.pem",
                "--tlskey", certificates / "server-key.pem",
                "--bridge", BRIDGE, "--iptables=false", "--ip-masq=false", "--ip-forward=false",
                "--userland-proxy=false", "--cgroup-parent", "/alyx-remote",
            ],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: _answers(f"unix://{root}/docker.sock") or daemon.poll() is not None)
        assert daemon.poll() is None, (root / "log").read_text()[-2000:]
        names = [f"alyx-sandbox/{name}:latest" for name in IMAGES]
        saved = subprocess.Popen(["docker", "save", *names], stdout=subprocess.PIPE)
        subprocess.run(
            ["docker", "--host", f"unix://{root}/docker.sock", "load", "--quiet"],
            stdin=saved.stdout, check=True, capture_output=True,
        )  # fmt: skip
        assert saved.stdout is not None
        saved.stdout.close()
        assert saved.wait() == 0
        yield f"tcp://127.0.0.1:{port}"
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)
        subprocess.run(["ip", "link", "delete", BRIDGE], check=False)
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def remote(url: str, certificates: Path, tmp_path: Path) -> Settings:
    """Settings for that engine, and a store of its own."""
    tls = {name: certificates / f"{name}.pem" for name in ("ca", "cert", "key")}
    return Settings.model_validate(
        {
            "engine": {"host": url, "tls": tls},
            "store": tmp_path / "store",
            "pool": {"enabled": False},
        }
    )


@pytest.fixture
def far(remote: Settings) -> Iterator[DockerEngine]:
    with contextlib.closing(DockerEngine(remote.engine)) as engine:
        yield engine
        mine = {LABEL_STORE: (remote.store / "id").read_text()} if remote.store else {}
        assert engine.containers(mine) == []
        for volume in engine.volumes(mine):
            assert engine.remove_volume(volume.name)


def test_functions_run_and_see_what_they_see_on_this_machine(  # noqa: PLR0917
    functions: Path, write: Callable[..., None], remote: Settings, far: DockerEngine,
    engine: DockerEngine, settings: Settings,
) -> None:  # fmt: skip
    """Files, modes and `/etc/hosts` are the same; the owner is root, whoever owns the store."""
    write("stdio/index.py", STDIO)
    write("stdio/run.sh", "#!/bin/sh\n", mode=0o755)
    (functions / "stdio" / "link").symlink_to("run.sh")
    with Sandbox(functions, settings=settings, engine=engine) as sandbox:
        here = sandbox.invoke("stdio")
    with Sandbox(functions, settings=remote, engine=far) as sandbox:
        there = sandbox.invoke("stdio")
    assert here.success, here.error
    assert there.success, there.error
    assert there.output | {"owners": []} == here.output | {"owners": []}
    assert there.output["owners"] == [0, 0, 0]
    assert there.output["written"] is False
    assert there.stats.version == here.stats.version


def test_requests_and_outputs_of_any_size_pass_both_ways(
    functions: Path, write: Callable[..., None], remote: Settings, far: DockerEngine
) -> None:
    """Several at once, and the end of stdin is told while much is still on its way back."""
    write("echo/index.py", ECHO)
    write("cat/index.py", CAT)
    sizes = [0, 1, 16_384, 65_536, 3_000_000]
    with Sandbox(functions, settings=remote, engine=far) as sandbox:
        for size in sizes:
            response = sandbox.invoke("echo", {"text": "y" * size, "blob": size})
            assert response.success, response.error
            assert response.output == {"size": size, "blob": "x" * size}
        with ThreadPoolExecutor(3) as threads:
            texts = [letter * 2_000_000 for letter in "abc"]
            for text, response in zip(
                texts, threads.map(lambda text: sandbox.invoke("cat", {"text": text}), texts),
                strict=True,
            ):  # fmt: skip
                assert response.success, response.error
                assert response.output == text


def test_a_function_is_killed_and_cancelled_there(
    functions: Path, write: Callable[..., None], remote: Settings, far: DockerEngine
) -> None:
    write("echo/index.py", ECHO)
    cancellation = Cancellation()
    with Sandbox(functions, settings=remote, engine=far) as sandbox:
        late = sandbox.invoke("echo", {"sleep": True}, timeout=1.5)
        assert late.error is not None
        assert late.error.code == "TIMEOUT"

        def on_log(entry: Any) -> None:
            threading.Thread(target=cancellation.cancel).start()

        began = time.monotonic()
        gone = sandbox.invoke("echo", {"sleep": True}, on_log=on_log, cancellation=cancellation)
        assert gone.error is not None
        assert gone.error.code == "CANCELLED"
        assert time.monotonic() - began < 25
        assert sandbox.invoke("echo").success


def test_go_is_compiled_there_and_comes_back(
    functions: Path, write: Callable[..., None], remote: Settings, far: DockerEngine
) -> None:
    write(
        "compiled/main.go",
        'package main\n\nimport "alyx"\n\nfunc Handler(ctx *alyx.Context) (any, error) '
        '{ return "compiled", nil }\n',
    )
    with Sandbox(functions, settings=remote, engine=far) as sandbox:
        response = sandbox.invoke("compiled")
    assert response.success, response.error
    assert response.output == "compiled"


def test_a_volume_is_filled_once_and_again_only_where_it_is_gone(
    functions: Path, write: Callable[..., None], remote: Settings, far: DockerEngine
) -> None:
    """Two processes' worth of sandboxes that start at once share it; nobody gets an empty one."""
    write("echo/index.py", ECHO)
    barrier = threading.Barrier(3)

    def start(_: int) -> FunctionResponse:
        with Sandbox(functions, settings=remote, engine=far) as sandbox:
            barrier.wait()
            return sandbox.invoke("echo")

    with ThreadPoolExecutor(3) as threads:
        assert all(response.success for response in threads.map(start, range(3)))
    assert remote.store is not None
    mine = {LABEL_STORE: (remote.store / "id").read_text()}
    first = far.volumes(mine)
    assert len({volume.labels[LABEL_CONTENT] for volume in first}) == len(first) == 2

    for volume in first:
        assert far.remove_volume(volume.name)
        far.create_volume(volume.name, labels=mine)  # as the engine would, empty
    with Sandbox(functions, settings=remote, engine=far) as sandbox:
        assert sandbox.invoke("echo").success


def test_volumes_go_with_their_bundles_and_never_while_they_are_used(
    functions: Path, write: Callable[..., None], remote: Settings, far: DockerEngine
) -> None:
    write("echo/index.py", ECHO)
    store = remote.store
    assert store is not None
    bundles = BundleStore(store)
    with contextlib.closing(Owner(store)) as owner:
        delivery = delivery_of(far, remote.engine, bundles=bundles, store=store, owner=owner)
        # What a process left that died while it filled a volume.
        abandoned = far.create_volume(
            "alyx-sandbox-abandoned", labels=owner.labels("x") | {"alyx.sandbox.owner": "dead"}
        )
        with Sandbox(functions, settings=remote, engine=far) as sandbox:
            assert sandbox.invoke("echo").success
            bundles.prune(older_than=0.0)
            # The sandbox's own reaper may have been faster, or be at it.
            assert set(delivery.prune()) <= {abandoned.name}
            wait_until(lambda: far.volume(abandoned.name) is None)
            assert sandbox.invoke("echo").success
        del sandbox  # with its leases
        gc.collect()
        mine = {LABEL_STORE: owner.store_id}
        assert len(far.volumes(mine)) == 2
        bundles.prune(older_than=0.0)
        delivery.prune()
        assert far.volumes(mine) == []


def test_the_command_line_reaches_it_by_options_and_docker_variables(  # noqa: PLR0917
    functions: Path, write: Callable[..., None], remote: Settings, far: DockerEngine,
    url: str, certificates: Path,
) -> None:  # fmt: skip
    write("echo/index.py", ECHO)
    command = [Path(sys.executable).parent / "sandbox", "invoke", "echo", "--json"]
    environment = {
        **os.environ,
        "SANDBOX_STORE": str(remote.store),
        "SANDBOX_FUNCTIONS": str(functions),
    }

    def run(*options: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *options], env=environment | variables, capture_output=True, text=True
        )

    by_option = run("--engine", url, "--engine-tls", certificates)
    assert by_option.returncode == 0, by_option.stdout
    by_variable = run(DOCKER_HOST=url, DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH=str(certificates))
    assert by_variable.returncode == 0, by_variable.stdout
    without = run("--engine", url)
    assert without.returncode == 2
    assert "without TLS" in without.stdout


def test_an_engine_with_another_s_certificate_is_not_trusted(
    remote: Settings, far: DockerEngine, tmp_path: Path
) -> None:
    """The control is every other test here."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    assert remote.engine.tls is not None
    tls = remote.engine.tls.model_copy(update={"ca": tmp_path / "other.pem"})
    with contextlib.closing(
        DockerEngine(remote.engine.model_copy(update={"tls": tls}))
    ) as distrusting:
        with pytest.raises(EngineUnavailableError):
            distrusting.info()
    assert far.info().id
    (remote.store or tmp_path).mkdir(exist_ok=True)
    BundleStore(remote.store or tmp_path)
    Owner(remote.store or tmp_path).close()


def test_tcp_without_tls_needs_a_setting(remote: Settings, url: str) -> None:
    plain = remote.engine.model_copy(update={"tls": None})
    with pytest.raises(InvalidSettingsError, match="without TLS"):
        DockerEngine(plain)
    DockerEngine(plain.model_copy(update={"plaintext": True})).close()


def _answers(host: str) -> bool:
    asked = ["docker", "--host", host, "version"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0
