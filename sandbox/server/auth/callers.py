"""Who calls: what each caller may do, however it proved itself."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.config.server_settings import CallerLimits, Scope

ALL_SCOPES: Final[frozenset[Scope]] = frozenset({"invoke", "read", "admin", "impersonate"})


@dataclass(frozen=True, kw_only=True)
class Caller:
    """One who was let in.

    `id` is what executions are recorded under: `key:…`, `jwt:SUBJECT`, `anonymous`. `functions`
    are patterns of the names that it may invoke. `auth` is what becomes `context.auth`; a caller
    with the scope `impersonate` may send another. `limits` are None for whoever has none.
    """

    id: str
    scopes: frozenset[Scope]
    functions: tuple[str, ...] = ("*",)
    auth: Mapping[str, Any] | None = None
    limits: CallerLimits | None = None

    def may(self, scope: Scope) -> bool:
        """Whether it has the scope; `admin` has them all."""
        return scope in self.scopes or "admin" in self.scopes

    def may_invoke(self, function: str) -> bool:
        """Whether it may invoke that function."""
        return self.may("invoke") and any(
            fnmatchcase(function, pattern) for pattern in self.functions
        )
