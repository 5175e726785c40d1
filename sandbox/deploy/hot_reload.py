"""Hot reload: puts each edit of a function into service, unless it cannot be built or booted.

`Watcher` reads the functions directory again whenever its files change, and yields what has
changed; `HotReload` does so in a thread. `sandbox.deploy.file_changes` reports which files change.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol, Self

from sandbox.deploy.file_changes import (
    LOOK_SECONDS,
    NotificationsError,
    find_root,
    notified,
    polled,
)
from sandbox.deploy.globs import matches
from sandbox.deploy.reload_events import (
    DirectoryState,
    FunctionVersion,
    PollingEvent,
    ReloadEvent,
    WatchEvent,
    diff,
)
from sandbox.deploy.validation import policy_problems
from sandbox.documents.problems import has_errors
from sandbox.errors import DeploymentFailedError, InvalidManifestError, SandboxError
from sandbox.functions.dependencies import READ_BY_INSTALLERS
from sandbox.store.tree import is_left_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sandbox.config.settings import Settings
    from sandbox.deploy.file_changes import Root
    from sandbox.documents.problems import Problem
    from sandbox.functions.function import Function

log = logging.getLogger(__name__)

# While a watch is set up, directories may come and go: try again before polling.
_ATTEMPTS: Final = 3


class Reloadable(Protocol):
    """What hot reload uses of a `Sandbox`, which describes it."""

    settings: Settings
    directory: Path

    @property
    def functions(self) -> Mapping[str, Function]: ...
    @property
    def problems(self) -> Sequence[Problem]: ...
    @property
    def secrets(self) -> Mapping[str, str]: ...
    def reload(self) -> None: ...
    def source_digest(self, function: Function) -> str: ...
    def prepare(self, name: str, *, source_digest: str | None = None) -> None: ...


class Watcher:
    """Reloads `sandbox` when the files of its functions change, until `stop` is set.

    With `polling`, it does not ask the kernel for notifications.
    """

    def __init__(
        self, sandbox: Reloadable, *, stop: threading.Event, polling: bool = False
    ) -> None:
        self._sandbox = sandbox
        self._stop = stop
        self._polling = polling
        self._state = DirectoryState()
        # By function: why its present version is not in service.
        self._failed: dict[str, list[Problem]] = {}
        self._interruptions = 0

    def events(self) -> Iterator[WatchEvent]:
        """The first reading, in which everything is new; then each reload that changed something.

        Nothing is watched or reloaded but while the caller waits for the next event.
        """
        first = True
        directory = self._sandbox.directory
        while not self._stop.is_set():
            root = find_root(directory)
            event = self._reload()
            if first or event:
                yield event
            first = False
            if root is not None:
                yield from filter(None, self._watch(root))
            else:
                while find_root(directory) is None and not self._stop.wait(LOOK_SECONDS):
                    pass

    def _watch(self, root: Root) -> Iterator[WatchEvent]:
        """Reload on changes until another directory is at this path, or notifications end."""
        changes = (polled if self._polling else notified)(root, self._sandbox.directory, self._stop)
        # The first batch is taken whatever it holds: files may have changed between the last
        # reload and the start of the watch.
        caught_up = False
        try:
            for paths in changes:
                if paths is None:
                    return
                self._interruptions = 0
                functions = tuple(self._sandbox.functions.values())
                if not caught_up or any(concerns(path, root.path, functions) for path in paths):
                    caught_up = True
                    yield self._reload()
        except NotificationsError as error:
            self._interruptions += 1
            if error.vanished and self._interruptions < _ATTEMPTS:
                self._stop.wait(LOOK_SECONDS)
                return
            self._polling = True
            yield PollingEvent(reason=f"files are polled: {error}", hint=error.hint)

    def _reload(self) -> ReloadEvent:
        noticed = time.monotonic()
        self._sandbox.reload()
        found = self._read()
        changes = diff(self._state, found)
        for name in changes.removed:
            self._failed.pop(name, None)
        for name in (*changes.added, *changes.changed):
            self._failed[name] = _prepare(self._sandbox, found.versions[name])
        failures = (problem for problems in self._failed.values() for problem in problems)
        state = replace(found, problems=(*found.problems, *failures))
        changes = diff(self._state, state)
        self._state = state
        return replace(changes, seconds=time.monotonic() - noticed)

    def _read(self) -> DirectoryState:
        """The functions as the sandbox has them, their files as they are on disk."""
        versions = {}
        problems = list(self._sandbox.problems)
        for name, function in self._sandbox.functions.items():
            digest = None
            try:
                digest = self._sandbox.source_digest(function)
            except InvalidManifestError as error:
                messages = error.details.get("problems", [error.message])
                problems += map(function.origin.problem, messages)
            versions[name] = FunctionVersion(function, digest)
        return DirectoryState(versions=versions, problems=tuple(problems))


class HotReload:
    """Hot reload in a thread, until it is closed; a context manager.

    `on_event` is called in that thread with each event of a `Watcher`.
    """

    def __init__(
        self,
        sandbox: Reloadable,
        on_event: Callable[[WatchEvent], object],
        *,
        polling: bool = False,
    ) -> None:
        self._on_event = on_event
        self._stop = threading.Event()
        self._watcher = Watcher(sandbox, stop=self._stop, polling=polling)
        self._thread = threading.Thread(target=self._run, name="hot reload", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for event in self._watcher.events():
                self._on_event(event)
        except Exception:  # the edge of a thread
            log.exception("functions are not watched any more")

    def stop(self) -> None:
        """Reload no more; does not wait for a reload under way."""
        self._stop.set()

    def close(self) -> None:
        """Reload no more, and wait for a reload under way, which may be building a function."""
        self.stop()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def concerns(path: Path, root: Path, functions: Iterable[Function]) -> bool:
    """Whether a change of `path`, below `root`, can change a version of one of the `functions`.

    A file that no bundle holds cannot. Where a manifest has `build.watch`, the files that it names
    can, and the manifest itself and the files that list dependencies.
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


def _prepare(sandbox: Reloadable, version: FunctionVersion) -> list[Problem]:
    """Put a version into service; what prevents that, and what the settings clamp."""
    function = version.function
    if version.digest is None:  # `Watcher` knows why
        return []
    problems = list(policy_problems(function, sandbox.settings, sandbox.secrets))
    try:
        if not has_errors(problems):
            sandbox.prepare(function.name, source_digest=version.digest)
    except DeploymentFailedError as failure:
        message = f"{failure.message}\n{failure.log}".rstrip()
        problems.append(function.origin.problem(message, at="build"))
    except SandboxError as error:
        problems.append(function.origin.problem(error.message, error.hint or ""))
    return problems
