"""One build, in a container of its own."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandbox.builds.failure import BuildFailedError
from sandbox.gateway.allocation import Attachment
from sandbox.policy import build_spec, new_uid
from sandbox.protocol.report import NONCE_VARIABLE
from sandbox.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.engine.base import Container, Engine, Mount, RuntimeClass
    from sandbox.settings import Settings

# Of a build's output, the end is what tells why it failed.
_LOG_TAIL: Final = 8 * 1024


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to run, in which image, with what mounted; `network` is what a gateway adds."""

    command: tuple[str, ...]
    image: str
    mounts: tuple[Mount, ...]
    env: Mapping[str, str]
    network: Attachment = Attachment()  # noqa: RUF009 - frozen


def run_build(  # noqa: PLR0913
    engine: Engine,
    settings: Settings,
    job: Job,
    *,
    runtime_class: RuntimeClass,
    labels: Mapping[str, str],
    take: Callable[[bytes], None] | None = None,
) -> None:
    """Run `job` to its end. What it writes to stdout is given to `take`; without it, it is log.

    Raises:
        BuildFailedError: it failed, took too long, or `take` did not want more.
    """
    nonce = secrets.token_hex(8)
    container = engine.create(
        build_spec(
            job.command,
            settings,
            image=job.image,
            mounts=job.mounts,
            env={**job.env, NONCE_VARIABLE: nonce},
            uid=new_uid(),
            runtime_class=runtime_class,
            labels=labels,
            network=job.network,
        )
    )
    log = _Log(nonce)
    try:
        container.start()
        container.send(b"", end=True)
        _read(container, log, settings.build.timeout, take)
        ended = container.wait(settings.engine.timeout)
    except BuildFailedError as failure:
        raise BuildFailedError(failure.message, log=log.text()) from None
    finally:
        container.remove()
    if ended.exit_code != 0:
        reason = (
            "ran out of memory (`build.memory`)"
            if ended.oom_killed
            else f"ended with exit code {ended.exit_code}"
        )
        raise BuildFailedError(f"the build {reason}", log=log.text())


class _Log:
    """The end of what a build wrote."""

    def __init__(self, nonce: str) -> None:
        self._tail = bytearray()
        # What init says of the exit is not the build's.
        self._reports = re.compile(rb"\x1e%b[^\n]*\n?" % nonce.encode())

    def add(self, data: bytes) -> None:
        self._tail += data
        if len(self._tail) > 16 * _LOG_TAIL:
            self._cut()

    def text(self) -> str:
        self._cut()
        return bytes(self._tail).decode(errors="replace").strip()

    def _cut(self) -> None:
        self._tail = bytearray(self._reports.sub(b"", self._tail)[-_LOG_TAIL:])


def _read(
    container: Container, log: _Log, timeout: float, take: Callable[[bytes], None] | None
) -> None:
    """Everything that the build writes, until it has ended."""
    deadline = time.monotonic() + timeout
    try:
        while (chunk := container.receive(deadline)) is not None:
            if take is not None and chunk.stream == "stdout":
                take(chunk.data)
            else:
                log.add(chunk.data)
    except TimeoutError:
        raise BuildFailedError(
            f"the build took longer than {format_duration(timeout)} (`build.timeout`)"
        ) from None
