"""The options that commands share, and the completion of functions' names.

It imports little: every command's module imports it, even to show help.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from sandbox.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.config.settings import Settings

DEFAULT_FUNCTIONS: Final = Path("functions")


@dataclass(frozen=True, kw_only=True, slots=True)
class Common:
    """The common options. `functions` need not exist: `doctor` works without."""

    functions: Path
    settings_file: Path | None
    json: bool
    engine: str | None = None
    engine_tls: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment, in which the engine's options replace their variables."""
        environment = dict(os.environ)
        if self.engine is not None:
            environment["SANDBOX_ENGINE__HOST"] = self.engine
        if self.engine_tls is not None:
            for name in ("ca", "cert", "key"):
                variable = f"SANDBOX_ENGINE__TLS__{name.upper()}"
                environment[variable] = str(self.engine_tls.absolute() / f"{name}.pem")
        return environment

    def settings(self) -> Settings:
        """The operator's settings. Raises InvalidSettingsError."""
        from sandbox.config.loading import load_settings  # noqa: PLC0415 - brings pydantic

        return load_settings(self.settings_file, self.environment)


def common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that every command has; the command gets them as `common`."""

    @click.option(
        "--functions",
        "functions_dir",
        metavar="DIR",
        type=click.Path(path_type=Path),
        default=DEFAULT_FUNCTIONS,
        envvar="SANDBOX_FUNCTIONS",
        show_envvar=True,
        show_default=True,
        help="Directory of the functions.",
    )
    @click.option(
        "--settings",
        "settings_file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        envvar="SANDBOX_SETTINGS",
        show_envvar=True,
        help="The operator's settings.  [default: sandbox.yaml, if it exists]",
    )
    @click.option(
        "--engine",
        metavar="URL",
        help="Container engine, such as tcp://10.0.0.5:2376; overrides the settings.",
    )
    @click.option(
        "--engine-tls",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="Certificates for the engine, as in DOCKER_CERT_PATH: ca.pem, cert.pem, key.pem.",
    )
    @click.option(
        "--json",
        "as_json",
        is_flag=True,
        callback=_remember_json,
        is_eager=True,
        help="Print one JSON document on stdout, also for errors.",
    )
    @functools.wraps(command)
    def with_common(
        *,
        functions_dir: Path,
        settings_file: Path | None,
        engine: str | None,
        engine_tls: Path | None,
        as_json: bool,
        **others: Any,
    ) -> None:
        common = Common(
            functions=functions_dir,
            settings_file=settings_file,
            engine=engine,
            engine_tls=engine_tls,
            json=as_json,
        )
        command(common=common, **others)

    return with_common


def _remember_json(ctx: click.Context, param: click.Parameter, value: bool) -> bool:  # noqa: ARG001
    """Note it in `meta`, which contexts share, for the code that reports errors."""
    ctx.meta["sandbox.json"] = value
    return value


def complete_function(
    ctx: click.Context,
    param: click.Parameter,  # noqa: ARG001
    incomplete: str,
) -> list[CompletionItem]:
    """Names of functions that begin with `incomplete`."""
    from sandbox.functions.discovery import discover  # noqa: PLC0415 - brings pydantic and yaml

    found = discover(Path(ctx.params.get("functions_dir") or DEFAULT_FUNCTIONS))
    return [
        CompletionItem(function.name, help=function.manifest.description)
        for function in found.functions
        if function.name.startswith(incomplete)
    ]


def duration(text: str) -> float:
    """Seconds from `30`, `30s`, `5m` or `500ms`; the type of an option."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def upload(text: str) -> tuple[str, Path]:
    """Field and path of a file that exists, from `FIELD=PATH`; the type of an option."""
    field, separator, path = text.partition("=")
    if not (field and separator and path):
        raise click.BadParameter(f"{text!r} is not FIELD=PATH")
    if not Path(path).is_file():
        raise click.BadParameter(f"{path!r} is not a file")
    return field, Path(path)


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestOptions:
    """The options that make up a call, as they were given."""

    data: str | None
    auth: str | None
    files: tuple[tuple[str, Path], ...]
    timeout: float | None


def request_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that make up a call; the command gets them as `options`."""

    @click.option(
        "-d",
        "--data",
        metavar="JSON",
        help="Input: a JSON object, @FILE, or - for stdin.  [default: {}]",
    )
    @click.option("--auth", metavar="JSON", help='Who calls: {"id": …, "email": …, "role": …}.')
    @click.option(
        "--file",
        "files",
        metavar="FIELD=PATH",
        type=upload,
        multiple=True,
        help="Upload a file; may be given more than once.",
    )
    @click.option(
        "--timeout",
        metavar="DURATION",
        type=duration,
        help="Time limit, such as 5s or 500ms; overrides the function's own.",
    )
    @functools.wraps(command)
    def with_request(**values: Any) -> None:
        own = {field.name: values.pop(field.name) for field in fields(RequestOptions)}
        command(options=RequestOptions(**own), **values)

    return with_request
