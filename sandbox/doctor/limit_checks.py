"""Checks that limits work: `sandbox.doctor.limit_probe` tries to exceed them.

The probe runs as a function, in a container exactly like every function's, and must be stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from sandbox.config.settings import Ceilings, ResourceLimits
from sandbox.doctor import limit_probe
from sandbox.errors import Code, SandboxError
from sandbox.functions.discovery import function_from_path
from sandbox.policy.container_spec import FIRST_UID
from sandbox.runtimes import Runtime
from sandbox.sandbox import Sandbox
from sandbox.units import format_size

if TYPE_CHECKING:
    from sandbox.config.settings import Settings
    from sandbox.engine.base import Engine, RuntimeClass
    from sandbox.models import FunctionResponse

Status = Literal["ok", "warn", "fail"]
Invoke = Callable[..., "FunctionResponse"]

# The limits of the probe, which tries to take several times as much: small, to be quick.
_GIVEN: Final = ResourceLimits.model_validate(
    {"timeout": "20s", "memory": "64mb", "cpu": 0.5, "pids": 64, "tmp": "8mb"}
)
_TIME_LIMIT: Final = 1.5
_CGROUP_HINT: Final = (
    "the engine needs the cgroup controllers memory, pids and cpu: mount cgroup version 2 (systemd "
    "does), or install Debian's cgroupfs-mount; then start the engine again"
)
_ENGINE_HINT: Final = (
    "something between here and the engine changes containers: look at the engine's "
    "configuration, and whether DOCKER_HOST leads to a proxy"
)
_STORE_HINT: Final = (
    "the store (`store` in the settings) must be on a file system that the engine sees under the "
    "same path; an engine on another machine does not"
)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check: what was seen, and a hint unless it is `ok`."""

    name: str
    status: Status
    seen: str
    hint: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def failed(name: str, error: SandboxError) -> Check:
    """A check that failed with an error."""
    return Check(name=name, status="fail", seen=error.message, hint=error.hint or "")


def judged(name: str, ok: bool, seen: str, *, hint: str) -> Check:
    """A check that is ok or fails."""
    return Check(name=name, status="ok" if ok else "fail", seen=seen, hint="" if ok else hint)


def try_containers(
    engine: Engine, settings: Settings, runtime_class: RuntimeClass
) -> Iterator[Check]:
    """Check that a container runs, what it may do, and that every limit works."""
    with _probing(engine, settings) as invoke:
        try:
            response = invoke("posture")
        except SandboxError as error:
            yield failed("containers", error)
            return
        if response.error is not None:
            reason = response.error.details.get("reason", "")
            yield Check(
                name="containers",
                status="fail",
                seen=f"{response.error.code}: {response.error.message} {reason}".rstrip(),
                hint=_STORE_HINT,
            )
            return
        seen = f"one answered in {response.duration_ms:.0f} ms"
        yield Check(name="containers", status="ok", seen=seen)
        yield from _posture(response.output, runtime_class)
        # gVisor's kernel also counts the time for which the host throttled it.
        uneven = {"CPU limit"} if runtime_class == "gvisor" else set()
        yield from _tried(invoke, [name for name in _LIMITS if name not in uneven])


def try_limits(engine: Engine, settings: Settings, names: Iterable[str]) -> Iterator[Check]:
    """Check the limits of these names, with one container for each."""
    with _probing(engine, settings) as invoke:
        yield from _tried(invoke, names)


@contextlib.contextmanager
def _probing(engine: Engine, settings: Settings) -> Iterator[Invoke]:
    """A callable that invokes the probe with the name of what it tries."""
    function, _ = function_from_path(Path(limit_probe.__file__))
    assert function is not None  # noqa: S101 - it is ours
    limits = settings.model_copy(
        update={
            "runtimes": tuple(Runtime),
            "defaults": _GIVEN,
            "ceilings": Ceilings(),
            "secrets_file": None,
        }
    )
    with Sandbox(function.source, settings=limits, engine=engine) as sandbox:

        def invoke(probe: str, *, timeout: float | None = None) -> FunctionResponse:
            return sandbox.invoke(function, {"probe": probe}, timeout=timeout)

        yield invoke


def _tried(invoke: Invoke, names: Iterable[str]) -> Iterator[Check]:
    for name in names:
        try:
            yield _LIMITS[name](name, invoke)
        except SandboxError as error:
            yield failed(name, error)


def _posture(seen: dict[str, Any], runtime_class: RuntimeClass) -> Iterator[Check]:
    """Check what the kernel says of the probe's process."""
    extra = [group for group in seen["groups"] if group != seen["gid"]]
    identity = f"uid {seen['uid']}, gid {seen['gid']}" + (f", groups {extra}" if extra else "")
    lowest = min(seen["uid"], seen["gid"])
    yield judged("user", lowest >= FIRST_UID and not extra, identity, hint=_ENGINE_HINT)

    held = [name for name, bits in seen["capabilities"].items() if bits]
    yield judged("capabilities", not held, ", ".join(held) or "none", hint=_ENGINE_HINT)

    if runtime_class == "gvisor":
        # It shows neither seccomp nor no_new_privs: its functions cannot reach the host's kernel.
        yield Check(name="system calls", status="ok", seen="served by gVisor's own kernel")
    else:
        locked = seen["no_new_privs"] == "1"
        yield judged("no_new_privs", locked, "on" if locked else "off", hint=_ENGINE_HINT)
        filtered = seen["seccomp"] == "2"
        how = "filtered by seccomp" if filtered else "not filtered"
        yield judged("system calls", filtered, how, hint=_ENGINE_HINT)

    interfaces = ", ".join(seen["interfaces"]) or "none"
    alone = set(seen["interfaces"]) <= {"lo"}
    yield judged("network", alone, f"interfaces: {interfaces}", hint=_ENGINE_HINT)

    writable = [] if seen["root_read_only"] else ["/"]
    writable += [path for path in seen["writable"] if path not in writable]
    state = f"writable: {', '.join(writable)}" if writable else "read-only"
    yield judged("root file system", not writable, state, hint=_ENGINE_HINT)


def _memory(name: str, invoke: Invoke) -> Check:
    response = invoke("memory")
    if response.error is not None and response.error.code == Code.OUT_OF_MEMORY:
        seen = f"the probe was killed at {format_size(_GIVEN.memory)}"
        return Check(name=name, status="ok", seen=seen)
    return _unstopped(name, response, "bytes")


def _processes(name: str, invoke: Invoke) -> Check:
    response = invoke("processes")
    got = response.output or {"refused": False}
    if got["refused"] and 0 < got["started"] < _GIVEN.pids:
        seen = f"refused after {got['started']}; the limit is {_GIVEN.pids}, threads included"
        return Check(name=name, status="ok", seen=seen)
    code = response.error.code if response.error is not None else ""
    stopped = code in (Code.FUNCTION_CRASHED, Code.OUT_OF_MEMORY)
    if stopped and response.stats.runtime_class == "gvisor":
        # The limits apply to gVisor, too: it ends when it gets no more threads, or no more memory
        # for its records of so many processes.
        return Check(name=name, status="ok", seen=f"gVisor ended at its limits: {code}")
    return _unstopped(name, response, "started")


def _files(name: str, invoke: Invoke) -> Check:
    response = invoke("files")
    got = response.output or {"refused": False}
    if got["refused"] and 0 < got["bytes"] <= _GIVEN.tmp:
        return Check(name=name, status="ok", seen=f"full at {format_size(got['bytes'])}")
    return _unstopped(name, response, "bytes")


def _cpu(name: str, invoke: Invoke) -> Check:
    response = invoke("cpu")
    got = response.output or {"cores": None}
    # The kernel hands out the quota in tenths of a second, so a short run gets a little more.
    if got["cores"] is not None and 0 < got["cores"] < _GIVEN.cpu + 0.3:
        seen = f"a busy loop got {got['cores']:.2f} of a core; the limit is {_GIVEN.cpu}"
        return Check(name=name, status="ok", seen=seen)
    return _unstopped(name, response, "cores")


def _time(name: str, invoke: Invoke) -> Check:
    response = invoke("forever", timeout=_TIME_LIMIT)
    if response.error is not None and response.error.code == Code.TIMEOUT:
        seconds = response.duration_ms / 1000
        seen = f"killed after {seconds:.2f}s; the limit is {_TIME_LIMIT}s"
        return Check(name=name, status="ok", seen=seen)
    return _unstopped(name, response, "")


_LIMITS: Final = {
    "memory limit": _memory,
    "process limit": _processes,
    "file limit": _files,
    "CPU limit": _cpu,
    "time limit": _time,
}


def _unstopped(name: str, response: FunctionResponse, amount: str) -> Check:
    """The failed check of a limit that did not work, or of a probe that failed itself."""
    if response.error is not None:
        seen = f"the probe failed: {response.error.code}: {response.error.message}"
    else:
        seen = f"the probe was not stopped: {amount} {(response.output or {}).get(amount, '')}"
    return Check(name=name, status="fail", seen=seen.rstrip(), hint=_CGROUP_HINT)
