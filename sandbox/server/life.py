"""The server's life: start, reload by SIGHUP, and an end that leaves no container behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING

import uvicorn

from sandbox.errors import InvalidSettingsError, SandboxError
from sandbox.server.app import create_app
from sandbox.server.connection import bounded_protocol
from sandbox.server.service import Service
from sandbox.server.state import Readiness

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox.settings import Settings

log = logging.getLogger(__name__)

# After the time to drain, what was killed may take so long to be gone, in seconds.
_GRACE = 20.0
_SWITCH = 0.0005
# Settings that a reload does not change: the socket is bound, the application is built.
_FIXED = ("host", "port", "cors")


class Life:
    """Runs services at one address until SIGTERM or SIGINT; a second one hurries.

    `load` reads the settings, at first and on SIGHUP. `in_service` is called with each service
    that comes into force, and returns what ends that again; `announce` with the URL, once
    requests are taken.

    Raises:
        SandboxError: the settings or the database cannot be used.
    """

    def __init__(
        self,
        load: Callable[[], Settings],
        functions: Path,
        *,
        in_service: Callable[[Service], contextlib.AbstractContextManager[object]],
        announce: Callable[[str], None],
    ) -> None:
        self._load = load
        self._functions = functions
        self._in_service = in_service
        self._announce = announce
        self._reloading = threading.Lock()
        self._readiness = Readiness()
        self._old: list[threading.Thread] = []
        self._companions = contextlib.ExitStack()
        self.service = Service.build(load(), functions)

    def run(self) -> None:
        """Serve until the end. Every container is gone when it returns."""
        settings = self.service.settings.server
        try:
            listening = _bind(settings.host, settings.port)
        except BaseException:
            self.service.drain(0)
            raise
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
            timeout_graceful_shutdown=round(settings.drain + _GRACE),
        )
        # Threads wait this long for the interpreter while the loop has work: at the default, 5 ms,
        # that is longer than an invocation takes.
        sys.setswitchinterval(_SWITCH)
        host, port = listening.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        _Server(config, life=self, url=url).run(sockets=[listening])

    def ready(self, url: str) -> None:
        """Requests are taken from now on."""
        self._enter(self.service)
        self._announce(url)
        _notify("READY=1")

    def reload(self) -> None:
        """Read settings, secrets and functions again. What cannot be used changes nothing."""
        with self._reloading:
            before = self.service
            try:
                settings = self._load()
                after = Service.build(settings, self._functions, before=before)
            except SandboxError as error:
                log.error("the settings stay as they were: %s", error)
                return
            for name in _FIXED:
                if getattr(settings.server, name) != getattr(before.settings.server, name):
                    log.warning("server.%s changes with the next start only", name)
            self._companions.close()
            self.service = after
            self._enter(after)
            ending = threading.Thread(
                target=before.drain, args=(before.settings.server.drain,), name="drain"
            )
            ending.start()
            self._old = [*filter(threading.Thread.is_alive, self._old), ending]
            log.info("settings, secrets and functions were read again")

    def drain(self) -> None:
        """Take nothing more, finish what runs, kill what does not end; no container is left."""
        _notify("STOPPING=1")
        self._readiness.draining = True
        with self._reloading:
            self._companions.close()
            self.service.drain(self.service.settings.server.drain)
            for ending in self._old:
                ending.join()

    def hurry(self) -> None:
        """Wait no longer: kill what runs."""
        self.service.dispatcher.cancel_all()

    def _enter(self, service: Service) -> None:
        self._companions.enter_context(self._in_service(service))
        service.start()


class _Server(uvicorn.Server):
    """uvicorn's server, whose end is ours too."""

    def __init__(self, config: uvicorn.Config, *, life: Life, url: str) -> None:
        super().__init__(config)
        self._life = life
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(
            signal.SIGHUP, lambda: threading.Thread(target=self._life.reload).start()
        )
        await loop.run_in_executor(None, self._life.ready, self._url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.get_running_loop().run_in_executor(None, self._life.drain)
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
