"""The checks of `sandbox doctor`: each with what it saw, and a hint if it fails."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandbox.containers.reaper import orphans
from sandbox.doctor.limit_checks import Check, Status, failed, try_containers
from sandbox.doctor.version_checks import check_versions
from sandbox.errors import SandboxError
from sandbox.images import catalog
from sandbox.policy.limits import choose_runtime_class
from sandbox.runtimes import RUNTIMES, Runtime
from sandbox.units import MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.config.settings import Settings
    from sandbox.engine.base import Engine, EngineInfo, RuntimeClass

__all__ = ["Check", "examine"]

_LITTLE_DISK: Final = 2048 * MIB
_NO_DISK: Final = 256 * MIB


def examine(engine: Engine, settings: Settings) -> Iterator[Check]:
    """Yield all checks, each when it is done; takes some seconds, because it starts containers."""
    try:
        info = engine.info()
    except SandboxError as error:
        yield failed("engine", error)
        return
    yield _engine(info)
    try:
        runtime_class = choose_runtime_class(settings.engine.runtime_class, info.runtime_classes)
    except SandboxError as error:
        yield failed("runtime class", error)
        return
    yield _runtime_class(info, runtime_class)
    yield from check_versions(info, runtime_class)
    store = settings.store_directory
    yield from _disks(info, store)
    yield from _images(engine, settings)
    yield _orphans(engine, store)
    yield from try_containers(engine, settings, runtime_class)


def _engine(info: EngineInfo) -> Check:
    seen = (
        f"{info.name} {info.version}, API {info.api_version}, cgroup version "
        f"{info.cgroup_version}, storage {info.storage}, {info.architecture}"
    )
    if info.storage == "vfs":
        return Check(
            name="engine",
            status="warn",
            seen=seen,
            hint="the storage driver vfs copies the image for every container, which is slow and "
            "fills the disk; let the engine use overlay2",
        )
    return Check(name="engine", status="ok", seen=seen)


def _runtime_class(info: EngineInfo, chosen: RuntimeClass) -> Check:
    seen = f"{chosen} (the engine has {', '.join(info.runtime_classes)})"
    if chosen == "runc" and "crun" not in info.runtime_classes:
        seen += "; crun would start containers faster"
    return Check(name="runtime class", status="ok", seen=seen)


def _disks(info: EngineInfo, store: Path) -> Iterator[Check]:
    places = {"disk: store": _existing(store), "disk: engine": Path(info.root_dir or "/")}
    for name, path in places.items():
        try:
            free = shutil.disk_usage(path).free
        except OSError:  # the engine's directory is on another machine, or not readable
            continue
        status: Status = "ok" if free > _LITTLE_DISK else "warn" if free > _NO_DISK else "fail"
        hint = "" if status == "ok" else f"make room at {path}: see `docker system df`"
        yield Check(name=name, status=status, seen=f"{format_size(free)} free, {path}", hint=hint)


def _existing(path: Path) -> Path:
    """The path itself, or the nearest directory above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _images(engine: Engine, settings: Settings) -> Iterator[Check]:
    own = [runtime for runtime in settings.runtimes if runtime not in settings.images.override]
    wanted = {RUNTIMES[runtime].image for runtime in own}
    if Runtime.GO in settings.runtimes:
        wanted.add("go")  # it compiles what the image `binary` runs
    for status in catalog.status(engine):
        if status.name not in wanted:
            continue
        ready = status.state == "ready"
        yield Check(
            name=f"image: {status.name}",
            status="ok" if ready else "warn",
            seen=f"{status.state}, version {status.version}" if status.version else status.state,
            hint="" if ready else f"sandbox images build {status.name}",
        )


def _orphans(engine: Engine, store: Path) -> Check:
    count = len(orphans(engine, store))
    if count == 0:
        return Check(name="orphans", status="ok", seen="no containers were left behind")
    return Check(
        name="orphans",
        status="warn",
        seen=f"killed processes left {count} behind",
        hint="the next invocation removes them",
    )
