"""Suite `latency`: one invocation at a time, in every way, round by round.

Before each turn, no container is booting or being removed. Slow ways have a turn in every third
round only.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from benchmarks.cli import cli_cold, cli_warm
from benchmarks.context import FUNCTIONS, INPUT, Context, call, ready, wait_for
from benchmarks.host import bare
from benchmarks.interleave import NotCountedError, Way, interleaved
from benchmarks.peers import attach_echo, docker_run

if TYPE_CHECKING:
    from sandbox import Sandbox

SUITE: Final = "latency"
_SELDOM: Final = 3
_ONE_WARM: Final = {"min_warm": 1, "max_warm": 1}
_GVISOR: Final = {"runtime_class": "gvisor"}


def run(context: Context) -> None:
    """Measure every runtime and interface that was asked for."""
    for runtime in context.runtimes:
        for interface in context.interfaces:
            name = f"{runtime}-{interface}"
            context.log(f"latency: {name}")
            with contextlib.ExitStack() as stack:
                ways = _Ways(context, name, stack).all()
                found = interleaved(ways, context.rounds)
            for way in ways:
                context.results.add(SUITE, name, way.name, "ms", found[way.name], note=way.note)


class _Ways:
    """The ways to invoke one function; their resources stay open as long as `stack`."""

    def __init__(self, context: Context, name: str, stack: contextlib.ExitStack) -> None:
        self._context = context
        self._name = name
        self._stack = stack
        self._sandboxes: list[Sandbox] = []
        # The number of containers that other processes keep.
        self._others = 0

    def all(self) -> list[Way]:
        """Those that work here."""
        context, name, stack = self._context, self._name, self._stack
        cold, warm = self._open(warm=False), self._open()
        deployment = context.deployment(cold, name)
        handler = deployment.function.interface == "handler"
        ways = []
        if handler:
            echo = stack.enter_context(attach_echo(context.engine, deployment))
            ways.append(Way("attach echo", echo, self._settle))
        else:
            for label, (way, note) in bare(deployment, context.store / "images").items():
                ways.append(Way(label, way, self._settle, note=note))
        ways.append(Way("docker run", docker_run(deployment), self._settle, _SELDOM))
        ways += [self._cold("cold", cold), self._warm("warm", warm)]
        if handler:
            ways.append(self._warm("reuse", self._open(ceilings={"reuse": 1_000_000})))
        if "gvisor" in context.engine.info().runtime_classes:
            ways.append(
                self._cold("cold gvisor", self._open(warm=False, engine=_GVISOR), every=_SELDOM)
            )
            ways.append(self._warm("warm gvisor", self._open(engine=_GVISOR), every=_SELDOM))
        through_watch = stack.enter_context(cli_warm(context, name))
        self._others = 1
        ways.append(Way("cli cold", cli_cold(context, name, FUNCTIONS), self._settle, _SELDOM))
        ways.append(Way("cli warm", through_watch, self._settle, _SELDOM))
        return ways

    def _open(self, *, warm: bool = True, **values: Any) -> Sandbox:
        sandbox = self._stack.enter_context(
            self._context.sandbox(warm=warm, pool=_ONE_WARM, **values)
        )
        self._sandboxes.append(sandbox)
        return sandbox

    def _cold(self, label: str, sandbox: Sandbox, *, every: int = 1) -> Way:
        return Way(label, lambda: call(sandbox, self._name), self._settle, every)

    def _warm(self, label: str, sandbox: Sandbox, *, every: int = 1) -> Way:
        def prepare() -> None:
            wait_for(lambda: ready(sandbox, self._name) > 0)
            self._settle()

        call(sandbox, self._name)  # from then on, one is kept
        return Way(label, lambda: call_warm(sandbox, self._name), prepare, every)

    def _settle(self) -> None:
        self._context.settle(*self._sandboxes, others=self._others)


def call_warm(sandbox: Sandbox, name: str) -> None:
    """Invoke; one that found no container ready is not counted."""
    response = sandbox.invoke(name, INPUT)
    assert response.success, response.error
    if response.stats is None or response.stats.cold:
        raise NotCountedError
