"""The routes of manifests: which function gets a request, by its method and path. Pure.

Paths match segment by segment. Each segment is decoded by itself, so `%2F` is part of a segment
and never ends one. A segment `{name}` matches any text that is not empty; `/users/me` wins over
`/users/{id}`. A `/` at the end makes another path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sandbox.functions.manifest import Route

_PARAMETER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Match:
    """The function that gets a request, and the values of the path's parameters."""

    function: str
    params: Mapping[str, str]


@dataclass(frozen=True)
class _Target:
    function: str
    names: tuple[str, ...]


@dataclass
class _Node:
    """The segments that may follow a path, and the functions of the path itself, by method."""

    literals: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    targets: dict[str, _Target] = field(default_factory=dict)


class RouteTable:
    """The routes of all functions. If two functions ask for the same, the first by name gets it.

    Paths whose first segment is `reserved` belong to the server; `/{any}` does not match them.
    `conflicts` says, for each function, which routes it does not get, and why.
    """

    def __init__(
        self, routes: Mapping[str, Sequence[Route]], *, reserved: Collection[str] = ()
    ) -> None:
        self._reserved = reserved
        self.conflicts: dict[str, list[str]] = {}
        self._root = _Node()
        for function in sorted(routes):
            for route in routes[function]:
                reasons = self._add(function, route)
                if reasons:
                    self.conflicts.setdefault(function, []).extend(reasons)

    def match(self, method: str, path: str) -> Match | frozenset[str]:
        """The function for a request, or the methods of its path; an unknown path has none.

        `path` is percent-encoded, as the client sent it. A route for GET also gets HEAD, unless
        another route does.
        """
        segments = _decoded(path)
        if segments is None or segments[0] in self._reserved:
            return frozenset()
        allowed: set[str] = set()
        # Depth first. The more exact node comes last on the stack. No node is visited twice.
        stack: list[tuple[_Node, int, tuple[str, ...]]] = [(self._root, 0, ())]
        while stack:
            node, depth, values = stack.pop()
            if depth == len(segments):
                found = node.targets.get(method)
                if found is None and method == "HEAD":
                    found = node.targets.get("GET")
                if found is not None:
                    params = dict(zip(found.names, values, strict=True))
                    return Match(function=found.function, params=params)
                allowed.update(node.targets)
                continue
            segment = segments[depth]
            if segment and node.parameter is not None:
                stack.append((node.parameter, depth + 1, (*values, segment)))
            if segment in node.literals:
                stack.append((node.literals[segment], depth + 1, values))
        return frozenset(allowed | {"HEAD"} if "GET" in allowed else allowed)

    def _add(self, function: str, route: Route) -> list[str]:
        """Add a route. Returns, for each method that the function does not get, the reason."""
        segments = route.path.removeprefix("/").split("/")
        if segments[0] in self._reserved:
            return [f"the route {route.path}: /{segments[0]} is the server's own"]
        names = tuple(match[1] for match in map(_PARAMETER.fullmatch, segments) if match)
        if len(set(names)) < len(names):
            return [f"the route {route.path} has two parameters of one name"]
        node = self._root
        for segment in segments:
            if _PARAMETER.fullmatch(segment):
                node.parameter = node.parameter or _Node()
                node = node.parameter
            elif "{" in segment or "}" in segment:
                return [
                    f"the route {route.path}: a parameter is a whole segment, as in /users/{{id}}"
                ]
            else:
                node = node.literals.setdefault(segment, _Node())
        taken = []
        for method in route.methods:
            owner = node.targets.setdefault(method, _Target(function, names)).function
            if owner != function:
                taken.append(f"the route {method} {route.path} leads to the function {owner}")
        return taken


def _decoded(path: str) -> list[str] | None:
    """The decoded segments of a path; None if one is not UTF-8."""
    try:
        return [unquote_to_bytes(part).decode() for part in path.removeprefix("/").split("/")]
    except UnicodeError:
        return None
