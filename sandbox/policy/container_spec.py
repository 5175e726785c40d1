"""Specifies the containers of functions and builds. Pure.

This module is the entire hardening, together with the system call filter in
`sandbox.policy.seccomp`. An engine only translates it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sandbox.engine.base import ContainerSpec, Mount, RuntimeClass
from sandbox.gateway.allocation import Attachment
from sandbox.policy.limits import LARGEST_SHM
from sandbox.policy.seccomp import profile
from sandbox.protocol.report import NONCE_VARIABLE
from sandbox.runtimes import FUNCTION_DIR, INIT, RUNTIMES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sandbox.config.settings import Settings
    from sandbox.functions.function import Function
    from sandbox.policy.limits import Policy

# Every container has a user and group of its own, because the kernel counts some limits per user.
# No account has these ids: the range is above the ids that systemd gives to containers (systemd's
# UIDS-GIDS page: 1879048192…2147483647 is unused).
FIRST_UID: Final = 0x7000_0000
UID_COUNT: Final = 0x0FFF_FFFF

# gVisor's own threads count too. With a limit of 64 it sometimes crashes, with 40 it crashes at its
# start, and with 32 it hangs there, so that the engine can't even remove the container.
SMALLEST_PIDS_UNDER_GVISOR: Final = 128

# Docker's lists, and more: interrupt counts, thermal and power readings (side channels), and files
# that identify the host.
MASKED_PATHS: Final = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
    "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
    "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
    "/sys/devices/system/cpu/vulnerabilities",
)  # fmt: skip
# Docker's list, and files that crun leaves writable under cgroup version 1: init reads there how
# much a function used, and whether its memory ran out.
READ_ONLY_PATHS: Final = (
    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys/fs/cgroup",
)  # fmt: skip


def new_uid() -> int:
    """A random user id for one container; two equal ones at once are all but impossible."""
    return FIRST_UID + secrets.randbelow(UID_COUNT)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The particulars of one container, beside the code that it runs.

    `env` says where a build put the dependencies. `network` is the gateway's part (see
    `sandbox.gateway.gateway`). `nonce` marks the reports of init (see `sandbox.protocol.report`).
    """

    image: str
    runtime_class: RuntimeClass
    labels: Mapping[str, str]
    env: Mapping[str, str] = field(default_factory=dict)
    network: Attachment = Attachment()  # noqa: RUF009 - frozen
    uid: int = field(default_factory=new_uid)
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))


def function_spec(
    function: Function, policy: Policy, launch: Launch, *, bundle: Path
) -> ContainerSpec:
    """The container that serves `function`, whose files are in `bundle` on the engine's host.

    Init reports when a stdio function waits for its request. A handler's bootstrap does so itself.
    """
    runtime = RUNTIMES[function.runtime]
    mode = "--handler" if function.interface == "handler" else "--announce"
    command = runtime.command(function.entrypoint, function.interface)
    fewest_pids = SMALLEST_PIDS_UNDER_GVISOR if launch.runtime_class == "gvisor" else 1
    return ContainerSpec(
        image=launch.image,
        command=(INIT, mode, *launch.network.arguments, *command),
        working_dir=str(FUNCTION_DIR),
        env={**runtime.env, **_environment(launch)},
        uid=launch.uid,
        gid=launch.uid,
        mounts=(Mount(source=bundle, target=str(FUNCTION_DIR)), *launch.network.mounts),
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
        runtime_class=launch.runtime_class,
        labels=launch.labels,
    )


def build_spec(
    command: tuple[str, ...],
    settings: Settings,
    launch: Launch,
    *,
    mounts: tuple[Mount, ...],
    scratch: tuple[str, ...] = (),
) -> ContainerSpec:
    """The container that builds the code at /src, or installs its dependencies.

    It is as hard as a function's container, except for its limits, an executable `/tmp`, and a
    network if the operator allows one.
    """
    build = settings.build
    return ContainerSpec(
        image=launch.image,
        command=(INIT, *launch.network.arguments, *command),
        working_dir="/src",
        env=_environment(launch),
        uid=launch.uid,
        gid=launch.uid,
        mounts=(*mounts, *launch.network.mounts),
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
        runtime_class=launch.runtime_class,
        network="bridge" if build.network == "bridge" else "none",
        labels=launch.labels,
    )


def _environment(launch: Launch) -> dict[str, str]:
    return {**launch.env, **launch.network.env, NONCE_VARIABLE: launch.nonce}
