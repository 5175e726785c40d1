"""Runs the jobs of builds, each in a container of its own."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from sandbox.cancellation import Cancellation
from sandbox.documents.problems import printable
from sandbox.errors import BuildFailedError
from sandbox.gateway.allocation import Attachment
from sandbox.policy.container_spec import Launch, build_spec
from sandbox.protocol.report import Marks, Report
from sandbox.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from sandbox.config.settings import Settings
    from sandbox.engine.base import Chunk, Container, Engine, Exit, Mount, RuntimeClass
    from sandbox.engine.delivery import Delivery
    from sandbox.store.owners import Owner

log = logging.getLogger(__name__)

# The end of a build's output tells why it failed.
_LOG_TAIL: Final = 8 * 1024
_MOST_SHOWN: Final = 5
_NO_MEMORY: Final = "its memory ran out (`build.memory`)"
_NO_SPACE: Final = "its disk was full (`build.tmp`)"
_NO_SPACE_LEFT: Final = os.strerror(errno.ENOSPC)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command to run in a container.

    `name` is its function, for the container's label. The job may reach the registries of `tools`
    and the destinations that the operator allows to builds; an `offline` one reaches nothing.
    """

    name: str
    command: tuple[str, ...]
    image: str
    runtime_class: RuntimeClass
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    # Further writable directories, besides /tmp.
    scratch: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    offline: bool = False


class BuildContainers:
    """Runs jobs, each in a container of its own. Safe to use from many threads."""

    def __init__(
        self, engine: Engine, settings: Settings, *, delivery: Delivery, owner: Owner
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._delivery = delivery
        self._owner = owner
        self._places = threading.BoundedSemaphore(settings.build.concurrency)
        self._ending = Cancellation()

    def stop(self) -> None:
        """Stop running jobs, and run no more."""
        self._ending.cancel()

    def run(
        self,
        job: Job,
        *,
        take: Callable[[bytes], None] | None = None,
        network: Attachment = Attachment(),  # noqa: B008 - frozen
        hosts: frozenset[str] = frozenset(),
    ) -> None:
        """Run a job to its end, as soon as a place is free.

        `take` gets its stdout; without `take`, stdout is log. `network` is the gateway's part of
        the container, and leads to `hosts`.

        Raises:
            BuildFailedError: it failed, took too long, was stopped, or `take` refused its output.
        """
        launch = Launch(
            image=job.image,
            runtime_class=job.runtime_class,
            labels=self._owner.labels(job.name),
            env=job.env,
            network=network,
        )
        spec = build_spec(
            job.command, self._settings, launch, mounts=job.mounts, scratch=job.scratch
        )
        if job.offline:
            spec = replace(spec, network="none")
        log_of = _Log(launch.nonce)
        with self._places:
            _check(self._ending)
            with self._delivery.lend(spec) as delivered:
                container = self._engine.create(delivered)
                ended = _run(container, self._settings, log_of, take, self._ending)
        signs = _signs(log_of.report, hosts)
        if ended.exit_code != 0:
            _check(self._ending)
            if ended.oom_killed and not log_of.report.oom_kills:
                signs.append(_NO_MEMORY)
            # An installer cleans up when it fails, so there may be space again.
            if _NO_SPACE_LEFT in log_of.text() and not log_of.report.tmp_full:
                signs.append(_NO_SPACE)
            reason = "; ".join([f"the build ended with exit code {ended.exit_code}", *signs])
            raise BuildFailedError(reason, log=log_of.text())
        for sign in signs:
            log.warning("%s: while it was built, %s", job.name, sign)


def _run(
    container: Container,
    settings: Settings,
    log: _Log,
    take: Callable[[bytes], None] | None,
    ending: Cancellation,
) -> Exit:
    """Run a container to its end, and remove it."""
    try:
        container.start()
        # Only now: a container that has not started cannot be killed.
        ending.on_cancel(container.kill)
        container.send(b"", end=True)
        _read(container, log, settings.build.timeout, take)
        return container.wait(settings.engine.timeout)
    except BuildFailedError as failure:
        raise BuildFailedError(failure.message, log=log.text()) from None
    finally:
        ending.forget(container.kill)
        container.remove()


def _check(ending: Cancellation) -> None:
    if ending.cancelled:
        raise BuildFailedError("the build was stopped: nothing more is built here")


class _Log:
    """The end of a build's output, and init's report."""

    def __init__(self, nonce: str) -> None:
        self._tail = bytearray()
        self._marks = Marks(nonce)

    def add(self, chunk: Chunk) -> None:
        self._tail += self._marks.feed(chunk.data) if chunk.stream == "stderr" else chunk.data
        del self._tail[:-_LOG_TAIL]

    def text(self) -> str:
        return bytes(self._tail).decode(errors="replace").strip()

    @property
    def report(self) -> Report:
        return self._marks.report or Report()


def _signs(report: Report, hosts: Collection[str]) -> list[str]:
    """The limits that a build hit, and the hosts besides `hosts` that it tried to reach."""
    signs = []
    if report.oom_kills:
        signs.append(_NO_MEMORY)
    if report.tmp_full:
        signs.append(_NO_SPACE)
    if report.pids_denied:
        signs.append("it wanted more processes than it may have (`build.pids`)")
    # A resolver may also ask for the IPv6 address of a name that is in /etc/hosts.
    denied = [name for name in dict.fromkeys(report.denied) if name.lower() not in hosts]
    if denied:
        names = printable(", ".join(denied[:_MOST_SHOWN]))
        signs.append(f"it wanted to reach {names}, which it may not (`build.allow`)")
    return signs


def _read(
    container: Container, log: _Log, timeout: float, take: Callable[[bytes], None] | None
) -> None:
    """Read the build's output until its end."""
    deadline = time.monotonic() + timeout
    try:
        while (chunk := container.receive(deadline)) is not None:
            if take is not None and chunk.stream == "stdout":
                take(chunk.data)
            else:
                log.add(chunk)
    except TimeoutError:
        raise BuildFailedError(
            f"the build took longer than {format_duration(timeout)} (`build.timeout`)"
        ) from None
