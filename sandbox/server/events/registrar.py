"""`EventRegistrar`: keeps the routes, webhooks and schedules of all manifests, for lookups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox.server.events.event_config import WebhookConfig, read_config
from sandbox.server.events.routes import Match, RouteTable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sandbox.functions.manifest import Hook, Route, Schedule, Verification
    from sandbox.server.events.schedules import Schedules


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """A hook that a sender delivers to, with its checked config."""

    hook: Hook
    verification: Verification
    config: WebhookConfig


class EventRegistrar:
    """Implements `sandbox.functions.registry.Registrar`. A lookup never sees half a change.

    Paths whose first segment is `reserved` belong to the server.
    """

    def __init__(self, schedules: Schedules, *, reserved: Collection[str]) -> None:
        self._schedules = schedules
        self._routes: Mapping[str, tuple[Route, ...]] = {}
        # By function, then by source.
        self._webhooks: Mapping[str, Mapping[str, Webhook]] = {}
        self._reserved = reserved
        self._table = RouteTable({}, reserved=reserved)

    def register(
        self,
        function: str,
        *,
        hooks: tuple[Hook, ...],
        schedules: tuple[Schedule, ...],
        routes: tuple[Route, ...],
    ) -> None:
        """Replace the webhooks, schedules and routes of `function`.

        Hooks of the types database and auth are left to Alyx, which calls the function itself.

        Raises:
            ValueError: remarks for the manifest's author; everything valid is registered.
        """
        webhooks, remarks = _webhooks(hooks)
        self._webhooks = {**self._webhooks, function: webhooks}
        if self._routes.get(function, ()) != routes:
            self._routes = {**self._routes, function: routes}
            self._table = RouteTable(self._routes, reserved=self._reserved)
        remarks += self._table.conflicts.get(function, [])
        remarks += self._schedules.register(function, schedules)
        if remarks:
            raise ValueError("; ".join(remarks))

    def unregister(self, function: str) -> None:
        self._webhooks = {name: its for name, its in self._webhooks.items() if name != function}
        if self._routes.get(function):
            self._routes = {name: its for name, its in self._routes.items() if name != function}
            self._table = RouteTable(self._routes, reserved=self._reserved)
        self._schedules.unregister(function)

    def match(self, method: str, path: str) -> Match | frozenset[str]:
        return self._table.match(method, path)

    def webhook(self, function: str, source: str | None) -> Webhook | None:
        """The webhook of that function and source; None if there is none.

        Without `source`: the function's only webhook, or the one that has no source.
        """
        webhooks = self._webhooks.get(function, {})
        if source is None and len(webhooks) == 1:
            return next(iter(webhooks.values()))
        return webhooks.get(source or "")


def _webhooks(hooks: tuple[Hook, ...]) -> tuple[dict[str, Webhook], list[str]]:
    """The webhooks by their source, and remarks for the manifest's author."""
    found: dict[str, Webhook] = {}
    remarks = []
    for hook in hooks:
        if hook.type != "webhook" or hook.verification is None:
            continue
        name = f"the webhook {hook.source!r}" if hook.source else "the webhook"
        try:
            config, more = read_config(WebhookConfig, hook.config)
        except ValueError as error:
            remarks.append(f"{name} is not received: {error}")
            continue
        remarks += [f"{name}: {remark}" for remark in more]
        if hook.source in found:
            remarks.append(f"{name}: another of the same source comes before it")
            continue
        found[hook.source] = Webhook(hook=hook, verification=hook.verification, config=config)
    return found, remarks
