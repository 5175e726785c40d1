"""Which files of a directory change: told by the kernel, or found by looking again and again.

Both give batches: the paths that changed together, an empty set twice a second while nothing
does, and None once the directory is another one, or gone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import watchfiles

from sandbox.store.tree import is_left_out

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

# Changes belong together until nothing has changed for 50 ms, or for 5 s at most: all that a
# checkout writes is one batch.
_QUIET_MS: Final = 50
_BURST_MS: Final = 5_000
# How often a directory's identity is asked for, and files are looked at where that is needed.
LOOK_SECONDS: Final = 0.5


class NotificationsError(Exception):
    """The kernel cannot tell of changes. `hint` says how it could; `vanished` that files went."""

    def __init__(self, reason: str, *, hint: str, vanished: bool) -> None:
        super().__init__(reason)
        self.hint = hint
        self.vanished = vanished


@dataclass(frozen=True)
class Root:
    """The directory that a path leads to now, all links resolved."""

    path: Path
    device: int
    inode: int


def find_root(directory: Path) -> Root | None:
    """What `directory` is now; None if it is no directory, or not there."""
    try:
        path = directory.resolve(strict=True)
        status = path.stat()
    except (OSError, RuntimeError):  # RuntimeError: a loop of links
        return None
    return Root(path, status.st_dev, status.st_ino) if path.is_dir() else None


def notified(root: Root, directory: Path, stop: threading.Event) -> Iterator[set[Path] | None]:
    """Batches by the kernel's notifications.

    Raises:
        NotificationsError: there are none to be had, or no more.
    """
    try:
        # Not with `ignore_permission_denied`: it ignores that a limit was reached, too.
        for changes in watchfiles.watch(
            root.path,
            watch_filter=None,
            debounce=_BURST_MS,
            step=_QUIET_MS,
            stop_event=stop,
            rust_timeout=round(LOOK_SECONDS * 1000),
            yield_on_timeout=True,
            force_polling=False,
        ):
            # The watch goes with a directory, even where another takes its place at once.
            ended = (watchfiles.Change.deleted, str(root.path)) in changes
            if ended or find_root(directory) != root:
                yield None
                return
            yield {Path(path) for _, path in changes}
    except (OSError, RuntimeError) as error:  # watchfiles' own error is a RuntimeError
        # Its words end with a path and a value of Rust's, which are left out.
        reason = str(error).partition(" about [")[0].rstrip(".")
        raise NotificationsError(
            reason, hint=_mend(error), vanished=isinstance(error, FileNotFoundError)
        ) from error


def polled(root: Root, directory: Path, stop: threading.Event) -> Iterator[set[Path] | None]:
    """Batches by looking at every file's time and size, twice a second.

    Not watchfiles' polling: it compares whole seconds, and misses the second of two quick edits.
    """
    before = _stamps(root.path)
    yield set()
    while not stop.wait(LOOK_SECONDS):
        if find_root(directory) != root:
            yield None
            return
        after = _stamps(root.path)
        yield {Path(path) for path, _ in before.items() ^ after.items()}
        before = after


def _stamps(root: Path) -> dict[str, tuple[int, ...]]:
    """What tells of a change, by path: of every file and directory that a bundle may hold."""
    stamps: dict[str, tuple[int, ...]] = {}
    for above, directories, files in os.walk(root):
        directories[:] = [name for name in directories if not is_left_out(name)]
        for name in (*directories, *files):
            path = f"{above}/{name}"
            try:
                status = os.lstat(path)
            except OSError:  # gone meanwhile
                continue
            stamps[path] = (status.st_ino, status.st_mode, status.st_size, status.st_ctime_ns)
    return stamps


def _mend(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "make all of the directory readable: chmod -R u+rX"
    return (
        "raise the kernel's limits: sysctl -w fs.inotify.max_user_watches=524288 "
        "fs.inotify.max_user_instances=1024"
    )
