"""What a function gets: its manifest's wishes under the operator's settings, as a container spec.

Pure. This page is the entire hardening posture; `sandbox.seccomp` holds the system call filter,
and the engine only translates what stands here.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from sandbox.engine.base import ContainerSpec, Mount, RuntimeClass
from sandbox.errors import PolicyRefusedError
from sandbox.gateway.allocation import Attachment
from sandbox.gateway.destinations import Callback, Destination, NetworkPolicy, covered
from sandbox.protocol.report import NONCE_VARIABLE
from sandbox.runtimes import FUNCTION_DIR, INIT, RUNTIMES
from sandbox.seccomp import profile
from sandbox.units import MIB, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from sandbox.function import Function
    from sandbox.settings import Settings

# A user and group of its own for every container, so that limits the kernel counts per user
# are never shared. No account has these ids: the range lies above the 31-bit half that systemd
# gives to containers (systemd's UIDS-GIDS page: 1879048192…2147483647 is unused).
FIRST_UID: Final = 0x7000_0000
UID_COUNT: Final = 0x0FFF_FFFF

# Below this no runtime boots, and the engine refuses; it is what a mistyped "1mb" gets.
SMALLEST_MEMORY: Final = 16 * MIB
# gVisor's own threads count too. With 64 of them it sometimes crashes, with 40 at its start, and
# with 32 it hangs there, so that the engine can't even remove the container.
SMALLEST_PIDS_UNDER_GVISOR: Final = 128

# `/dev/shm` is as large as `/tmp`, up to this: what an engine gives by default.
LARGEST_SHM: Final = 64 * MIB

# Each is a socket that the gateway holds open for as long as the container lives.
MOST_DESTINATIONS: Final = 64

# Docker's own lists, and on top: interrupt counts and thermal and power readings (side channels),
# and what tells one host from another.
MASKED_PATHS: Final = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
    "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
    "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
    "/sys/devices/system/cpu/vulnerabilities",
)  # fmt: skip
# Docker's list, and on top what crun leaves writable under cgroup version 1: init reads there how
# much a function used, and whether its memory ran out.
READ_ONLY_PATHS: Final = (
    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys/fs/cgroup",
)  # fmt: skip


@dataclass(frozen=True)
class Note:
    """Where the operator's settings changed what a manifest asked for."""

    field: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.field}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The limits in force for one function. Seconds, bytes, cores.

    `warm` containers are kept booted, and one may serve `reuse` invocations. `runtime_class` is
    a name or `auto`, see `choose_runtime_class`.
    """

    timeout: float
    memory: int
    cpu: float
    pids: int
    tmp: int
    open_files: int
    file_size: int
    warm: int = 0
    reuse: int = 1
    runtime_class: str = "auto"
    network: NetworkPolicy = field(default_factory=NetworkPolicy)
    notes: tuple[Note, ...] = ()

    @property
    def shm(self) -> int:
        """Size of `/dev/shm`."""
        return min(self.tmp, LARGEST_SHM)


def effective_policy(function: Function, settings: Settings) -> Policy:
    """The function's limits: what it asks for, up to the operator's ceilings.

    Raises:
        PolicyRefusedError: it asks for what cannot be clamped, only refused.
    """
    manifest = function.manifest
    if function.runtime not in settings.runtimes:
        raise PolicyRefusedError(
            f"{function.where('runtime')}: the runtime {function.runtime} is not allowed here",
            hint=f"the operator's settings allow {', '.join(settings.runtimes) or 'none'}",
        )
    network = _network(function, settings)
    notes: list[Note] = []

    def capped(name: str, asked: Any, ceiling: Any, show: Callable[[Any], str], by: str) -> Any:
        if asked <= ceiling:
            return asked
        notes.append(
            Note(
                name,
                function.where(name),
                f"{show(asked)} is over the operator's ceiling; {show(ceiling)} is used ({by})",
            )
        )
        return ceiling

    def limit(name: str, show: Callable[[Any], str]) -> Any:
        asked = getattr(manifest, name)
        if asked is None:
            asked = getattr(settings.defaults, name)
        return capped(name, asked, getattr(settings.ceilings, name), show, f"ceilings.{name}")

    runtime_class, note = _runtime_class(function, settings.engine.runtime_class)
    notes += note
    warm = settings.pool.min_warm if manifest.warm is None else manifest.warm
    memory = max(limit("memory", format_size), SMALLEST_MEMORY)
    return Policy(
        timeout=limit("timeout", format_duration),
        memory=memory,
        cpu=limit("cpu", str),
        pids=limit("pids", str),
        # More of /tmp than memory could never be used: it counts against memory.
        tmp=min(limit("tmp", format_size), memory),
        open_files=settings.limits.open_files,
        file_size=settings.limits.file_size,
        warm=capped("warm", warm, settings.pool.max_warm, str, "pool.max_warm"),
        reuse=limit("reuse", str),
        runtime_class=runtime_class,
        network=network,
        notes=tuple(notes),
    )


def _runtime_class(function: Function, least: str) -> tuple[str, list[Note]]:
    """The function's runtime class: what it asks for, where that is no weaker than `least`.

    gVisor is a boundary of another kind than runc and crun, which do not differ in strength.
    """
    asked = function.manifest.runtime_class
    if asked is None or asked == least:
        return least, []
    if asked == "gvisor" or least == "auto":
        return asked, []
    where = function.where("runtime_class")
    message = f"{asked} is not what the operator demands; {least} is used (engine.runtime_class)"
    return least, [Note("runtime_class", where, message)]


def _network(function: Function, settings: Settings) -> NetworkPolicy:
    """What the function may reach: all that it asks for, or a refusal. Nothing is left out.

    Raises:
        PolicyRefusedError: the operator does not allow one of its destinations.
    """
    asked = () if function.manifest.network == "none" else function.manifest.network
    if len(asked) > MOST_DESTINATIONS:
        raise PolicyRefusedError(
            f"{function.where('network')}: {len(asked)} network destinations are too many",
            hint=f"there may be {MOST_DESTINATIONS}; a wildcard such as *.example.org:443 is one",
        )
    allow = [Destination.parse(text) for text in settings.network.allow]
    private = tuple(Destination.parse(text) for text in settings.network.allow_private)
    destinations = [Destination.parse(text) for text in asked]
    for index, destination in enumerate(destinations):
        refused = _refused(destination, allow=allow, private=private)
        if refused is not None:
            where = function.where("network", index)
            raise PolicyRefusedError(
                f"{where}: network: {destination} {refused.reason}", hint=refused.hint
            )
    callback = Callback.parse(settings.alyx_url) if settings.alyx_url else None
    return NetworkPolicy(
        destinations=tuple(dict.fromkeys(destinations)), private=private, callback=callback
    )


@dataclass(frozen=True)
class _Refused:
    reason: str
    hint: str


def _refused(
    destination: Destination, *, allow: Sequence[Destination], private: Sequence[Destination]
) -> _Refused | None:
    """Why the settings do not let anyone reach it, as far as that shows without a lookup."""
    mend = "the operator can add it to {} in the settings"
    if not covered(destination, allow):
        return _Refused("is not allowed here", mend.format("network.allow"))
    reason = destination.refusal(allow_private=covered(destination, private))
    if reason is None:
        return None
    if destination.refusal(allow_private=True) is not None:
        return _Refused(reason, "no setting allows it")
    return _Refused(reason, mend.format("network.allow_private"))


def function_spec(  # noqa: PLR0913
    function: Function,
    policy: Policy,
    *,
    image: str,
    bundle: Path,
    uid: int,
    runtime_class: RuntimeClass,
    labels: Mapping[str, str],
    nonce: str = "",
    announce: bool = False,
    env: Mapping[str, str] = MappingProxyType({}),
    network: Attachment = Attachment(),  # noqa: B008 - frozen
) -> ContainerSpec:
    """The container that serves `function`, whose files are in `bundle` on the engine's host.

    `nonce` marks what its init says, see `sandbox.protocol.report`; with `announce`, init tells
    when the function waits for its request. `env` is what its build says of where its
    dependencies are; `network` is what its gateway adds (see `sandbox.gateway.gateway`).
    """
    runtime = RUNTIMES[function.runtime]
    modes = {"--handler": function.interface == "handler", "--announce": announce}
    mode = tuple(name for name, wanted in modes.items() if wanted)
    command = runtime.command(function.entrypoint, function.interface)
    fewest_pids = SMALLEST_PIDS_UNDER_GVISOR if runtime_class == "gvisor" else 1
    return ContainerSpec(
        image=image,
        command=(INIT, *mode, *network.arguments, *command),
        working_dir=str(FUNCTION_DIR),
        env={**runtime.env, **env, **network.env, NONCE_VARIABLE: nonce},
        uid=uid,
        gid=uid,
        mounts=(Mount(source=bundle, target=str(FUNCTION_DIR)), *network.mounts),
        memory=policy.memory,
        cpu=policy.cpu,
        pids=max(policy.pids, fewest_pids),
        tmp=policy.tmp,
        shm=policy.shm,
        open_files=policy.open_files,
        file_size=policy.file_size,
        seccomp=profile(),
        masked_paths=MASKED_PATHS,
        read_only_paths=READ_ONLY_PATHS,
        runtime_class=runtime_class,
        labels=labels,
    )


def build_spec(  # noqa: PLR0913
    command: tuple[str, ...],
    settings: Settings,
    *,
    image: str,
    mounts: tuple[Mount, ...],
    env: Mapping[str, str],
    uid: int,
    runtime_class: RuntimeClass,
    labels: Mapping[str, str],
    scratch: tuple[str, ...] = (),
    network: Attachment = Attachment(),  # noqa: B008 - frozen
) -> ContainerSpec:
    """The container that compiles or builds what is at /src, or installs what it asks for.

    As hard as a function's, but for three things: limits of its own, a `/tmp` from which what
    was built there can run, and a network if the operator says so. `network` is what its gateway
    adds.
    """
    build = settings.build
    return ContainerSpec(
        image=image,
        command=(INIT, *network.arguments, *command),
        working_dir="/src",
        env={**env, **network.env},
        uid=uid,
        gid=uid,
        mounts=(*mounts, *network.mounts),
        memory=build.memory,
        cpu=build.cpu,
        pids=build.pids,
        tmp=min(build.tmp, build.memory),
        tmp_exec=True,
        scratch=scratch,
        shm=LARGEST_SHM,
        open_files=max(settings.limits.open_files, 4096),
        file_size=settings.limits.file_size,
        seccomp=profile(),
        masked_paths=MASKED_PATHS,
        read_only_paths=READ_ONLY_PATHS,
        runtime_class=runtime_class,
        network="bridge" if build.network == "bridge" else "none",
        labels=labels,
    )


def refuse_network(function: Function, network: NetworkPolicy) -> None:
    """Refuse a function that may reach something, where the engine is on another machine.

    Raises:
        PolicyRefusedError: what it may reach are sockets, which exist on one machine only.
    """
    if network.destinations:
        asked = f"{function.where('network')}: network: the function asks for destinations"
        other = "ask for `network: none`"
    elif network.callback is not None:
        asked = f"{function.name}: every function may reach `alyx_url`"
        other = "leave `alyx_url` out of the settings"
    else:
        return
    raise PolicyRefusedError(
        f"{asked}, and the engine is on another machine: what a function may reach is a socket "
        "of this machine, and cannot be mounted there",
        hint=f"run the server beside the engine (docs/remote.md), or {other}",
    )


def choose_runtime_class(wanted: str, available: tuple[RuntimeClass, ...]) -> RuntimeClass:
    """The OCI runtime to use: `auto` is crun where the engine has it, else runc.

    Raises:
        PolicyRefusedError: the engine lacks the one that the operator or the manifest demands.
            Never replaced by another: a weaker boundary than that would go unnoticed.
    """
    if wanted == "auto":
        return "crun" if "crun" in available else "runc"
    for runtime_class in available:
        if runtime_class == wanted:
            return runtime_class
    raise PolicyRefusedError(
        f"the runtime class {wanted} is demanded, and the engine does not have it",
        hint=f"install it and register it with the engine; it has {', '.join(available)}",
    )


def new_uid() -> int:
    """A user id for one container, at random: 2^28 ids make two at once all but impossible."""
    return FIRST_UID + secrets.randbelow(UID_COUNT)
