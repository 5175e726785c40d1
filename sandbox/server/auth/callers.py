"""An authenticated caller, and what it may do."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, get_args

from sandbox.config.server_settings import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.config.server_settings import CallerLimits

ALL_SCOPES: Final[frozenset[Scope]] = frozenset(get_args(Scope))


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who sent a request, and what it may do.

    Executions are recorded under `id`: `key:ID`, `jwt:SUBJECT`, `anonymous`. `functions` are
    patterns of the function names that it may invoke. `auth` becomes `context.auth`; a caller
    with the scope `impersonate` may send another value. `limits` are None for no limits.
    """

    id: str
    scopes: frozenset[Scope]
    functions: tuple[str, ...] = ("*",)
    auth: Mapping[str, Any] | None = None
    limits: CallerLimits | None = None

    def may(self, scope: Scope) -> bool:
        """Whether it has the scope; `admin` includes all scopes."""
        return scope in self.scopes or "admin" in self.scopes

    def may_invoke(self, function: str) -> bool:
        return self.may("invoke") and any(
            fnmatchcase(function, pattern) for pattern in self.functions
        )
