"""Holds the functions of one directory in a snapshot, which a reload replaces in one step."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from sandbox.documents.problems import near_names, shown
from sandbox.errors import FunctionNotFoundError, InvalidManifestError
from sandbox.functions.discovery import discover

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from sandbox.documents.problems import Problem
    from sandbox.functions.function import Function
    from sandbox.functions.manifest import Hook, Route, Schedule

log = logging.getLogger(__name__)


class Registrar(Protocol):
    """Receives the hooks, schedules and routes of manifests, to call functions by them.

    Each reload calls `register` for every function, with everything in its manifest (perhaps
    nothing), to replace the earlier values; and `unregister` for every function that is gone. One
    thread at a time makes these calls.
    """

    def register(
        self,
        function: str,
        *,
        hooks: tuple[Hook, ...],
        schedules: tuple[Schedule, ...],
        routes: tuple[Route, ...],
    ) -> None:
        """Call `function` on these hooks (webhooks among them), schedules and routes only.

        Raises:
            ValueError: a warning for the manifest's author.
        """

    def unregister(self, function: str) -> None:
        """Stop calling `function`."""


@dataclass(frozen=True)
class _Snapshot:
    functions: Mapping[str, Function]
    problems: tuple[Problem, ...]


class Registry:
    """The functions of `directory`, read now and again at every `reload`.

    Safe to use from many threads: readers see one snapshot or the next, never a mixture.
    """

    def __init__(self, directory: Path, *, registrar: Registrar | None = None) -> None:
        self._directory = directory
        self._registrar = registrar
        self._reloading = threading.Lock()
        self._registered: set[str] = set()
        self._snapshot = _Snapshot(MappingProxyType({}), ())
        self.reload()

    @property
    def functions(self) -> Mapping[str, Function]:
        """The functions by name, in the order of their names; read-only."""
        return self._snapshot.functions

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems of the directory. Functions without errors work nevertheless."""
        return self._snapshot.problems

    def reload(self) -> None:
        """Read the directory again, then tell the registrar.

        If the registrar fails for one function, the others are registered nevertheless. The failure
        is logged, and is a warning among `problems`.
        """
        with self._reloading:
            found = discover(self._directory)
            functions = MappingProxyType({item.name: item for item in found.functions})
            self._snapshot = _Snapshot(functions, found.problems)
            failures = self._register(functions.values())
            if failures:
                self._snapshot = _Snapshot(functions, (*found.problems, *failures))

    def get(self, name: str) -> Function:
        """The function of that name.

        Raises:
            InvalidManifestError: its manifest or its files have errors; `details.problems`.
            FunctionNotFoundError: there is none; `details.near` has names that are close.
        """
        snapshot = self._snapshot
        function = snapshot.functions.get(name)
        if function is not None:
            return function
        errors = [
            str(problem)
            for problem in snapshot.problems
            if problem.function == name and problem.severity == "error"
        ]
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            raise InvalidManifestError(
                f"the function {shown(name)} has problems: {errors[0]}{more}",
                details={"problems": errors},
            )
        raise _not_found(name, snapshot)

    def _register(self, functions: Iterable[Function]) -> list[Problem]:
        registrar = self._registrar
        if registrar is None:
            return []
        functions = tuple(functions)
        # First, so that another function can take over their routes.
        for name in sorted(self._registered - {function.name for function in functions}):
            try:
                registrar.unregister(name)
                self._registered.discard(name)
            except Exception:  # foreign code: one failure must not stop the others
                log.exception("could not unregister the function %s", name)
        failures = []
        for function in functions:
            self._registered.add(function.name)
            manifest = function.manifest
            try:
                registrar.register(
                    function.name,
                    hooks=manifest.hooks,
                    schedules=manifest.schedules,
                    routes=manifest.routes,
                )
            except ValueError as error:
                message = f"its hooks, schedules and routes: {error}"
                failures.append(function.origin.problem(message, severity="warning"))
            except Exception as error:  # as above
                log.exception("could not register the function %s", function.name)
                message = f"its hooks, schedules and routes could not be registered: {error}"
                failures.append(function.origin.problem(message, severity="warning"))
        return failures


def _not_found(name: str, snapshot: _Snapshot) -> FunctionNotFoundError:
    known = {*snapshot.functions, *(item.function for item in snapshot.problems if item.function)}
    near = near_names(name, sorted(known))
    hint = None
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    elif not snapshot.functions and snapshot.problems:
        hint = str(snapshot.problems[0])
    return FunctionNotFoundError(
        f"there is no function {shown(name)}", hint=hint, details={"near": near}
    )
