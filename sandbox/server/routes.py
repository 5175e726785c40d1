"""The routes that manifests ask for: which function a method and a path lead to. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox.manifest import Route

# The server's own: a manifest's route below them would never be reached.
RESERVED: Final = (
    "/api", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/.well-known",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Match:
    """The function that a request is for, and what the path's parameters are."""

    function: str
    params: Mapping[str, str]


class RouteTable:
    """The routes of all functions. Of two that fit, the one whose path is more exact is taken.

    `/users/me` comes before `/users/{id}`, segment by segment from the left. `conflicts` names
    for each function the routes that it does not get, and why.
    """

    def __init__(self, routes: Mapping[str, Sequence[Route]]) -> None:
        self.conflicts: dict[str, list[str]] = {}
        # By the shape of the path, then by method: function and the path's segments.
        self._shapes: dict[tuple[str | None, ...], dict[str, tuple[str, tuple[str, ...]]]] = {}
        for function in sorted(routes):
            for route in routes[function]:
                self._add(function, route)
        self._ordered = sorted(self._shapes, key=_exactness)

    def _add(self, function: str, route: Route) -> None:
        if any(route.path == name or route.path.startswith(f"{name}/") for name in RESERVED):
            self._conflict(function, f"the route {route.path} is the server's own")
            return
        segments = tuple(route.path.strip("/").split("/"))
        methods = self._shapes.setdefault(tuple(map(_literal, segments)), {})
        for method in route.methods:
            owner, _ = methods.setdefault(method, (function, segments))
            if owner != function:
                self._conflict(function, f"{method} {route.path} leads to {owner} already")

    def _conflict(self, function: str, reason: str) -> None:
        self.conflicts.setdefault(function, []).append(reason)

    def match(self, method: str, path: str) -> Match | frozenset[str]:
        """The function for a request; else the methods that the path has, none if there is none.

        HEAD is answered as GET is, where nothing else is said.
        """
        segments = tuple(path.strip("/").split("/"))
        allowed: set[str] = set()
        for shape in self._ordered:
            if not _fits(shape, segments):
                continue
            methods = self._shapes[shape]
            found = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
            if found is not None:
                function, names = found
                params = {
                    name[1:-1]: value
                    for name, value in zip(names, segments, strict=True)
                    if _literal(name) is None
                }
                return Match(function=function, params=params)
            allowed.update(methods)
        return frozenset(allowed)


def _literal(segment: str) -> str | None:
    """The segment, or None for a parameter."""
    return None if segment.startswith("{") and segment.endswith("}") else segment


def _exactness(shape: tuple[str | None, ...]) -> tuple[bool, ...]:
    return tuple(segment is None for segment in shape)


def _fits(shape: tuple[str | None, ...], segments: tuple[str, ...]) -> bool:
    return len(shape) == len(segments) and all(
        bool(segment) if literal is None else literal == segment
        for literal, segment in zip(shape, segments, strict=True)
    )
