"""Unix sockets in a directory that only this user can enter, at paths of any length.

The address of a Unix socket holds 107 bytes. So a socket is named through its open directory. That
way, the directory that was checked is also the one that is used.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def private_directory(path: Path) -> Iterator[int]:
    """The directory, open; only this user can enter it.

    Raises:
        OSError: it does not exist, is a link, or is not private.
    """
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise PermissionError(f"{path} is not private to this user")
        yield descriptor
    finally:
        os.close(descriptor)


def inside(directory: int, name: str) -> str:
    """A path to `name` in an open directory, always short enough for a socket."""
    return f"/proc/self/fd/{directory}/{name}"


def peer_is_us(connection: socket.socket) -> bool:
    """Whether the process at the other end is this user's."""
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", credentials)
    return bool(uid == os.geteuid())
