"""The operator's settings and their defaults; `sandbox.config.loading` reads them.

A manifest asks; these settings decide (see `sandbox.policy`).
"""

from __future__ import annotations

import os
from pathlib import Path  # noqa: TC003 - pydantic reads it
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from sandbox.config.destinations import Callback, covered
from sandbox.config.destinations import Destination as Place
from sandbox.config.environment import cache_directory
from sandbox.config.field_types import (
    Destination,
    Duration,
    RegistryUrl,
    Size,
)
from sandbox.config.server_settings import ServerSettings
from sandbox.errors import InvalidSettingsError
from sandbox.runtimes import Runtime
from sandbox.units import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping


Timeout = Annotated[Duration, Field(description="Time limit, from the request to the response.")]
Memory = Annotated[Size, Field(description="Memory, `/tmp` included; there is no swap.")]
Cpu = Annotated[float, Field(gt=0, le=1024, description="CPU cores.")]
Pids = Annotated[int, Field(ge=1, le=1_000_000, description="Processes and threads.")]
Tmp = Annotated[Size, Field(description="Size of `/tmp`, counted against memory.")]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineTls(_Settings):
    """The files (PEM) for the TLS connection to an engine on another machine."""

    ca: Path | None = Field(
        default=None,
        description="CA certificates that check the engine's certificate; else the host's.",
    )
    cert: Path | None = Field(
        default=None, description="Client certificate that is shown to the engine."
    )
    key: Path | None = Field(default=None, description="The key of that certificate.")
    verify: bool = Field(default=True, description="Whether the engine's certificate is checked.")

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together")
        return self


class EngineSettings(_Settings):
    """The container engine."""

    host: str | None = Field(
        default=None,
        description="Where the engine listens, such as `unix:///run/docker.sock` or "
        "`tcp://10.0.0.5:2376`; else `DOCKER_HOST`, else the local socket.",
    )
    tls: EngineTls | None = Field(
        default=None,
        description="Certificates for an engine behind TCP; else `DOCKER_TLS_VERIFY` and "
        "`DOCKER_CERT_PATH` count.",
    )
    plaintext: bool = Field(
        default=False,
        description="Allow TCP without TLS, which makes everybody who can reach the port root on "
        "the engine's host.",
    )
    delivery: Literal["auto", "mount", "volume"] = Field(
        default="auto",
        description="How files get into containers: by `mount` from this machine's disk, or in a "
        "`volume` that the engine keeps. `auto` mounts where the engine has a Unix socket.",
    )
    runtime_class: Literal["auto", "runc", "crun", "gvisor"] = Field(
        default="auto",
        description="OCI runtime: `auto` takes crun where the engine has it, else runc. "
        "One that is named and missing is an error, never replaced by another.",
    )
    timeout: Duration = Field(
        default=30.0, description="Time limit of one quick call to the engine."
    )


class ResourceLimits(_Settings):
    """Limits that a manifest can ask for."""

    timeout: Timeout = 30.0
    memory: Memory = 128 * MIB
    cpu: Cpu = 1.0
    pids: Pids = 128
    tmp: Tmp = 64 * MIB


class Ceilings(ResourceLimits):
    """Upper bounds for the limits in manifests."""

    timeout: Timeout = 300.0
    memory: Memory = 1024 * MIB
    cpu: Cpu = 2.0
    pids: Pids = 512
    tmp: Tmp = 512 * MIB
    reuse: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=1,
        description="Invocations that one container may serve; above 1, an invocation can leave "
        "data behind for the next.",
    )


class FixedLimits(_Settings):
    """Limits that only the operator sets."""

    boot: Duration = Field(
        default=10.0, description="Time for a container to be ready for a request."
    )
    request: Size = Field(
        default=8 * MIB, description="Size of one request, uploaded files included."
    )
    output: Size = Field(
        default=8 * MIB, description="Size of stdout; over it the function is killed."
    )
    logs: Size = Field(
        default=1 * MIB, description="Size of all logs; over it the function is killed."
    )
    open_files: Annotated[int, Field(ge=16, le=1_048_576)] = Field(
        default=1024, description="Open files of one process."
    )
    file_size: Size = Field(
        default=512 * MIB, description="Size of one file that a function writes."
    )
    bundle: Size = Field(default=256 * MIB, description="Size of a function's directory.")
    bundle_files: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=20_000, description="Files in a function's directory."
    )


class NetworkSettings(_Settings):
    """The destinations that functions may reach. Limits are for one invocation."""

    allow: tuple[Destination, ...] = Field(
        default=(),
        description="What manifests may ask for: `host:port`, or `*.example.org:443` for every "
        "name below `example.org`.",
    )
    allow_private: tuple[Destination, ...] = Field(
        default=(),
        description="Destinations of `network.allow` that may be on a private network or on this "
        "machine.",
    )
    max_connections: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=64, description="Connections at once."
    )
    max_total_connections: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=1000, description="Connections in total."
    )
    max_bytes: Size = Field(
        default=256 * MIB, description="Bytes sent and received, over all connections."
    )
    connect_timeout: Duration = Field(
        default=10.0, description="Time for looking up a name and connecting to it."
    )

    @model_validator(mode="after")
    def _private_is_allowed(self) -> Self:
        allowed = [Place.parse(text) for text in self.allow]
        for text in self.allow_private:
            if not covered(Place.parse(text), allowed):
                raise ValueError(f"{text} is in allow_private, and allow does not cover it")
        return self


class PoolSettings(_Settings):
    """Containers that are booted ahead of requests; docs/pool.md says how many."""

    enabled: bool = Field(default=True, description="Whether containers are booted ahead at all.")
    containers: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=64, description="All containers at once, booted ahead or serving."
    )
    memory: Size = Field(
        default=4096 * MIB,
        description="Sum of the memory limits of all containers that are kept warm.",
    )
    starts: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None,
        description="Containers that boot ahead at once; else half the processors of this machine.",
    )
    idle: Duration = Field(
        default=600.0,
        description="A container of 128 MiB is kept booted while a request is expected within "
        "this time, one of twice the memory half as long.",
    )
    min_warm: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=0, description="Containers kept booted for a function whose manifest has no `warm`."
    )
    max_warm: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=16,
        description="Most containers kept booted for one function, whatever its manifest asks for.",
    )


class QueueSettings(_Settings):
    """Invocations that wait for a container. Further ones are refused at once."""

    length: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=256, description="Invocations that may wait, of all functions."
    )
    per_function: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=64, description="Invocations that may wait, of one function."
    )


class BuildSettings(_Settings):
    """Containers that compile or build functions, or install their dependencies."""

    timeout: Duration = Field(default=300.0, description="Time limit of one build.")
    memory: Size = Field(
        default=2048 * MIB, description="Memory of one build, its `/tmp` included."
    )
    cpu: Cpu = 2.0
    pids: Pids = 512
    tmp: Size = Field(
        default=1024 * MIB,
        description="Size of `/tmp`, where everything is built; counted against memory.",
    )
    output: Size = Field(
        default=512 * MIB, description="Size of the result of one build or installation."
    )
    concurrency: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=2, description="Builds at once."
    )
    network: Literal["registries", "none", "bridge"] = Field(
        default="registries",
        description="`registries`: through the gateway, to the package registries and "
        "`build.allow`, and nowhere else. `bridge`: the engine's own network, which leads to "
        "everything that this machine can reach.",
    )
    registries: dict[Literal["pip", "npm", "jsr"], RegistryUrl] = Field(
        default_factory=dict,
        description="URL of a registry to use instead of the tool's own default.",
    )
    allow: tuple[Destination, ...] = Field(
        default=(), description="What builds may reach besides the registries: `host:port`."
    )


class ImageSettings(_Settings):
    """How images are built, and which images replace them."""

    base: str | None = Field(
        default=None,
        description="Debian image to build from, such as `debian:trixie-slim`; "
        "without one, `mmdebstrap` makes it.",
    )
    ca_bundle: Path | None = Field(
        default=None,
        description="CA certificates (PEM) to trust while images and functions are built, for a "
        "registry behind a proxy; else the host's own. Never left in an image or a bundle.",
    )
    override: dict[Runtime, str] = Field(
        default_factory=dict, description="Image of your own for a runtime, by name or digest."
    )


class Settings(_Settings):
    """Everything that the operator decides."""

    engine: EngineSettings = EngineSettings()
    store: Path | None = Field(
        default=None,
        description="Where bundles and builds are kept; else the user's cache directory.",
    )
    secrets_file: Path | None = Field(
        default=None,
        description="YAML map of names to values; `${NAME}` in a manifest reads only here.",
    )
    alyx_url: str = Field(
        default="", description="The Alyx server's address, as functions are told it."
    )
    runtimes: tuple[Runtime, ...] = Field(
        default=tuple(Runtime), description="Runtimes that functions may use."
    )
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=16, description="Invocations that may run at once; more wait their turn."
    )
    defaults: ResourceLimits = Field(
        default=ResourceLimits(), description="What a function gets that asks for nothing."
    )
    ceilings: Ceilings = Field(default=Ceilings(), description="The most that a manifest gets.")
    limits: FixedLimits = FixedLimits()
    pool: PoolSettings = PoolSettings()
    queue: QueueSettings = QueueSettings()
    build: BuildSettings = BuildSettings()
    images: ImageSettings = ImageSettings()
    network: NetworkSettings = NetworkSettings()
    server: ServerSettings = ServerSettings()

    @property
    def store_directory(self) -> Path:
        """The directory of bundles and builds: `store`, else the default."""
        return self.store or default_store(os.environ)

    def with_server(self, values: Mapping[str, object]) -> Settings:
        """A copy with other values in the section `server`.

        Raises:
            InvalidSettingsError: the values contradict each other.
        """
        # No other value is read again: a number of bytes would count as MiB.
        beside = {name: getattr(self.server, name) for name in ("host", "authentication")}
        try:
            read = ServerSettings.model_validate(beside | dict(values))
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise InvalidSettingsError(f"server: {reason}") from None
        update = {name: getattr(read, name) for name in values}
        return self.model_copy(update={"server": self.server.model_copy(update=update)})

    @field_validator("alyx_url")
    @classmethod
    def _alyx_url_is_reachable(cls, url: str) -> str:
        if url:
            Callback.parse(url)
        return url


def default_store(environment: Mapping[str, str]) -> Path:
    """The default directory of bundles and builds."""
    return cache_directory(environment)
