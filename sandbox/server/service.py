"""`Service`: what the routes work with, composed in one place."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from sandbox.engine.docker.engine import DockerEngine
from sandbox.errors import DatabaseUnavailableError
from sandbox.executions.store import open_store
from sandbox.sandbox import Sandbox
from sandbox.server.auth.authentication import Authenticator, build_authenticator
from sandbox.server.auth.rate_limits import Limiter
from sandbox.server.dispatch.dispatcher import Dispatcher
from sandbox.server.dispatch.idempotency import IdempotencyStore
from sandbox.server.dispatch.in_flight import InFlightRequests
from sandbox.server.dispatch.loop_runner import LoopRunner
from sandbox.server.dispatch.threads import Threads
from sandbox.server.events.registrar import EventRegistrar
from sandbox.server.events.schedules import Schedules
from sandbox.server.telemetry.metrics import Gauges, Metrics
from sandbox.server.telemetry.request_log import ExecutionLog
from sandbox.server.telemetry.tracing import build_tracing
from sandbox.tokens import Tokens, load_key

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from sandbox.config.server_settings import TokenSettings
    from sandbox.config.settings import Settings
    from sandbox.engine.base import Engine
    from sandbox.server.dispatch.observers import Observer
    from sandbox.server.telemetry.tracing import Tracing


@dataclass(frozen=True, kw_only=True)
class Service:
    """One set of settings at work. `drain` ends it; nothing of it is used afterwards."""

    settings: Settings
    functions: Path
    sandbox: Sandbox
    dispatcher: Dispatcher
    authenticator: Authenticator
    limiter: Limiter
    idempotency: IdempotencyStore
    tokens: Tokens
    registrar: EventRegistrar
    schedules: Schedules
    metrics: Metrics
    in_flight: InFlightRequests
    tracing: Tracing | None
    invoking: LoopRunner
    # For what blocks besides: the database, the directory; and for followers of logs.
    working: Threads
    following: Threads
    _resources: contextlib.ExitStack = field(repr=False)

    @classmethod
    def build(
        cls,
        settings: Settings,
        functions: Path,
        *,
        reserved: Collection[str],
        before: Service | None = None,
        engine: Engine | None = None,
    ) -> Self:
        """Everything that the settings ask for, nothing of it started.

        `reserved` are first segments of paths that no manifest's route gets.
        What it shares with the one `before`: figures go on, and internal tokens stay valid for
        invocations that still run there, unless another key signs them now.
        `engine` replaces the Docker engine that the settings name; whoever hands one in closes it.

        Raises:
            InvalidSettingsError: the settings, the secrets or a key file cannot be used.
            DatabaseUnavailableError: the database cannot be used.
        """
        with contextlib.ExitStack() as stack:
            store = open_store(settings)
            stack.callback(store.close)
            authenticator = build_authenticator(settings.server, store.database)
            stack.callback(authenticator.close)
            tokens = _tokens(settings.server.tokens, before)
            metrics = Metrics() if before is None else before.metrics
            limits = settings.server.limits
            if before is not None and before.settings.server.limits == limits:
                limiter = before.limiter
            else:
                limiter = Limiter(limits)
            schedules = Schedules(settings.server.schedules, store.database)
            registrar = EventRegistrar(schedules, reserved=reserved)
            # It may wait for its collector at the end: by then, no container is left.
            tracing = build_tracing(settings.server.tracing)
            if tracing is not None:
                stack.callback(tracing.close)
            if engine is None:
                engine = DockerEngine(settings.engine, observe=metrics.engine_call)
                stack.callback(engine.close)
            sandbox = stack.enter_context(
                Sandbox(
                    functions,
                    settings=settings,
                    engine=engine,
                    registrar=registrar,
                    tokens=tokens,
                )
            )
            observers: list[Observer] = [metrics, ExecutionLog(), *([tracing] if tracing else [])]
            dispatcher = Dispatcher(
                sandbox,
                settings,
                store=store,
                observers=observers,
                before=None if before is None else before.dispatcher,
            )
            most = settings.concurrency + settings.queue.length
            service = cls(
                settings=settings,
                functions=functions,
                sandbox=sandbox,
                dispatcher=dispatcher,
                authenticator=authenticator,
                limiter=limiter,
                idempotency=IdempotencyStore(store.database, settings, owner=store.server.id),
                tokens=tokens,
                registrar=registrar,
                schedules=schedules,
                metrics=metrics,
                in_flight=InFlightRequests(),
                tracing=tracing,
                invoking=LoopRunner("invoking", most),
                working=Threads("working", 16),
                following=Threads("following", 64),
                _resources=stack.pop_all(),
            )
        metrics.watch(service.gauges)
        return service

    def gauges(self) -> Gauges:
        try:
            queued = self.dispatcher.queued
        except DatabaseUnavailableError:
            queued = None
        return Gauges(
            pool=self.sandbox.pool_states(),
            running=self.dispatcher.running,
            queued=queued,
            tokens=self.tokens.count,
            unrecorded=self.dispatcher.dropped,
        )

    def start(self) -> None:
        """Start the background work: the execution queue and the schedules."""
        self.dispatcher.start()
        self.schedules.start(self.dispatcher.submit, self.dispatcher.get)

    def drain(self, seconds: float, *, last: Callable[[], object] = lambda: None) -> None:
        """Let what was taken finish for that long, kill the rest; no container is left.

        `last` is called when nothing runs or is built any more, before all of it is closed.
        """
        deadline = time.monotonic() + seconds
        building = threading.Timer(seconds, self.sandbox.stop_building)
        with contextlib.ExitStack() as stack:
            for threads in (self.invoking, self.working, self.following):
                stack.callback(threads.close)
            stack.callback(self._resources.close)
            stack.callback(last)
            stack.callback(self.sandbox.stop_building)
            stack.callback(building.cancel)
            building.start()
            self.schedules.close()
            self.dispatcher.pause()
            self.in_flight.close()
            self.in_flight.wait(deadline - time.monotonic())
            left = 0.0 if self.in_flight.given_up else deadline - time.monotonic()
            self.dispatcher.drain(max(0.0, left))

    def hurry(self) -> None:
        """Wait no longer: kill what runs."""
        self.in_flight.give_up()
        self.dispatcher.cancel_all()
        self.sandbox.stop_building()


def _tokens(settings: TokenSettings, before: Service | None) -> Tokens:
    """Those of the service before, which know what runs there, unless another key signs now."""
    tokens = Tokens(key=load_key(settings.key_file), grace=settings.grace)
    if before is None or before.settings.server.tokens != settings:
        return tokens
    # Without a file, each key that is loaded is a new one.
    same = settings.key_file is None or tokens.public_jwks() == before.tokens.public_jwks()
    return before.tokens if same else tokens
