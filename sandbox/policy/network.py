"""Decides the destinations of a function: all that it asks for, or a refusal. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandbox.config.destinations import Callback, Destination, NetworkPolicy, covered
from sandbox.errors import PolicyRefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.config.settings import Settings
    from sandbox.functions.function import Function

# The gateway holds a socket open for each, as long as the container lives.
MOST_DESTINATIONS: Final = 64


def network_policy(function: Function, settings: Settings) -> NetworkPolicy:
    """The destinations of the function: all that it asks for.

    Raises:
        PolicyRefusedError: the operator does not allow one of its destinations.
    """
    asked = () if function.manifest.network == "none" else function.manifest.network
    if len(asked) > MOST_DESTINATIONS:
        raise PolicyRefusedError(
            f"{function.where('network')}: {len(asked)} network destinations are too many",
            hint=f"there may be {MOST_DESTINATIONS}; a wildcard such as *.example.org:443 is one",
        )
    allow = [Destination.parse(text) for text in settings.network.allow]
    private = tuple(Destination.parse(text) for text in settings.network.allow_private)
    destinations = [Destination.parse(text) for text in asked]
    for index, destination in enumerate(destinations):
        refused = _refused(destination, allow=allow, private=private)
        if refused is not None:
            where = function.where("network", index)
            raise PolicyRefusedError(
                f"{where}: network: {destination} {refused.reason}", hint=refused.hint
            )
    callback = Callback.parse(settings.alyx_url) if settings.alyx_url else None
    return NetworkPolicy(
        destinations=tuple(dict.fromkeys(destinations)), private=private, callback=callback
    )


@dataclass(frozen=True)
class _Refused:
    reason: str
    hint: str


def _refused(
    destination: Destination, *, allow: Sequence[Destination], private: Sequence[Destination]
) -> _Refused | None:
    """Why the settings do not allow it, as far as known without a lookup."""
    hint = "the operator can add it to {} in the settings"
    if not covered(destination, allow):
        return _Refused("is not allowed here", hint.format("network.allow"))
    reason = destination.refusal(allow_private=covered(destination, private))
    if reason is None:
        return None
    if destination.refusal(allow_private=True) is not None:
        return _Refused(reason, "no setting allows it")
    return _Refused(reason, hint.format("network.allow_private"))


def refuse_network(function: Function, network: NetworkPolicy) -> None:
    """Refuse a function with destinations if the engine is on another machine.

    Raises:
        PolicyRefusedError: it has destinations, and their sockets exist only on this machine.
    """
    if network.destinations:
        asked = f"{function.where('network')}: network: the function asks for destinations"
        other = "ask for `network: none`"
    elif network.callback is not None:
        asked = f"{function.name}: every function may reach `alyx_url`"
        other = "leave `alyx_url` out of the settings"
    else:
        return
    raise PolicyRefusedError(
        f"{asked}, and the engine is on another machine: what a function may reach is a socket "
        "of this machine, and cannot be mounted there",
        hint=f"run the server beside the engine (docs/remote.md), or {other}",
    )
