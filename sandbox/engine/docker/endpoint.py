"""The address of the engine, and its TLS. Pure.

The settings name it, else `DOCKER_HOST` with `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH`, as for
Docker's own tools, else it is the local socket. TCP without TLS gives root on the engine's host to
everybody who can reach it, so the operator has to ask for it explicitly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from sandbox.errors import InvalidSettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.config.settings import EngineSettings

LOCAL_SOCKET: Final = "unix:///var/run/docker.sock"
_PORT: Final = 2376
_PLAIN_PORT: Final = 2375
# The names of the files in `DOCKER_CERT_PATH`, and in the directory of `--engine-tls`.
CA_FILE: Final = "ca.pem"
CERT_FILE: Final = "cert.pem"
KEY_FILE: Final = "key.pem"


@dataclass(frozen=True, kw_only=True)
class Tls:
    """The files (PEM) of a TLS connection. Without `verify`, any server is accepted."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    verify: bool = True


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An engine's address: the path of a Unix socket, or `host` and `port`, with TLS or without."""

    path: str = ""
    host: str = ""
    port: int = 0
    tls: Tls | None = None

    @property
    def local(self) -> bool:
        """Whether it is on this machine; other engines are reached over TCP."""
        return not self.host

    @property
    def url(self) -> str:
        if self.local:
            return f"unix://{self.path}"
        return f"tcp://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def find_endpoint(settings: EngineSettings, environment: Mapping[str, str]) -> Endpoint:
    """The engine to use.

    Raises:
        InvalidSettingsError: the address is invalid, or has no TLS.
    """
    url = settings.host or environment.get("DOCKER_HOST") or LOCAL_SOCKET
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _unusable(url) from None
    if parts.scheme in ("unix", "http+unix") and parts.path:
        return Endpoint(path=f"{parts.netloc}{parts.path}")
    if parts.scheme not in ("tcp", "http", "https") or not host:
        raise _unusable(url)
    tls = _tls(settings, environment)
    if tls is None and parts.scheme == "https":
        tls = Tls()
    if tls is None and not settings.plaintext:
        raise InvalidSettingsError(
            f"the engine at {url} would be used without TLS: whoever reaches it there is root on "
            "its host",
            hint="name its certificates (`--engine-tls DIR`, `engine.tls`, or DOCKER_TLS_VERIFY "
            "and DOCKER_CERT_PATH); `engine.plaintext: true` goes without",
        )
    return Endpoint(host=host, port=port or (_PLAIN_PORT if tls is None else _PORT), tls=tls)


def _tls(settings: EngineSettings, environment: Mapping[str, str]) -> Tls | None:
    """The TLS of the settings, else of Docker's variables."""
    asked = settings.tls
    if asked is not None:
        return Tls(ca=asked.ca, cert=asked.cert, key=asked.key, verify=asked.verify)
    verify = bool(environment.get("DOCKER_TLS_VERIFY"))
    place = environment.get("DOCKER_CERT_PATH")
    if not (verify or place):
        return None
    directory = Path(place) if place else Path(environment.get("HOME", "/")) / ".docker"
    return Tls(
        ca=directory / CA_FILE,
        cert=directory / CERT_FILE,
        key=directory / KEY_FILE,
        verify=verify,
    )


def _unusable(url: str) -> InvalidSettingsError:
    return InvalidSettingsError(
        f"{url!r} is no address of an engine that can be used here",
        hint="it is unix:///path/to/docker.sock or tcp://host:2376; an engine behind SSH can be "
        "reached by a socket that `ssh -L` forwards",
    )
