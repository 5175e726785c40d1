"""The operator's settings: defaults, then `sandbox.yaml`, then `SANDBOX_…` in the environment.

Nothing is read at import. A manifest asks; these settings decide (see `sandbox.policy`).
"""

from __future__ import annotations

import json
import os
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, get_args

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
from sandbox.config.field_types import (  # noqa: TC001 - pydantic reads them
    Destination,
    Duration,
    RegistryUrl,
    Size,
)
from sandbox.config.locations import ENV_OF_OPTIONS, ENV_PREFIX, SETTINGS_FILE, cache_directory
from sandbox.config.server_settings import ServerSettings
from sandbox.documents.problems import Problem, has_errors
from sandbox.documents.validation_problems import validated
from sandbox.documents.yaml_reader import Node, load
from sandbox.errors import InvalidSettingsError
from sandbox.runtimes import Runtime
from sandbox.units import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo


# `SANDBOX_ENGINE__HOST` sets `engine.host`: a single underscore is part of a name.
ENV_SEPARATOR: Final = "__"
# Settings that are paths: relative ones start at the directory of the file.
_PATHS: Final = (
    ("store",),
    ("secrets_file",),
    ("images", "ca_bundle"),
    ("engine", "tls", "ca"),
    ("engine", "tls", "cert"),
    ("engine", "tls", "key"),
    ("server", "tokens", "key_file"),
    ("server", "jwt", "jwks"),
)
# What a URL has and a path does not.
_URL_MARK: Final = "://"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineTls(_Settings):
    """The files (PEM) that an engine on another machine is reached with."""

    ca: Path | None = Field(
        default=None,
        description="CA certificates that the engine's is checked with; else the host's.",
    )
    cert: Path | None = Field(default=None, description="Our certificate, for the engine to check.")
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
        description="Whether TCP without TLS will do: it makes everyone root on the engine's host "
        "who can reach it.",
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
        default=30.0, description="For one call to the engine that should be quick."
    )


class ResourceLimits(_Settings):
    """Limits that a manifest can ask for."""

    timeout: Duration = Field(
        default=30.0, description="Time limit, from the request to the response."
    )
    memory: Size = Field(
        default=128 * MIB, description="Memory, `/tmp` included; there is no swap."
    )
    cpu: Annotated[float, Field(gt=0, le=1024)] = Field(default=1.0, description="CPU cores.")
    pids: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=128, description="Processes and threads."
    )
    tmp: Size = Field(default=64 * MIB, description="Size of `/tmp`, counted against memory.")


class Ceilings(ResourceLimits):
    """The most that a manifest gets, whatever it asks for."""

    timeout: Duration = Field(
        default=300.0, description="Time limit, from the request to the response."
    )
    memory: Size = Field(
        default=1024 * MIB, description="Memory, `/tmp` included; there is no swap."
    )
    cpu: Annotated[float, Field(gt=0, le=1024)] = Field(default=2.0, description="CPU cores.")
    pids: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=512, description="Processes and threads."
    )
    tmp: Size = Field(default=512 * MIB, description="Size of `/tmp`, counted against memory.")
    reuse: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=1,
        description="Invocations that one container may serve; above 1, one can leave "
        "something behind for the next.",
    )


class FixedLimits(_Settings):
    """Limits that are the operator's alone."""

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
    """What functions may reach, and how much of it. Limits are for one invocation."""

    allow: tuple[Destination, ...] = Field(
        default=(),
        description="What manifests may ask for: `host:port`, or `*.example.org:443` for every "
        "name below `example.org`.",
    )
    allow_private: tuple[Destination, ...] = Field(
        default=(),
        description="Those of `network.allow` that may be on a private network or on this machine.",
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
        default=10.0, description="For finding a name's address and connecting to it."
    )

    @model_validator(mode="after")
    def _private_is_allowed(self) -> Self:
        allowed = [Place.parse(text) for text in self.allow]
        for text in self.allow_private:
            if not covered(Place.parse(text), allowed):
                raise ValueError(f"{text} is in allow_private, and allow does not cover it")
        return self


class PoolSettings(_Settings):
    """Containers that are booted before they are asked; docs/pool.md says how many."""

    enabled: bool = Field(default=True, description="Whether containers are booted ahead at all.")
    containers: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=64, description="All containers at once, booted ahead or serving."
    )
    memory: Size = Field(
        default=4096 * MIB,
        description="Memory limits, in sum, of the containers that nobody waits for.",
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
        default=0, description="Containers always kept booted of a function that asks for nothing."
    )
    max_warm: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=16, description="The most containers of one function kept booted, whatever it asks."
    )


class QueueSettings(_Settings):
    """Invocations that wait for a container. One more than this is refused at once."""

    length: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=256, description="Invocations that may wait, of all functions."
    )
    per_function: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=64, description="Invocations that may wait, of one function."
    )


class BuildSettings(_Settings):
    """Containers that compile or build functions, or install what they depend on."""

    timeout: Duration = Field(default=300.0, description="Time limit of one build.")
    memory: Size = Field(
        default=2048 * MIB, description="Memory of one build, its `/tmp` included."
    )
    cpu: Annotated[float, Field(gt=0, le=1024)] = Field(default=2.0, description="CPU cores.")
    pids: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=512, description="Processes and threads."
    )
    tmp: Size = Field(
        default=1024 * MIB,
        description="Size of `/tmp`, where everything is built; counted against memory.",
    )
    output: Size = Field(
        default=512 * MIB, description="Size of what one build or installation gives."
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
    """How images are built, and which to use instead of the project's own."""

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
        """Where bundles and builds are kept: `store`, or else the default."""
        return self.store or default_store(os.environ)

    def with_server(self, values: Mapping[str, object]) -> Settings:
        """The same, with other values in the section `server`.

        Raises:
            InvalidSettingsError: they do not go with the others.
        """
        # Nothing else is read again: a number of bytes would be taken for one of MiB.
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


def load_settings(
    path: Path | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """The settings in force: defaults, the file at `path`, then `environment`.

    Without a path, `sandbox.yaml` in the working directory is read if it is there. Relative paths
    in the file start at its directory.

    Raises:
        InvalidSettingsError: a file or a variable cannot be used; `details.problems` lists why.
    """
    node: Node | None = None
    file = str(path or SETTINGS_FILE)
    problems: list[Problem] = []
    if path is not None or Path(SETTINGS_FILE).exists():
        node, problems = load(Path(file), file, follow_links=True)
    in_file = node.value if node is not None and node.value is not None else {}
    if not isinstance(in_file, dict):
        problems = [*problems, Problem(message="settings are a map of names to values", file=file)]
        in_file = {}
    values = merge(
        _with_absolute_paths(in_file, Path(file).parent),
        settings_from_environment(environment or {}),
    )
    settings, more = validated(
        Settings,
        values,
        node=node or Node(values, 1, 1),
        file=file if node else "environment",
        known=_known_fields(Settings),
    )
    problems = [*problems, *more]
    if settings is None or has_errors(problems):
        raise InvalidSettingsError(
            "the settings have problems:\n" + "\n".join(str(problem) for problem in problems),
            hint=f"they come from {file} and from variables that begin with {ENV_PREFIX}",
            details={"problems": [problem.to_dict() for problem in problems]},
        )
    return settings


def _with_absolute_paths(values: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """`values` with the paths that are relative to the settings file made absolute."""
    result = deepcopy(dict(values))
    for *sections, name in _PATHS:
        place: Any = result
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        path = place.get(name) if isinstance(place, dict) else None
        if isinstance(path, str) and _URL_MARK not in path:
            place[name] = str(directory.absolute() / path)
    return result


def _known_fields(model: type[BaseModel]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """The names that each section has, by the path of the section: for "did you mean"."""
    known: dict[tuple[str, ...], tuple[str, ...]] = {(): tuple(model.model_fields)}
    for name, field in model.model_fields.items():
        below = section_model(field)
        if below is not None:
            for path, names in _known_fields(below).items():
                known[(name, *path)] = names
    return known


def section_model(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a section, also one that may be left out; else None."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def settings_from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The nested mapping that `SANDBOX_…` variables describe.

    `SANDBOX_LIMITS__OUTPUT=1mb` becomes `{"limits": {"output": "1mb"}}`; a value that begins
    with `[` or `{` is read as JSON.

    Raises:
        InvalidSettingsError: a value is no JSON, or a variable sets a whole section and another
            a part of it.
    """
    nested: dict[str, Any] = {}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ENV_PREFIX) or variable in ENV_OF_OPTIONS:
            continue
        *sections, key = variable.removeprefix(ENV_PREFIX).lower().split(ENV_SEPARATOR)
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise InvalidSettingsError(
                    f"{variable}: {section} is set as a whole by another variable",
                    hint="unset one of them",
                )
        try:
            place[key] = json.loads(text) if text[:1] in ("[", "{") else text
        except ValueError as error:
            raise InvalidSettingsError(f"{variable} is no JSON: {error}") from None
    return nested


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, maps merged key by key, everything else replaced."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both_maps = isinstance(under, dict) and isinstance(value, dict)
        merged[key] = merge(under, value) if both_maps else value  # type: ignore[arg-type]
    return merged


def default_store(environment: Mapping[str, str]) -> Path:
    """Where bundles and builds are kept, if the settings do not say."""
    return cache_directory(environment)
