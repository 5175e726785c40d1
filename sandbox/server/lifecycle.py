"""The server's life: start, reload by SIGHUP, and an end that leaves no container behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, Protocol

import uvicorn
from sse_starlette.sse import AppStatus

from sandbox.errors import InvalidSettingsError, SandboxError
from sandbox.server.http.app import create_app
from sandbox.server.http.connection_limits import bounded_protocol
from sandbox.server.http.health import Readiness
from sandbox.server.warm_up import WarmUp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox.deploy.reload_events import WatchEvent
    from sandbox.server.service import Service

log = logging.getLogger(__name__)

# After the time to drain, what was killed may take so long to be gone, in seconds.
_GRACE = 20.0
# New objects after which garbage is collected; a few invocations make the default's 700.
_GARBAGE = 20_000
# Settings that a reload does not change: the socket is bound, the application is built.
_FIXED = ("host", "port", "cors")


class Companion(Protocol):
    """Runs beside a service: hot reload or the warm-up, and the local socket."""

    def stop(self) -> None:
        """Begin nothing more, and do not wait: another service comes into force, or none."""

    def close(self) -> None:
        """Wait until what was begun has ended. Nothing is built any more."""


class Reporter(Protocol):
    """Shows the URL, reloads of functions, and warnings; is called in several threads."""

    def announce(self, url: str) -> None: ...
    def show(self, event: WatchEvent) -> None: ...
    def warn(self, message: str) -> None: ...


class Lifecycle:
    """Runs services at one address until SIGTERM or SIGINT; a second one hurries.

    `build` reads the settings and makes a service, at first and on SIGHUP; it is given the one
    before. With `watch`, functions are reloaded when their files change. `open_socket` is called
    with each service that comes into force, to serve the command line too.

    Raises:
        SandboxError: the settings or the database cannot be used.
    """

    def __init__(
        self,
        build: Callable[[Service | None], Service],
        *,
        reporter: Reporter,
        open_socket: Callable[[Service], Companion | None],
        watch: bool,
    ) -> None:
        self._build = build
        self._reporter = reporter
        self._open_socket = open_socket
        self._watch = watch
        self._readiness = Readiness()
        # Held while services change.
        self._changing = threading.Lock()
        self._ended = False
        self._companions: list[Companion] = []
        # Services that were replaced, and the threads in which they end.
        self._replaced: list[tuple[Service, threading.Thread]] = []
        self.service = build(None)

    def run(self) -> None:
        """Serve until the end. Every container is gone when it returns."""
        # Until it can be heard: what it asks for has just been done.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        settings = self.service.settings.server
        try:
            with _bind(settings.host, settings.port) as listening:
                self._serve(listening)
        finally:
            self.end()

    def _serve(self, listening: socket.socket) -> None:
        config = uvicorn.Config(
            create_app(lambda: self.service, self._readiness),
            http=bounded_protocol(lambda: self.service.settings.server),
            ws="none",
            loop="uvloop",
            lifespan="off",
            proxy_headers=False,
            log_config=None,
            access_log=False,
            server_header=False,
        )
        # A stream is an invocation like any other: it would end at once, and not when it is done.
        AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]
        host, port = listening.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        _Server(config, life=self, url=url).run(sockets=[listening])

    def begin(self, url: str) -> None:
        """Requests are taken from now on."""
        with self._changing:
            self.service.start()
            self._companions = self._accompany(self.service)
        # What was made until now stays, and need not be looked at whenever garbage is collected.
        gc.freeze()
        gc.set_threshold(_GARBAGE)
        self._reporter.announce(url)
        _notify("READY=1")

    def reload(self) -> None:
        """Read settings, secrets and functions again. What cannot be used changes nothing."""
        with self._changing:
            if self._ended:
                return
            try:
                self._replace()
            except SandboxError as error:
                log.error("the settings stay as they were: %s", error)
            except Exception:  # the edge of a thread
                log.exception("the settings stay as they were")
            else:
                log.info("settings, secrets and functions were read again")

    def _replace(self) -> None:
        """Put another service into force; the one before finishes what it took."""
        before, companions = self.service, self._companions
        after = self._build(before)
        for name in _FIXED:
            if getattr(after.settings.server, name) != getattr(before.settings.server, name):
                log.warning("server.%s changes with the next start only", name)
        after.start()
        for companion in companions:
            companion.stop()
        self._companions = self._accompany(after)
        self.service = after
        ending = threading.Thread(target=_end, args=(before, companions), name="drain")
        ending.start()
        ending_still = [item for item in self._replaced if item[1].is_alive()]
        self._replaced = [*ending_still, (before, ending)]

    def _accompany(self, service: Service) -> list[Companion]:
        """Start what runs beside a service."""
        socket = self._open_socket(service)
        sandbox, reporter = service.sandbox, self._reporter
        return [
            sandbox.hot_reload(reporter.show) if self._watch else WarmUp(sandbox, reporter.warn),
            *([] if socket is None else [socket]),
        ]

    def end(self) -> None:
        """Take nothing more, finish what runs, kill what does not end; no container is left."""
        self._readiness.draining = True
        with self._changing:
            if self._ended:
                return
            self._ended = True
            _notify("STOPPING=1")
            _end(self.service, self._companions)
            for _, ending in self._replaced:
                ending.join()

    def hurry(self) -> None:
        """Wait no longer: kill what runs."""
        for service in (self.service, *(service for service, _ in self._replaced)):
            service.hurry()


def _end(service: Service, companions: Sequence[Companion]) -> None:
    """Let what a service took finish, within its own time to drain."""

    def close() -> None:
        for companion in companions:
            companion.close()

    for companion in companions:
        companion.stop()
    service.drain(service.settings.server.drain, last=close)


class _Server(uvicorn.Server):
    """uvicorn's server, whose end is ours too."""

    def __init__(self, config: uvicorn.Config, *, life: Lifecycle, url: str) -> None:
        super().__init__(config)
        self._life = life
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(
            signal.SIGHUP, lambda: threading.Thread(target=self._life.reload).start()
        )
        await loop.run_in_executor(None, self._life.begin, self._url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.get_running_loop().run_in_executor(None, self._life.end)
        # By then only those are open that wait for what does not happen here any more.
        draining.add_done_callback(lambda _: setattr(AppStatus, "should_exit", True))
        drain = self._life.service.settings.server.drain
        self.config.timeout_graceful_shutdown = round(drain + _GRACE)
        await super().shutdown(sockets)
        await draining
        # It would send them to us again, as if nobody had heard them: this end is a good one.
        self._captured_signals.clear()

    def handle_exit(self, sig: int, frame: object) -> None:
        if self.should_exit:
            threading.Thread(target=self._life.hurry, daemon=True).start()
            return
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(2048)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise InvalidSettingsError(
            f"cannot listen at {host}:{port}: {error.strerror or error}",
            hint="another server may be there; --port 0 takes any that is free",
        ) from None
    return listening


def _notify(state: str) -> None:
    """Tell systemd, where it has started us (sd_notify(3))."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        sender.sendto(state.encode(), address)
