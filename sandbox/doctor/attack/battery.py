"""The attacks, one after another, each through the API that invokes every function.

It fails closed: each of `PROMISES` gets a finding, and a promise that could not be checked, for any
reason, did not hold.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sandbox.config.loading import merge
from sandbox.doctor.attack import probe
from sandbox.doctor.attack.judges import Finding, judge_surface
from sandbox.doctor.limit_checks import try_limits
from sandbox.errors import Code, PolicyRefusedError, SandboxError
from sandbox.policy.limits import choose_runtime_class
from sandbox.runtimes import Runtime
from sandbox.sandbox import Sandbox
from sandbox.store.owners import LABEL_FUNCTION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox.config.settings import Settings
    from sandbox.engine.base import Engine
    from sandbox.models import FunctionResponse

# All promises that are checked: group and promise, in the order of the output.
PROMISES: Final[tuple[tuple[str, str], ...]] = (
    ("escape surface", "a user of its own"),
    ("escape surface", "no capabilities"),
    ("escape surface", "dangerous system calls"),
    ("escape surface", "no raw sockets"),
    ("escape surface", "no secrets of the kernel"),
    ("escape surface", "no engine's socket"),
    ("escape surface", "no devices"),
    ("escape surface", "processes of its own"),
    ("file system", "nothing but /tmp is written"),
    ("file system", "nothing runs from /tmp"),
    ("limits", "memory limit"),
    ("limits", "process limit"),
    ("limits", "file limit"),
    ("limits", "time limit"),
    ("limits", "size of output"),
    ("limits", "size of logs"),
    ("limits", "no core dumps"),
    ("limits", "size of a file"),
    ("network", "no interface"),
    ("network", "the host is not reached"),
    ("network", "denied names are reported"),
    ("network", "only what is allowed is reached"),
    ("network", "private addresses are refused"),
    ("secrets", "given to those that name it"),
    ("secrets", "not in any environment"),
    ("secrets", "not in logs"),
    ("secrets", "not in the engine's records"),
    ("neighbours", "nothing is left for the next"),
    ("neighbours", "an honest function is served"),
)
_SECONDS: Final = 60.0


def attack(engine: Engine, settings: Settings) -> Iterator[Finding]:
    """Yield a finding for each of `PROMISES` as soon as it is known; takes half a minute."""
    checked = set()
    for section in (_surface, _limits, _floods, _network, _egress, _secrets, _neighbours):
        try:
            with _arena(engine, settings) as arena:
                for finding in section(arena):
                    checked.add((finding.group, finding.promise))
                    yield finding
        except (
            SandboxError,
            OSError,
            _ProbeError,
            LookupError,
            AttributeError,
            TypeError,
            ValueError,
        ) as error:
            # Nothing is known of the other promises of this section: they did not hold.
            failed = f"not checked: {error}"
            for group, promise in _SECTIONS[section]:
                if (group, promise) not in checked:
                    checked.add((group, promise))
                    yield Finding(group=group, promise=promise, held=False, seen=failed)
    for group, promise in PROMISES:
        if (group, promise) not in checked:
            yield Finding(group=group, promise=promise, held=False, seen="not checked")


class _ProbeError(Exception):
    """The probe itself failed."""


class _Arena:
    """A functions directory of its own, with the operator's engine, limits and network."""

    def __init__(self, engine: Engine, settings: Settings, directory: Path) -> None:
        self.engine = engine
        self.settings = settings
        self.directory = directory
        self.gvisor = (
            choose_runtime_class(settings.engine.runtime_class, engine.info().runtime_classes)
            == "gvisor"
        )

    @contextlib.contextmanager
    def sandbox(self, *manifests: str, **changes: Any) -> Iterator[Sandbox]:
        """A Sandbox in which the functions f0, f1, … are the probe, each with its manifest."""
        functions = self.directory / secrets.token_hex(4)
        for number, manifest in enumerate(manifests or ("",)):
            folder = functions / f"f{number}"
            folder.mkdir(parents=True)
            shutil.copyfile(probe.__file__, folder / "index.py")
            (folder / "function.yaml").write_text(f"runtime: python\n{manifest}")
        document = merge(
            self.settings.model_dump(mode="json", exclude_defaults=True, exclude={"alyx_url"}),
            {
                "runtimes": list(Runtime),
                "secrets_file": None,
                "pool": {"enabled": False},
                **changes,
            },
        )
        settings = type(self.settings).model_validate(document)
        with Sandbox(functions, settings=settings, engine=self.engine) as sandbox:
            yield sandbox


@contextlib.contextmanager
def _arena(engine: Engine, settings: Settings) -> Iterator[_Arena]:
    with tempfile.TemporaryDirectory(prefix="alyx-sandbox-") as directory:
        yield _Arena(engine, settings, Path(directory).resolve())


def _output(response: FunctionResponse) -> Any:
    if response.error is not None:
        raise _ProbeError(f"{response.error.code}: {response.error.message}")
    return response.output


def _finding(group: str, promise: str, held: bool, seen: str) -> Finding:
    return Finding(group=group, promise=promise, held=held, seen=seen)


def _surface(arena: _Arena) -> Iterator[Finding]:
    with arena.sandbox() as sandbox:
        seen = _output(sandbox.invoke("f0", {"attack": "surface"}))
    yield from judge_surface(seen, gvisor=arena.gvisor, host_release=os.uname().release)


def _limits(arena: _Arena) -> Iterator[Finding]:
    names = [promise for _, promise in _SECTIONS[_limits]]
    for check in try_limits(arena.engine, arena.settings, names):
        yield _finding("limits", check.name, check.status == "ok", check.seen)


def _floods(arena: _Arena) -> Iterator[Finding]:
    with arena.sandbox("memory: 256mb\n") as sandbox:
        for promise, name in (("size of output", "output"), ("size of logs", "logs")):
            error = sandbox.invoke("f0", {"attack": name}).error
            code = error.code if error is not None else "answered"
            yield _finding("limits", promise, code == Code.OUTPUT_TOO_LARGE, code)


@contextlib.contextmanager
def _listener() -> Iterator[int]:
    """A port on the host's loopback interface that answers `hello`."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(b"hello")

        threading.Thread(target=greet, daemon=True).start()
        yield server.getsockname()[1]
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


def _says_hello(port: int) -> bool:
    """The control: whether the port can be reached from the host."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        return connection.recv(5) == b"hello"


def _network(arena: _Arena) -> Iterator[Finding]:
    name = f"{secrets.token_hex(4)}.example.org"
    with _listener() as port, arena.sandbox() as sandbox:
        places = [("127.0.0.1", port), ("localhost", port), (name, 443)]
        response = sandbox.invoke("f0", {"attack": "connect", "places": places})
        answers = _output(response)
        tried = [f"{host}:{port}" for host, port in places]
        reached = [place for place in tried if answers[place] == "ok"]
        control = _says_hello(port)
    seen = ", ".join(reached) or ("refused" if control else "not checked: the control failed")
    yield _finding("network", "the host is not reached", control and not reached, seen)
    network = response.stats.network
    told = network is not None and name in {item.destination for item in network.denied}
    seen = "in stats.network.denied" if told else "a denied name is missing in the response"
    yield _finding("network", "denied names are reported", told, seen)


def _egress(arena: _Arena) -> Iterator[Finding]:
    with _listener() as allowed, _listener() as other:
        place = f"localhost:{allowed}"
        network = {"allow": [place], "allow_private": [place]}
        with arena.sandbox(f"network: [{place}]\n", network=network) as sandbox:
            places = [("localhost", allowed), ("localhost", other), ("127.0.0.1", other)]
            answer = _output(sandbox.invoke("f0", {"attack": "connect", "places": places}))
        control = _says_hello(other)
    reached = [name for name, what in answer.items() if what == "ok"]
    held = control and reached == [place]
    yield _finding(
        "network", "only what is allowed is reached", held, ", ".join(reached) or "nothing"
    )
    held, seen = _private_refused(arena)
    yield _finding("network", "private addresses are refused", held, seen)


def _private_refused(arena: _Arena) -> tuple[bool, str]:
    """Try a destination whose name is allowed and whose address is not."""
    with _listener() as port:
        place = f"localhost:{port}"
        try:
            with arena.sandbox(f"network: [{place}]\n", network={"allow": [place]}) as sandbox:
                places = [("localhost", port)]
                answer = _output(sandbox.invoke("f0", {"attack": "connect", "places": places}))
        except PolicyRefusedError:
            return _says_hello(port), "before the function ran"
        reached = "ok" in answer.values()
        return _says_hello(port) and not reached, "reached" if reached else "by the gateway"


def _secrets(arena: _Arena) -> Iterator[Finding]:
    canary = secrets.token_hex(16)
    file = arena.directory / "secrets.yaml"
    file.write_text(f"CANARY: {canary}\n")
    file.chmod(0o600)
    given = "env:\n  CANARY: ${CANARY}\n"
    with arena.sandbox(given, "", secrets_file=str(file)) as sandbox:
        asked = {"attack": "secrets", "canary": canary}
        records: list[str] = []

        def look(_: object) -> None:
            """Keep what the engine knows of the container while the secret is in it."""
            if not records:
                running = arena.engine.containers({LABEL_FUNCTION: "f0"})
                records.extend(arena.engine.describe(container.id) for container in running)

        first = sandbox.invoke("f0", asked | {"linger": 1}, on_log=look)
        # Its input has the canary, too, but as no secret of the settings; its env does not.
        second = sandbox.invoke("f1", asked)
    mine, others = _output(first), _output(second)
    held = mine["given"] and not others["given"]
    yield _finding("secrets", "given to those that name it", held, "only in its request")
    places = [*mine["environments"], *others["environments"]]
    places += [name for name, value in mine["variables"].items() if canary in value]
    yield _finding(
        "secrets",
        "not in any environment",
        mine["given"] and not places,
        ", ".join(places) or "none",
    )
    logged = [entry.message for entry in first.logs]
    control = any("[secret CANARY]" in message for message in logged)
    leaked = any(canary in message for message in logged)
    seen = "shown" if leaked else "replaced" if control else "not checked: nothing was logged"
    yield _finding("secrets", "not in logs", control and not leaked, seen)
    known = any("f0" in record for record in records)
    leaked = any(canary in record for record in records)
    seen = "shown" if leaked else "none" if known else "not checked: no container was found"
    yield _finding("secrets", "not in the engine's records", known and not leaked, seen)


def _neighbours(arena: _Arena) -> Iterator[Finding]:
    with arena.sandbox("", "timeout: 4s\npids: 64\n") as sandbox:
        first, second = (_output(sandbox.invoke("f0", {"attack": "leave"})) for _ in range(2))
        bad = [*second["found"]] + (["the user"] if first["uid"] == second["uid"] else [])
        bad += ["processes"] if second["processes"] > first["processes"] else []
        yield _finding(
            "neighbours", "nothing is left for the next", not bad, ", ".join(bad) or "none"
        )
        with ThreadPoolExecutor(1) as threads:
            hostile = threads.submit(sandbox.invoke, "f1", {"attack": "hurt"})
            honest = sandbox.invoke("f0", {"attack": "hello"})
            ended = hostile.result(_SECONDS)
        stopped = ended.error is not None
        held = stopped and honest.output == "hello"
        how = ended.error.code if ended.error is not None else "never stopped"
        yield _finding(
            "neighbours",
            "an honest function is served",
            held,
            f"the attacker beside it: {how}",
        )


_SECTIONS: Final[dict[Callable[[_Arena], Iterator[Finding]], tuple[tuple[str, str], ...]]] = {
    _surface: tuple(
        item for item in PROMISES
        if item[0] in ("escape surface", "file system")
        or item[1] in ("no core dumps", "size of a file", "no interface")
    ),
    _limits: tuple(item for item in PROMISES if item[1].endswith(" limit")),
    _floods: (("limits", "size of output"), ("limits", "size of logs")),
    _network: (
        ("network", "the host is not reached"), ("network", "denied names are reported"),
    ),
    _egress: (
        ("network", "only what is allowed is reached"),
        ("network", "private addresses are refused"),
    ),
    _secrets: tuple(item for item in PROMISES if item[0] == "secrets"),
    _neighbours: tuple(item for item in PROMISES if item[0] == "neighbours"),
}  # fmt: skip
