"""Destinations that functions may reach, and the operator's patterns that cover them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from sandbox.config.addresses import parse_address, refusal
from sandbox.config.field_types import check_destination

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.config.addresses import IPAddress

# The name of an Alyx server that the operator gave by address: `/etc/hosts` needs names.
CALLBACK_NAME: Final = "alyx.internal"
# Why a function may not ask for anything else.
NOT_ALLOWED: Final = "not among the function's destinations"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Destination:
    """A host and a TCP port. The host is a name, `*.` and a name, or an address; lower case."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Parse `host:port`. Raises ValueError with a text for the author."""
        host, _, port = check_destination(text).rpartition(":")
        return cls(host.strip("[]"), int(port))

    @property
    def is_wildcard(self) -> bool:
        """Whether it covers every name below its suffix."""
        return self.host.startswith("*.")

    @property
    def address(self) -> IPAddress | None:
        """The host as an address, or None if it is a name."""
        try:
            return parse_address(self.host)
        except ValueError:
            return None

    def refusal(self, *, allow_private: bool) -> str | None:
        """Why it is refused, as far as known without a lookup; else None."""
        address = self.address
        if address is not None:
            return refusal(address, allow_private=allow_private)
        is_here = self.host == "localhost" or self.host.endswith(".localhost")
        return "is this machine" if is_here and not allow_private else None

    def covers(self, other: Destination) -> bool:
        """Whether a permission for this one includes `other`.

        `*.example.org:443` covers names at any depth below `example.org`, but not `example.org`.
        """
        if self.port != other.port:
            return False
        if self.is_wildcard and other.address is None:
            # The same suffix or a shorter one covers a wildcard.
            return other.host.endswith(self.host[1:])
        return self.host == other.host

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def covered(destination: Destination, patterns: Iterable[Destination]) -> bool:
    """Whether any of `patterns` covers `destination`."""
    return any(pattern.covers(destination) for pattern in patterns)


@dataclass(frozen=True, kw_only=True)
class Callback:
    """The way back to Alyx. `url` is the address that functions are told.

    Inside the container, Alyx is at `destination`; the gateway connects to `upstream`.
    """

    url: str
    destination: Destination
    upstream: Destination

    @classmethod
    def parse(cls, alyx_url: str) -> Callback:
        """Parse the setting `alyx_url`.

        A loopback address means the gateway's host, and stays a loopback address for the function.
        Any other address gets a name.

        Raises:
            ValueError: it is no URL of http or https with a host.
        """
        parts = urlsplit(alyx_url)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError("write a URL with a host, such as http://localhost:8090")
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        is_ipv6 = ":" in parts.hostname
        upstream = Destination.parse(
            f"[{parts.hostname}]:{port}" if is_ipv6 else f"{parts.hostname}:{port}"
        )
        if upstream.is_wildcard:
            raise ValueError("write a URL with one host, such as http://localhost:8090")
        address = upstream.address
        name = upstream.host
        if address is not None and (is_ipv6 or not address.is_loopback):
            name = "localhost" if address.is_loopback else CALLBACK_NAME
        if name == parts.hostname:
            return cls(url=alyx_url, destination=upstream, upstream=upstream)
        login, at, _ = parts.netloc.rpartition("@")
        told = parts._replace(netloc=f"{login}{at}{name}:{port}").geturl()
        return cls(url=told, destination=Destination(name, port), upstream=upstream)


@dataclass(frozen=True, kw_only=True)
class GatewayRoute:
    """How the gateway reaches one destination: where it connects, and if that may be private."""

    destination: Destination
    upstream: Destination
    allow_private: bool = False


@dataclass(frozen=True, kw_only=True)
class NetworkPolicy:
    """The destinations that a function may reach; by default none.

    `private` are the operator's patterns of destinations that may be on a private network.
    """

    destinations: tuple[Destination, ...] = ()
    private: tuple[Destination, ...] = field(default=(), repr=False)
    callback: Callback | None = None

    def route(self, asked: Destination) -> GatewayRoute | None:
        """The route to `asked`, one host and one port, or None if the function may not reach it."""
        if self.callback is not None and asked == self.callback.destination:
            return GatewayRoute(
                destination=asked, upstream=self.callback.upstream, allow_private=True
            )
        if asked.is_wildcard or not covered(asked, self.destinations):
            return None
        private = covered(asked, self.private)
        return GatewayRoute(destination=asked, upstream=asked, allow_private=private)
