"""Allocates the addresses, names and sockets of destinations inside a container. Pure.

Inside, a destination is a port on a loopback address, one address for each host, and `/etc/hosts`
maps the host's name to it. Init listens there, and forwards each connection to a socket of the
gateway. A destination without a name, such as a wildcard or an address, is reached through a proxy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sandbox.config.destinations import Destination, GatewayRoute, NetworkPolicy
    from sandbox.engine.base import Mount

# The directory of the gateway's sockets inside a container.
SOCKETS_DIR: Final = "/run/alyx"
_PROXY_PORT: Final = 3128
_LOCALHOST: Final = "127.0.0.1"
# The first of the loopback addresses that stand for hosts.
_FIRST_ALIAS: Final = IPv4Address("127.0.1.1")


@dataclass(frozen=True, kw_only=True)
class Listener:
    """One socket of the gateway, and its address inside. The proxy's has no route."""

    name: str
    address: str
    port: int
    route: GatewayRoute | None


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Everything that a policy makes of a container's loopback network."""

    listeners: tuple[Listener, ...]
    hosts: Mapping[str, str]
    env: Mapping[str, str]

    @property
    def arguments(self) -> tuple[str, ...]:
        """Init's arguments: answer DNS queries, and forward each listener."""
        forwards = (
            f"{item.address}:{item.port}={SOCKETS_DIR}/{item.name}" for item in self.listeners
        )
        return ("--dns", *(word for rule in forwards for word in ("--forward", rule)))

    @property
    def hosts_file(self) -> str:
        return "".join(f"{address}\t{name}\n" for name, address in self.hosts.items())


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """What connects a container to its gateway: arguments of init, mounts, variables."""

    arguments: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


def allocate(policy: NetworkPolicy) -> Allocation:
    """Addresses, names and sockets for what `policy` allows."""
    asked = [] if policy.callback is None else [policy.callback.destination]
    asked += policy.destinations
    hosts = {"localhost": _LOCALHOST}
    aliases = _free_aliases(asked)
    places: dict[tuple[str, int], GatewayRoute | None] = {}
    proxied = False
    for destination in asked:
        route = policy.route(destination)
        address = destination.address
        if route is None or (address is not None and not _is_alias(destination)):
            proxied = True
            continue
        if address is not None:
            alias = str(address)
        elif destination.host in hosts:
            alias = hosts[destination.host]
        else:
            alias = hosts[destination.host] = next(aliases)
        places.setdefault((alias, destination.port), route)
    env: dict[str, str] = {}
    if proxied:
        proxy = next(aliases)
        places[proxy, _PROXY_PORT] = None
        env = _proxy_env(f"http://{proxy}:{_PROXY_PORT}", direct=[*hosts, _LOCALHOST])
    listeners = tuple(
        Listener(name=str(number), address=address, port=port, route=route)
        for number, ((address, port), route) in enumerate(places.items())
    )
    return Allocation(listeners=listeners, hosts=hosts, env=env)


def _is_alias(destination: Destination) -> bool:
    """Whether it is an IPv4 loopback address, so that init can listen there itself."""
    address = destination.address
    return address is not None and address.version == 4 and address.is_loopback


def _free_aliases(asked: list[Destination]) -> Iterator[str]:
    """Loopback addresses that no host uses yet."""
    taken = {item.host for item in asked}
    alias = _FIRST_ALIAS
    while True:
        if str(alias) not in taken:
            yield str(alias)
        alias += 1


def _proxy_env(proxy: str, *, direct: list[str]) -> dict[str, str]:
    """The variables by which HTTP clients find the proxy; for https only: it speaks CONNECT."""
    past = ",".join(direct)
    return {
        "HTTPS_PROXY": proxy,
        "https_proxy": proxy,
        "NO_PROXY": past,
        "no_proxy": past,
        # Node reads the variables only with this one.
        "NODE_USE_ENV_PROXY": "1",
    }
