"""Suite `hardening`: what each part of the defence costs a container's life.

The life of one container, without the executor: create, attach, start, a line to `cat` and back,
remove. `all on` is the container that every function gets; each other way turns one part off, and
`all off` is the engine's plain container. Only this suite turns defences off, and only for `cat`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import docker
from docker.utils import kwargs_from_env

from benchmarks.interleave import Way, interleaved
from benchmarks.peers import spec_of
from sandbox.engine.docker.config import create_config
from sandbox.engine.docker.container import DockerContainer
from sandbox.images import catalog
from sandbox.runtimes import INIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from docker.api import APIClient

    from benchmarks.context import Context

SUITE: Final = "hardening"
_LINE: Final = b"a line to cat and back\n"
_PATIENCE: Final = 30.0


def run(context: Context) -> None:
    """Measure every part."""
    context.log("hardening")
    with context.sandbox(warm=False) as sandbox, _client() as client, _gateway_files() as files:
        deployment = context.deployment(sandbox, "python-handler")
        config = create_config(spec_of(deployment))
        config["Image"] = catalog.require(context.engine, "base").id
        config["Cmd"] = [INIT, "cat"]
        config["HostConfig"]["Mounts"] += files
        variants = _variants(config)
        ways = [
            Way(name, functools.partial(live, client, variant), context.settle)
            for name, variant in variants.items()
        ]
        rounds = 5 if context.quick else 12
        for name, times in interleaved(ways, rounds).items():
            context.results.add(SUITE, deployment.runtime_class, name, "ms", times)


def live(client: APIClient, config: dict[str, Any]) -> None:
    """The whole life of one container."""
    container_id = client.create_container_from_config(config)["Id"]
    attached = client.attach_socket(
        container_id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
    )
    container = DockerContainer(client, container_id, attached)
    try:
        container.start()
        container.send(_LINE)
        echo = b""
        while _LINE not in echo:
            chunk = container.receive(time.monotonic() + _PATIENCE)
            assert chunk is not None, "it ended"
            echo += chunk.data if chunk.stream == "stdout" else b""
    finally:
        container.remove()


def _variants(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`config`, and copies of it, each without one part."""
    without: dict[str, Callable[[dict[str, Any], dict[str, Any]], object]] = {
        "- seccomp": lambda _, host: host.update(
            SecurityOpt=["no-new-privileges:true", "seccomp=unconfined"]
        ),
        "- own seccomp": lambda _, host: host.update(SecurityOpt=["no-new-privileges:true"]),
        "- no-new-priv": lambda _, host: host.update(SecurityOpt=host["SecurityOpt"][1:]),
        "- read-only": lambda _, host: host.update(ReadonlyRootfs=False),
        "- tmpfs": lambda _, host: host.pop("Tmpfs"),
        "- cap drop": lambda _, host: host.pop("CapDrop"),
        "- memory": lambda _, host: (host.pop("Memory"), host.pop("MemorySwap")),
        "- cpu, pids": lambda _, host: (host.pop("NanoCpus"), host.pop("PidsLimit")),
        "- ulimits": lambda _, host: host.pop("Ulimits"),
        "- masked": lambda _, host: (host.pop("MaskedPaths"), host.pop("ReadonlyPaths")),
        "- own user": lambda all_, _: all_.pop("User"),
        "- hosts, dns": lambda _, host: host.update(Mounts=host["Mounts"][:1]),
        "- all mounts": lambda _, host: host.update(Mounts=[]),
        "- cgroup ns": lambda _, host: host.update(CgroupnsMode="host"),
        "- ipc ns": lambda _, host: host.update(IpcMode="none"),
        "- init": lambda all_, _: all_.update(Cmd=["cat"]),
        "+ json log": lambda _, host: host.update(LogConfig={"Type": "json-file"}),
        "all off": _take_all,
    }
    found = {"all on": config}
    for name, take in without.items():
        variant = copy.deepcopy(config)
        take(variant, variant["HostConfig"])
        found[name] = variant
    return found


def _take_all(config: dict[str, Any], host: dict[str, Any]) -> None:
    kept = {"Runtime", "NetworkMode", "LogConfig"}
    for name in host.keys() - kept:
        del host[name]
    host["SecurityOpt"] = ["seccomp=unconfined"]
    config.pop("User")
    config["Cmd"] = ["cat"]


@contextlib.contextmanager
def _client() -> Iterator[APIClient]:
    client = docker.APIClient(version="auto", **kwargs_from_env())
    try:
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def _gateway_files() -> Iterator[list[dict[str, Any]]]:
    """The mounts that a gateway adds to every container, with and without destinations."""
    with tempfile.TemporaryDirectory() as directory:
        mounts = []
        for name in ("hosts", "resolv.conf"):
            path = Path(directory, name)
            path.write_text(
                "127.0.0.1 localhost\n" if name == "hosts" else "nameserver 127.0.0.1\n"
            )
            mounts.append({
                "Type": "bind", "Source": str(path), "Target": f"/etc/{name}", "ReadOnly": True,
                "BindOptions": {"Propagation": "rprivate"},
            })  # fmt: skip
        yield mounts
