"""`EventRegistrar`: told by each reload what manifests ask for; routes, webhooks and schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox.server.routes import Match, RouteTable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.manifest import Hook, Route, Schedule
    from sandbox.server.schedules import Schedules


class EventRegistrar:
    """Implements `sandbox.registry.Registrar`. Lookups see one state or the next."""

    def __init__(self, schedules: Schedules) -> None:
        self._schedules = schedules
        self._routes: Mapping[str, tuple[Route, ...]] = {}
        self._webhooks: Mapping[str, tuple[Hook, ...]] = {}
        self._table = RouteTable({})

    def register(
        self,
        function: str,
        *,
        hooks: tuple[Hook, ...],
        schedules: tuple[Schedule, ...],
        routes: tuple[Route, ...],
    ) -> None:
        """Call `function` on these webhooks, schedules and routes only.

        Hooks of the types database and auth are events of Alyx, which calls the function itself.

        Raises:
            ValueError: another function has one of the routes; the rest is registered.
        """
        webhooks = tuple(hook for hook in hooks if hook.type == "webhook")
        self._webhooks = {**self._webhooks, function: webhooks}
        if self._routes.get(function, ()) != routes:
            self._routes = {**self._routes, function: routes}
            self._table = RouteTable(self._routes)
        self._schedules.register(function, schedules)
        conflicts = self._table.conflicts.get(function)
        if conflicts:
            raise ValueError("; ".join(conflicts))

    def unregister(self, function: str) -> None:
        """Stop calling `function`."""
        self._webhooks = {name: its for name, its in self._webhooks.items() if name != function}
        self._routes = {name: its for name, its in self._routes.items() if name != function}
        self._table = RouteTable(self._routes)
        self._schedules.unregister(function)

    def match(self, method: str, path: str) -> Match | frozenset[str]:
        """The function that a request is for; see `RouteTable.match`."""
        return self._table.match(method, path)

    def webhook(self, function: str, source: str) -> Hook | None:
        """The webhook of that function and source."""
        hooks = self._webhooks.get(function, ())
        return next((hook for hook in hooks if hook.source == source), None)
