"""The events of hot reload, and what is different between one reading of functions and the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.documents.problems import Problem
    from sandbox.functions.function import Function


@dataclass(frozen=True)
class FunctionVersion:
    """What decides how a function runs: its definition, and the digest of its files.

    `digest` is None if the files cannot be deployed.
    """

    function: Function
    digest: str | None


@dataclass(frozen=True, kw_only=True)
class DirectoryState:
    """What one reading of the functions directory found: functions by name, and problems."""

    versions: Mapping[str, FunctionVersion] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReloadEvent:
    """The functions directory was read again, and this has changed; false if nothing has.

    `added`, `changed` and `removed` are names of functions. `problems` are new, `mended` are gone;
    a problem that only moved to another line is neither. `seconds` is the time from the notice of
    a change until the changed functions were in service.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    mended: tuple[Problem, ...] = ()
    state: DirectoryState = field(default_factory=DirectoryState, repr=False)
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return any((self.added, self.changed, self.removed, self.problems, self.mended))


@dataclass(frozen=True, kw_only=True)
class PollingEvent:
    """From now on files are polled: the kernel does not report changes, for this `reason`."""

    reason: str
    hint: str


WatchEvent = ReloadEvent | PollingEvent


def diff(before: DirectoryState, after: DirectoryState) -> ReloadEvent:
    """What is different in `after`."""
    old, new = before.versions, after.versions
    old_problems = {_identity(item): item for item in before.problems}
    new_problems = {_identity(item): item for item in after.problems}
    return ReloadEvent(
        added=tuple(sorted(new.keys() - old.keys())),
        changed=tuple(sorted(name for name in new.keys() & old.keys() if new[name] != old[name])),
        removed=tuple(sorted(old.keys() - new.keys())),
        problems=tuple(item for key, item in new_problems.items() if key not in old_problems),
        mended=tuple(item for key, item in old_problems.items() if key not in new_problems),
        state=after,
    )


def _identity(problem: Problem) -> tuple[str, str, str | None]:
    """What a problem keeps when lines are added above it."""
    return problem.file, problem.message, problem.function
