"""Connects builds to the package registries of their tools, and to destinations of the operator.

This project names no registries: it asks each tool for its default, in its image, and keeps the
answer with the image's id.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from sandbox.config.destinations import Destination, NetworkPolicy
from sandbox.engine.base import ImageBuildError, Mount
from sandbox.gateway.allocation import Attachment
from sandbox.gateway.gateway import Gateways
from sandbox.images import image_builder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sandbox.config.settings import Settings

# The image that knows a tool's default registry.
ASKED: Final[Mapping[str, str]] = {"pip": "python-build", "npm": "node-build"}
# The variable that names another registry, by tool.
_URL_VARIABLES: Final[Mapping[str, str]] = {
    "pip": "PIP_INDEX_URL",
    "npm": "NPM_CONFIG_REGISTRY",
    "jsr": "JSR_URL",
}
_CA_FILE: Final = "/etc/ssl/certs/ca-certificates.crt"
_CA_VARIABLES: Final = (
    "SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "DENO_CERT",
)  # fmt: skip
# A tool that knows that it has no network says at once what is missing.
_OFFLINE: Final = {"PIP_NO_INDEX": "1", "NPM_CONFIG_OFFLINE": "true"}


class BuildNetwork:
    """Opens a gateway for each build. `default_hosts` gives the default registries of a tool.

    `directory` is for the gateway's sockets.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        directory: Path,
        default_hosts: Callable[[str], Sequence[str]],
    ) -> None:
        self._settings = settings
        self._default_hosts = default_hosts
        self._registries: Mapping[str, str] = dict(settings.build.registries.items())
        limits = settings.network.model_copy(
            update={
                "max_connections": 256,
                "max_total_connections": 100_000,
                "max_bytes": 4 * settings.build.tmp,
            }
        )
        self._gateways = Gateways(limits, directory=directory)

    def variables(self, tools: Sequence[str]) -> dict[str, str]:
        """The variables that make `tools` use the operator's registries."""
        known = self._registries
        told = {_URL_VARIABLES[tool]: known[tool] for tool in tools if tool in known}
        return told | (_OFFLINE if self._settings.build.network == "none" else {})

    def places(self, tools: Sequence[str]) -> tuple[Destination, ...]:
        """The registries of `tools`, and the operator's `build.allow`."""
        if self._settings.build.network != "registries":
            return ()
        places = []
        for tool in tools:
            if tool in self._registries:
                places.append(_place(self._registries[tool]))
            elif tool in ASKED:
                places += map(Destination.parse, self._default_hosts(tool))
        places += map(Destination.parse, self._settings.build.allow)
        return tuple(dict.fromkeys(places))

    @contextlib.contextmanager
    def open(self, places: Sequence[Destination]) -> Iterator[Attachment]:
        """Open a gateway to `places`; yields the container's part of it."""
        if self._settings.build.network == "none":
            yield Attachment()
            return
        trust = self._trust()
        if self._settings.build.network == "bridge":
            yield trust
            return
        gateway = self._gateways.open(
            # The operator chose these hosts, so they may be mirrors on a private network. But
            # anybody might make names below a wildcard.
            NetworkPolicy(
                destinations=tuple(places),
                private=tuple(place for place in places if not place.is_wildcard),
            )
        )
        try:
            given = gateway.attachment
            yield Attachment(
                arguments=given.arguments,
                mounts=(*given.mounts, *trust.mounts),
                env={**given.env, **trust.env},
            )
        finally:
            gateway.close()

    def close(self) -> None:
        """Close the gateway. May be called twice."""
        self._gateways.close()

    def _trust(self) -> Attachment:
        """A mount of the operator's CA certificates over the image's own."""
        try:
            bundle = self._settings.images.ca_bundle or image_builder.host_ca_bundle(os.environ)
        except ImageBuildError:
            return Attachment()  # the image has Debian's
        # A copy, because the container's user may not be allowed to read the original.
        copy = self._gateways.file(bundle.read_text(errors="replace"))
        return Attachment(
            mounts=(Mount(source=copy, target=_CA_FILE),),
            env=dict.fromkeys(_CA_VARIABLES, _CA_FILE),
        )


def _place(url: str) -> Destination:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    return Destination.parse(f"{host}:{port}")
