"""Unix sockets in a directory of the user's own: found, checked, and reached at any path length.

A socket's address holds 107 bytes. So a socket is reached through the open directory that it is
in, which also means that the directory that was checked is the one that is used.
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
    """The directory, open; it is this user's, and nobody else gets in.

    Raises:
        OSError: it is not there, is a link, or is not private.
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
    """A path to `name` in an open directory that is always short enough."""
    return f"/proc/self/fd/{directory}/{name}"


def peer_is_us(connection: socket.socket) -> bool:
    """Whether the process at the other end is this user's."""
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", credentials)
    return bool(uid == os.geteuid())
