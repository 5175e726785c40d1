"""One build, in a container of its own: a read-only source in, an output directory out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sandbox.policy import build_spec, new_uid
from sandbox.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sandbox.engine.base import Container, Engine, RuntimeClass
    from sandbox.settings import Settings

# Of a build's output, the end is what tells why it failed.
_LOG_TAIL = 8 * 1024
_RECORD_SEPARATOR = b"\x1e"


class BuildFailedError(Exception):
    """A build failed; `log` is the end of its output. The executor answers with BUILD_FAILED."""

    def __init__(self, message: str, *, log: str) -> None:
        super().__init__(message)
        self.message = message
        self.log = log


def run_build(  # noqa: PLR0913
    engine: Engine,
    settings: Settings,
    *,
    command: tuple[str, ...],
    image: str,
    source: Path,
    output: Path,
    runtime_class: RuntimeClass,
    labels: Mapping[str, str],
) -> None:
    """Run `command` with `source` at /src and `output`, writable, at /out.

    Raises:
        BuildFailedError: it failed or took too long.
    """
    # The container's user is nobody on the host: the directory is opened to it, inside a store
    # that no other account can enter.
    output.chmod(0o777)
    container = engine.create(
        build_spec(
            command,
            settings,
            image=image,
            source=source,
            output=output,
            env={},
            uid=new_uid(),
            runtime_class=runtime_class,
            labels=labels,
        )
    )
    try:
        container.start()
        container.send(b"", end=True)
        log = _read_log(container, settings.build.timeout)
        ended = container.wait(settings.engine.timeout)
    finally:
        container.remove()
    if ended.exit_code != 0:
        reason = (
            "ran out of memory (`build.memory`)"
            if ended.oom_killed
            else f"ended with exit code {ended.exit_code}"
        )
        raise BuildFailedError(f"the build {reason}", log=log)


def _read_log(container: Container, timeout: float) -> str:
    """The end of what the build wrote, once it has ended."""
    deadline = time.monotonic() + timeout
    tail = bytearray()
    try:
        while (chunk := container.receive(deadline)) is not None:
            tail += chunk.data
            del tail[: -2 * _LOG_TAIL]
    except TimeoutError:
        raise BuildFailedError(
            f"the build took longer than {format_duration(timeout)} (`build.timeout`)",
            log=_text(tail),
        ) from None
    return _text(tail)


def _text(output: bytearray) -> str:
    # The last line is init's report of the exit, not the build's.
    written, _, _ = (
        bytes(output).rpartition(_RECORD_SEPARATOR)
        if (_RECORD_SEPARATOR in output)
        else (bytes(output), b"", b"")
    )
    return written[-_LOG_TAIL:].decode(errors="replace").strip()
