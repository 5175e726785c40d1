"""Manifests: the wishes of a function's author. The operator's settings decide (`sandbox.policy`).

`None` means that the author gave no value: detection or the operator fills it in.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - pydantic reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    model_validator,
)

from sandbox.config.field_types import (
    REFERENCE,
    Destination,
    Duration,
    EnvName,
    EnvValue,
    FunctionName,
    HttpMethods,
    JsonValue,
    RelativePath,
    Requirement,
    RoutePath,
    Size,
)
from sandbox.config.schedule_expressions import check_expression, parse_timezone
from sandbox.documents.problems import Problem, capped, has_errors
from sandbox.documents.validation_problems import validated, wrong_type
from sandbox.documents.yaml_reader import Node, parse
from sandbox.runtimes import Interface, Runtime  # noqa: TC001
from sandbox.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

Count = Annotated[int, Strict()]
NonEmpty = Annotated[str, Field(min_length=1)]


def _list_or_word(value: object) -> str:
    return "<list>" if isinstance(value, list | tuple) else "<word>"


def _none_only(value: object) -> object:
    if value != "none":
        raise ValueError("write none, or a list of host:port such as [example.org:443]")
    return value


# Tagged by the type of the value, so a problem names one of the two forms and not both.
Network = Annotated[
    Annotated[Literal["none"], BeforeValidator(_none_only), Tag("<word>")]
    | Annotated[tuple[Destination, ...], Tag("<list>")],
    Discriminator(_list_or_word),
]
Dependencies = Annotated[
    Annotated[RelativePath, Tag("<word>")] | Annotated[tuple[Requirement, ...], Tag("<list>")],
    Discriminator(_list_or_word),
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Build(_Part):
    """A step that makes the entrypoint, run in a container. Paths are in the function's directory.

    A change of a file that matches a pattern in `watch` causes a new build.
    """

    command: NonEmpty
    args: tuple[str, ...] = ()
    watch: tuple[NonEmpty, ...] = ()
    output: RelativePath


class Route(_Part):
    """An HTTP route that leads to the function."""

    path: RoutePath
    methods: HttpMethods


class Verification(_Part):
    """How a webhook's sender proves its identity. `secret` may be a `${NAME}`."""

    type: Literal["hmac-sha256", "hmac-sha1"]
    header: NonEmpty
    secret: Annotated[EnvValue, Field(min_length=1)]


class Hook(_Part):
    """An event that calls the function; `sync` makes the event wait for the answer."""

    type: Literal["database", "auth", "webhook"]
    source: str = ""
    action: str = ""
    mode: Literal["sync", "async"] = "async"
    config: Mapping[str, JsonValue] = Field(default_factory=dict)
    verification: Verification | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.type == "webhook":
            if self.verification is None:
                raise ValueError("a webhook hook needs `verification`: type, header and secret")
            return self
        missing = [name for name in ("source", "action") if not getattr(self, name)]
        if missing:
            raise ValueError(f"a hook of type {self.type} needs `{'` and `'.join(missing)}`")
        return self

    @model_validator(mode="after")
    def _timeout(self) -> Self:
        timeout = self.config.get("timeout")
        if timeout is not None:
            parse_duration(timeout)
        return self


class Schedule(_Part):
    """A time at which the function is called, with `input` as its input."""

    name: NonEmpty
    type: Literal["cron", "interval", "one_time"]
    expression: NonEmpty
    timezone: str = "UTC"
    config: Mapping[str, JsonValue] = Field(default_factory=dict)
    input: Mapping[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        check_expression(self.type, self.expression)
        parse_timezone(self.timezone)
        return self


class Manifest(_Part):
    """A function's manifest. Durations in seconds, sizes in bytes, `cpu` in cores."""

    name: FunctionName | None = None
    runtime: Runtime | None = None
    entrypoint: RelativePath | None = None
    path: RelativePath | None = None
    interface: Interface | None = None
    description: str = ""
    sample_input: JsonValue = None
    timeout: Duration | None = None
    memory: Size | None = None
    cpu: Annotated[float, Strict(), Field(gt=0, le=1024, allow_inf_nan=False)] | None = None
    pids: Annotated[Count, Field(ge=1, le=1_000_000)] | None = None
    tmp: Size | None = None
    env: Mapping[EnvName, EnvValue] = Field(default_factory=dict)
    dependencies: Dependencies = ()
    build: Build | None = None
    network: Network = "none"
    runtime_class: Literal["runc", "crun", "gvisor"] | None = None
    warm: Annotated[Count, Field(ge=0, le=1000)] | None = None
    reuse: Annotated[Count, Field(ge=1, le=1_000_000)] = 1
    retries: Annotated[Count, Field(ge=0, le=10)] = 0
    routes: tuple[Route, ...] = ()
    hooks: tuple[Hook, ...] = ()
    schedules: tuple[Schedule, ...] = ()

    @model_validator(mode="after")
    def _distinct_schedules(self) -> Self:
        names = [schedule.name for schedule in self.schedules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two schedules are named {twice[0]!r}")
        return self

    @property
    def webhooks(self) -> tuple[Hook, ...]:
        return tuple(hook for hook in self.hooks if hook.type == "webhook")


_FIELDS: Final = {
    (): tuple(Manifest.model_fields),
    ("build",): tuple(Build.model_fields),
    ("routes",): tuple(Route.model_fields),
    ("hooks",): tuple(Hook.model_fields),
    ("hooks", "verification"): tuple(Verification.model_fields),
    ("schedules",): tuple(Schedule.model_fields),
}


def parse_manifest(data: bytes | str, file: str) -> tuple[Manifest | None, list[Problem]]:
    """The manifest in a file's content, and its problems; None if one of them is an error.

    `file` names the file in the problems. An empty file is an empty manifest.
    """
    node, problems = parse(data.encode() if isinstance(data, str) else data, file)
    if node is None:
        return None, problems
    manifest, more = manifest_from(node, file)
    problems = capped([*problems, *more])
    return (None if has_errors(problems) else manifest), problems


def manifest_from(node: Node, file: str) -> tuple[Manifest | None, list[Problem]]:
    """The manifest in a part of a document; see `parse_manifest`."""
    if node.value is None:
        return Manifest(), []
    if not isinstance(node.value, dict):
        return None, [wrong_type(node, file)]
    return validated(Manifest, _prepared(node), node=node, file=file, known=_FIELDS)


def secret_names(manifest: Manifest) -> frozenset[str]:
    """The names of all secrets that a manifest refers to as `${NAME}`."""
    matches = (match for text in _texts(manifest) for match in REFERENCE.finditer(text))
    return frozenset(match[1] for match in matches if match[1])


def resolve(text: str, secrets: Mapping[str, str]) -> str:
    """`text` with every `${NAME}` replaced by that secret, and every `$${` by `${`.

    References inside a secret's value stay as they are.

    Raises:
        KeyError: there is no secret of this name.
    """
    return REFERENCE.sub(lambda match: secrets[match[1]] if match[1] else "${", text)


def _texts(manifest: Manifest) -> Iterator[str]:
    """The texts of a manifest in which `${NAME}` stands for a secret."""
    yield from manifest.env.values()
    for hook in manifest.hooks:
        if hook.verification is not None:
            yield hook.verification.secret


def _prepared(node: Node) -> dict[str, Any]:
    """The values to validate: `network: []` becomes none, and `env` has its scalars as written.

    As in Alyx, `1.10` in `env` is the text 1.10, not a number. A field without a value, for example
    because its lines are commented out, counts as absent.
    """
    values = {name: value for name, value in node.value.items() if value is not None}
    if values.get("network") == []:
        values["network"] = "none"
    env = node.find("env")
    if env is not None and isinstance(env.value, dict):
        values["env"] = {
            name: child.value if child.value is None else child.text or child.value
            for name, child in env.children.items()
        }
    return values
