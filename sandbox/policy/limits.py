"""Decides the limits of a function: the manifest's wishes, up to the operator's ceilings. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sandbox.config.destinations import NetworkPolicy
from sandbox.errors import PolicyRefusedError
from sandbox.policy.network import network_policy
from sandbox.units import MIB, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.config.settings import Settings
    from sandbox.engine.base import RuntimeClass
    from sandbox.functions.function import Function

# With less, no runtime boots and the engine refuses. A mistyped "1mb" gets this much.
SMALLEST_MEMORY: Final = 16 * MIB
# `/dev/shm` is as large as `/tmp`, up to the default of engines.
LARGEST_SHM: Final = 64 * MIB


@dataclass(frozen=True)
class Note:
    """A wish of a manifest that the operator's settings changed."""

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
        return min(self.tmp, LARGEST_SHM)


def effective_policy(function: Function, settings: Settings) -> Policy:
    """The limits of a function: its wishes, up to the operator's ceilings.

    Raises:
        PolicyRefusedError: a wish that cannot be clamped is not allowed.
    """
    manifest = function.manifest
    if function.runtime not in settings.runtimes:
        raise PolicyRefusedError(
            f"{function.where('runtime')}: the runtime {function.runtime} is not allowed here",
            hint=f"the operator's settings allow {', '.join(settings.runtimes) or 'none'}",
        )
    network = network_policy(function, settings)
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
        # /tmp counts against memory, so more than the memory could never be used.
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
    """The function's runtime class: its wish, unless that is weaker than `least`.

    gVisor is a stronger kind of boundary than runc and crun, which are equally strong.
    """
    asked = function.manifest.runtime_class
    if asked is None or asked == least:
        return least, []
    if asked == "gvisor" or least == "auto":
        return asked, []
    where = function.where("runtime_class")
    message = f"{asked} is not what the operator demands; {least} is used (engine.runtime_class)"
    return least, [Note("runtime_class", where, message)]


def choose_runtime_class(wanted: str, available: tuple[RuntimeClass, ...]) -> RuntimeClass:
    """The OCI runtime to use. `auto` is crun if the engine has it, else runc.

    Raises:
        PolicyRefusedError: the engine lacks the demanded one. Another one never replaces it,
        because
            nobody would notice a weaker boundary.
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
