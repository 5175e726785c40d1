"""The settings of `sandbox serve`: the section `server`."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads it
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sandbox.config.field_types import Duration, Size  # noqa: TC001 - the same
from sandbox.units import MIB

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

Scope = Literal["invoke", "read", "admin", "impersonate"]


# Marks a text that is a path, unless it is a URL.
PATH_OR_URL: Final = "path or URL"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class JwtSettings(_Section):
    """JSON Web Tokens that callers may present; their claims become `context.auth`."""

    jwks: Annotated[str, PATH_OR_URL] = Field(description="The keys: a file, or an `https` URL.")
    issuer: str = Field(description="The `iss` that a token must have.")
    audience: str = Field(description="The `aud` that a token must have.")
    algorithms: tuple[
        Literal["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"], ...
    ] = Field(default=("RS256", "ES256", "EdDSA"), description="Algorithms that are accepted.")
    leeway: Duration = Field(
        default=10.0, description="Tolerated difference between the clocks of issuer and server."
    )
    scopes: tuple[Scope, ...] = Field(
        default=("invoke",), description="Scopes of a caller with such a token."
    )
    functions: tuple[str, ...] = Field(
        default=("*",),
        description="Functions that such a caller may invoke; `*` matches any part of a name.",
    )

    @field_validator("jwks")
    @classmethod
    def _is_not_sent_in_the_clear(cls, place: str) -> str:
        if "://" in place and not place.startswith("https://"):
            raise ValueError("keys are read from a file or an https URL")
        return place


class CallerLimits(_Section):
    """The limits of one caller. A key can have lower ones."""

    rate: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=1000, description="Requests per second."
    )
    concurrency: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=256, description="Requests at the same time."
    )
    body: Size = Field(default=8 * MIB, description="Size of a request's body.")


class ExecutionSettings(_Section):
    """The record of executions, and the queue of asynchronous ones."""

    database: str | None = Field(
        default=None,
        description="`sqlite:///FILE` or `postgresql+psycopg://…`; else a SQLite file.",
    )
    keep: Duration = Field(default=7 * 86400.0, description="How long ended executions are kept.")
    keep_count: Annotated[int, Field(ge=0, le=100_000_000)] = Field(
        default=100_000, description="Number of ended executions that are kept."
    )
    log_tail: Size = Field(
        default=16 * 1024, description="How much of its log is kept with each execution."
    )
    queue: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        default=10_000, description="Executions that may wait in the queue."
    )
    queue_bytes: Size = Field(
        default=1024 * MIB, description="Total size of the inputs of waiting executions."
    )
    workers: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=4,
        description="Background executions (asynchronous, webhook, schedule) that run at once.",
    )


class TokenSettings(_Section):
    """Internal tokens, by which a function proves its identity to the Alyx server."""

    key_file: Path | None = Field(
        default=None,
        description="Ed25519 private key (PEM) that signs them; else a new one at each start.",
    )
    grace: Duration = Field(
        default=5.0, description="How long a token stays valid after its invocation's deadline."
    )


class ScheduleSettings(_Section):
    """Schedules that manifests ask for."""

    enabled: bool = Field(default=True, description="Whether schedules run.")
    missed: Literal["skip", "once"] = Field(
        default="once",
        description="Runs that were missed while the server was down: `once` replaces all missed "
        "runs of a schedule by one, `skip` waits for the next.",
    )
    missed_within: Duration = Field(
        default=3600.0, description="A run missed by more than this is skipped."
    )


class TracingSettings(_Section):
    """OpenTelemetry traces; none without an endpoint."""

    endpoint: str | None = Field(
        default=None, description="OTLP over HTTP: `http://collector:4318/v1/traces`."
    )
    ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1.0, description="Fraction of the traces started by this server that is recorded."
    )


class ServerSettings(_Section):
    """`sandbox serve`."""

    host: str = Field(
        default="127.0.0.1",
        description="Address to listen at. An address that other machines reach needs "
        "`authentication`.",
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=8080, description="Port to listen at; 0 for any free one."
    )
    authentication: Literal["none", "required"] = Field(
        default="none", description="Whether callers need an API key or a JSON Web Token."
    )
    jwt: JwtSettings | None = Field(
        default=None, description="Accept JSON Web Tokens, besides API keys."
    )
    limits: CallerLimits = CallerLimits()
    connections: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1024, description="Connections at once; more are answered with 503."
    )
    patience: Duration = Field(
        default=10.0,
        description="How long a client may take to send its headers, or a body's part.",
    )
    cors: tuple[str, ...] = Field(
        default=(), description="Origins whose pages may call: `https://app.example.org`."
    )
    idempotency: Duration = Field(
        default=86400.0, description="How long an `Idempotency-Key` is remembered."
    )
    idempotency_bytes: Size = Field(
        default=256 * MIB,
        description="Total size of the answers kept for these keys; the oldest are removed first.",
    )
    drain: Duration = Field(
        default=30.0,
        description="How long running executions may take to finish when the server stops.",
    )
    executions: ExecutionSettings = ExecutionSettings()
    tokens: TokenSettings = TokenSettings()
    schedules: ScheduleSettings = ScheduleSettings()
    tracing: TracingSettings = TracingSettings()

    @model_validator(mode="after")
    def _open_only_to_this_machine(self) -> Self:
        if self.host not in LOOPBACK and self.authentication == "none":
            raise ValueError(
                f"host {self.host} can be reached from elsewhere: set `authentication: required`"
            )
        return self
