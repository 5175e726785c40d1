"""Hot reload: looks at the functions' directory again whenever its files change.

`Watcher.events` yields what a reload changed. What that is, and which changes matter, are pure
functions, `diff` and `concerns`; which files change is told by `sandbox.deploy.file_changes`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

from sandbox.deploy.file_changes import (
    LOOK_SECONDS,
    NotificationsError,
    find_root,
    notified,
    polled,
)
from sandbox.deploy.globs import matches
from sandbox.deploy.validation import source_digest
from sandbox.errors import InvalidManifestError
from sandbox.functions.dependencies import READ_BY_INSTALLERS
from sandbox.store.tree import is_left_out

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sandbox.config.settings import Settings
    from sandbox.deploy.file_changes import Root
    from sandbox.documents.problems import Problem
    from sandbox.functions.function import Function

# A directory that comes and goes while its watch is set up is tried again before polling.
_ATTEMPTS: Final = 3


class Reloadable(Protocol):
    """What is reloaded: `sandbox.Sandbox`, as far as it matters here."""

    settings: Settings

    @property
    def functions(self) -> Mapping[str, Function]:
        """The functions by name."""

    @property
    def problems(self) -> Sequence[Problem]:
        """What is wrong with the directory."""

    def reload(self) -> None:
        """Look at the directory again."""


@dataclass(frozen=True)
class Version:
    """What decides how a function runs: its definition, and its files by their digest.

    `digest` is None where they cannot be made a bundle.
    """

    function: Function
    digest: str | None


@dataclass(frozen=True, kw_only=True)
class Served:
    """What one look at the directory found: versions by function, and problems."""

    versions: Mapping[str, Version] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reloaded:
    """A reload, and what it changed; false if nothing.

    `seconds` is the time from the change seen to its being served.
    `problems` are those that appeared and `mended` those that vanished; one that only moved to
    another line is neither.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    mended: tuple[Problem, ...] = ()
    state: Served = field(default_factory=Served, repr=False)
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return any((self.added, self.changed, self.removed, self.problems, self.mended))


@dataclass(frozen=True, kw_only=True)
class Polling:
    """Notifications cannot be had, for this reason; from here on files are polled."""

    reason: str
    hint: str


def diff(before: Served, after: Served) -> Reloaded:
    """What is different in `after`."""
    old, new = before.versions, after.versions
    old_problems = {_key(item): item for item in before.problems}
    new_problems = {_key(item): item for item in after.problems}
    return Reloaded(
        added=tuple(sorted(new.keys() - old.keys())),
        changed=tuple(sorted(name for name in new.keys() & old.keys() if new[name] != old[name])),
        removed=tuple(sorted(old.keys() - new.keys())),
        problems=tuple(item for key, item in new_problems.items() if key not in old_problems),
        mended=tuple(item for key, item in old_problems.items() if key not in new_problems),
        state=after,
    )


def concerns(path: Path, root: Path, functions: Iterable[Function]) -> bool:
    """Whether a change of `path`, below `root`, can change what is served.

    What no bundle holds never does. Where a manifest has `build.watch`, only the files that it
    names do, the manifest itself, and what says on which packages the function depends.
    """
    try:
        parts = path.relative_to(root).parts
    except ValueError:
        return True
    if any(map(is_left_out, parts)):
        return False
    owners = [item for item in functions if not item.single_file and item.source in path.parents]
    return not owners or any(_is_watched(path, owner) for owner in owners)


def _is_watched(path: Path, function: Function) -> bool:
    build = function.manifest.build
    if build is None or not build.watch or path == function.manifest_file:
        return True
    relative = path.relative_to(function.source).as_posix()
    if relative in READ_BY_INSTALLERS or relative == function.manifest.dependencies:
        return True
    return any(matches(relative, pattern) for pattern in build.watch)


class Watcher:
    """Reloads `sandbox` when files of `directory` change, until `stop` is set.

    `prepare` is called with each function that is new or changed before a reload counts as
    served, to build it and warm it up, and returns what went wrong. With `polling`, the kernel is
    not asked for notifications.
    """

    def __init__(
        self,
        sandbox: Reloadable,
        directory: Path,
        *,
        stop: threading.Event,
        prepare: Callable[[Function], Sequence[Problem]] = lambda _: (),
        polling: bool = False,
    ) -> None:
        self._sandbox = sandbox
        self._directory = directory
        self._stop = stop
        self._prepare = prepare
        self._polling = polling
        self._state = Served()
        # What went wrong with the present version of a function when it was prepared.
        self._failed: dict[str, tuple[Problem, ...]] = {}
        self._breaks = 0

    def events(self) -> Iterator[Reloaded | Polling]:
        """The first look, in which everything is new; then each reload that changed something.

        Reading it on is what watches: nothing happens between one event and the next.
        """
        first = True
        while not self._stop.is_set():
            root = find_root(self._directory)
            reloaded = self._reload()
            if first or reloaded:
                yield reloaded
            first = False
            if root is not None:
                yield from filter(None, self._watch(root))
            else:
                while find_root(self._directory) is None and not self._stop.wait(LOOK_SECONDS):
                    pass

    def _watch(self, root: Root) -> Iterator[Reloaded | Polling]:
        """Watch until the directory is another one, or notifications end."""
        batches = (polled if self._polling else notified)(root, self._directory, self._stop)
        # What changed between the last look and the start of the watch is seen by one more look.
        looked = False
        try:
            for batch in batches:
                if batch is None:
                    return
                self._breaks = 0
                functions = tuple(self._sandbox.functions.values())
                if not looked or any(concerns(path, root.path, functions) for path in batch):
                    looked = True
                    yield self._reload()
        except NotificationsError as error:
            self._breaks += 1
            if error.vanished and self._breaks < _ATTEMPTS:
                self._stop.wait(LOOK_SECONDS)
                return
            self._polling = True
            yield Polling(reason=f"files are polled: {error}", hint=error.hint)

    def _reload(self) -> Reloaded:
        seen = time.monotonic()
        self._sandbox.reload()
        found = self._look()
        changes = diff(self._state, found)
        for name in changes.removed:
            self._failed.pop(name, None)
        for name in (*changes.added, *changes.changed):
            version = found.versions[name]
            problems = self._prepare(version.function) if version.digest is not None else ()
            self._failed[name] = tuple(problems)
        failures = (problem for problems in self._failed.values() for problem in problems)
        state = replace(found, problems=(*found.problems, *failures))
        changes = diff(self._state, state)
        self._state = state
        return replace(changes, seconds=time.monotonic() - seen)

    def _look(self) -> Served:
        """The functions as the sandbox has them, their files as they are on disk."""
        versions = {}
        problems = list(self._sandbox.problems)
        for name, function in self._sandbox.functions.items():
            digest = None
            try:
                digest = source_digest(function, self._sandbox.settings)
            except InvalidManifestError as error:
                problems += map(function.origin.problem, error.details["problems"])
            versions[name] = Version(function, digest)
        return Served(versions=versions, problems=tuple(problems))


def _key(problem: Problem) -> tuple[str, str, str | None]:
    """What makes a problem the same one after lines were added above it."""
    return problem.file, problem.message, problem.function
