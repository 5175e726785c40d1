"""Which files of a directory change: reported by the kernel, or found by polling.

Both yield the set of paths that changed together; an empty set twice a second while nothing
changes; and None when the directory is gone or replaced.
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

# A batch ends when nothing has changed for 50 ms, or after 5 s: a checkout is one batch.
_QUIET_MS: Final = 50
_BURST_MS: Final = 5_000
# Time between two looks at the directory itself, and at all files when polling.
LOOK_SECONDS: Final = 0.5


class NotificationsError(Exception):
    """The kernel does not report changes. `vanished`: because a file or directory disappeared."""

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
    """The directory that this path leads to; None if there is none."""
    try:
        path = directory.resolve(strict=True)
        status = path.stat()
    except (OSError, RuntimeError):  # RuntimeError: a loop of links
        return None
    return Root(path, status.st_dev, status.st_ino) if path.is_dir() else None


def notified(root: Root, directory: Path, stop: threading.Event) -> Iterator[set[Path] | None]:
    """Batches from the kernel's notifications.

    Raises:
        NotificationsError: the kernel sends none, or no more.
    """
    try:
        # Without `ignore_permission_denied`: that also hides that a limit of the kernel is reached.
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
            # The watch ends with its directory, even if another takes the same path at once.
            ended = (watchfiles.Change.deleted, str(root.path)) in changes
            if ended or find_root(directory) != root:
                yield None
                return
            yield {Path(path) for _, path in changes}
    except (OSError, RuntimeError) as error:  # watchfiles' own error is a RuntimeError
        # The message ends with a path and the text of a Rust value: leave them out.
        reason = str(error).partition(" about [")[0].rstrip(".")
        raise NotificationsError(
            reason, hint=_hint(error), vanished=isinstance(error, FileNotFoundError)
        ) from error


def polled(root: Root, directory: Path, stop: threading.Event) -> Iterator[set[Path] | None]:
    """Batches from the time and size of every file, read twice a second.

    watchfiles' own polling compares whole seconds, and so misses the second of two quick edits.
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
    """By path, numbers that change with a file: for all files and directories of bundles."""
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


def _hint(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "make all of the directory readable: chmod -R u+rX"
    return (
        "raise the kernel's limits: sysctl -w fs.inotify.max_user_watches=524288 "
        "fs.inotify.max_user_instances=1024"
    )
