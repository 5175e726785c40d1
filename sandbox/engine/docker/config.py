"""A container spec in the form of the engine's API; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sandbox.engine.base import VolumeMount
from sandbox.runtimes import TMP_DIR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.engine.base import ContainerSpec, Mount, RuntimeClass

# The engine's own names for the OCI runtimes.
RUNTIME_NAMES: Final[Mapping[RuntimeClass, str]] = {
    "runc": "runc",
    "crun": "crun",
    "gvisor": "runsc",
}


def create_config(spec: ContainerSpec) -> dict[str, Any]:
    """The body of the engine's `POST /containers/create` for `spec`; pure."""
    tmp_options = ["rw", "nosuid", "nodev", f"size={spec.tmp}", "mode=1777", "nr_inodes=65536"]
    return {
        "Image": spec.image,
        "Entrypoint": [],
        "Cmd": list(spec.command),
        "Env": [f"{name}={value}" for name, value in spec.env.items()],
        "WorkingDir": spec.working_dir,
        "User": f"{spec.uid}:{spec.gid}",
        "Hostname": "sandbox",
        "Labels": dict(spec.labels),
        "Healthcheck": {"Test": ["NONE"]},
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "Tty": False,
        "NetworkDisabled": spec.network == "none",
        "HostConfig": {
            "Runtime": RUNTIME_NAMES[spec.runtime_class],
            "NetworkMode": spec.network,
            "ReadonlyRootfs": True,
            "Privileged": False,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true", f"seccomp={spec.seccomp}"],
            "MaskedPaths": list(spec.masked_paths),
            "ReadonlyPaths": list(spec.read_only_paths),
            "Mounts": [_mount(mount) for mount in spec.mounts],
            "Tmpfs": {
                TMP_DIR: ",".join([*tmp_options, "exec" if spec.tmp_exec else "noexec"]),
                **dict.fromkeys(spec.scratch, ",".join([*tmp_options, "noexec"])),
            },
            "ShmSize": spec.shm,
            "Memory": spec.memory,
            # Memory and swap together: equal means no swap.
            "MemorySwap": spec.memory,
            "NanoCpus": round(spec.cpu * 1e9),
            "PidsLimit": spec.pids,
            "Ulimits": [
                # Not 0: where core_pattern is a pipe, the kernel would still start the host's
                # program, as root, and hand it the function's memory. It does not at 1 (core(5)).
                {"Name": "core", "Soft": 1, "Hard": 1},
                {"Name": "nofile", "Soft": spec.open_files, "Hard": spec.open_files},
                {"Name": "fsize", "Soft": spec.file_size, "Hard": spec.file_size},
            ],
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "LogConfig": {"Type": "none"},
            "RestartPolicy": {"Name": "no"},
            "AutoRemove": False,
        },
    }


def fill_config(
    image: str, volume: str, *, target: str, labels: Mapping[str, str]
) -> dict[str, Any]:
    """The body of `POST /containers/create` for a container that only lets a volume be filled.

    It is never started; pure.
    """
    return {
        "Image": image,
        "Entrypoint": [],
        "Cmd": ["/"],
        "Labels": dict(labels),
        "NetworkDisabled": True,
        "HostConfig": {
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "Mounts": [
                {
                    "Type": "volume",
                    "Source": volume,
                    "Target": target,
                    "VolumeOptions": {"NoCopy": True},
                }
            ],
            "LogConfig": {"Type": "none"},
        },
    }


def _mount(mount: Mount | VolumeMount) -> dict[str, Any]:
    if isinstance(mount, VolumeMount) and mount.file is None:
        return {
            "Type": "volume",
            "Source": mount.volume,
            "Target": mount.target,
            "ReadOnly": True,
            # Without the image's own files at that place.
            "VolumeOptions": {"NoCopy": True},
        }
    # Docker refuses a private mount of its own files. A file has nothing to propagate.
    own = isinstance(mount, VolumeMount)
    return {
        "Type": "bind",
        "Source": str(mount.file if isinstance(mount, VolumeMount) else mount.source),
        "Target": mount.target,
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rslave" if own else "rprivate"},
    }
