"""`Launcher`: makes all calls to the engine that create, kill and remove containers of functions.

The calls run in threads of their own. So each is completed, whatever happens to the thread that
asked for it, and no container that the engine has made is lost.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from tenacity import (
    Retrying,
    before_sleep_log,
    retry_if_exception_type,
    wait_exponential,
)

from sandbox.containers.instance import Instance
from sandbox.errors import BootFailedError, SandboxError
from sandbox.policy.container_spec import Launch, function_spec
from sandbox.protocol.logs import LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.config.settings import Settings
    from sandbox.deploy.deployer import Deployment
    from sandbox.engine.base import Engine
    from sandbox.engine.delivery import Delivery
    from sandbox.gateway.gateway import Gateways
    from sandbox.store.owners import Owner

log = logging.getLogger(__name__)

# An instance that has answered gets so many seconds to end by itself before it is killed.
_LEAVE: Final = 0.1
# Containers removed at once. More would take processors from invocations.
_REMOVALS: Final = 4
# A failed removal is tried again after so many seconds, doubled each time up to the maximum.
_RETRY_SECONDS: Final = 0.2
_MAX_RETRY_SECONDS: Final = 5.0
# For so many seconds after `close`.
_CLOSE_SECONDS: Final = 15.0


class Launcher:
    """Makes and removes containers. Safe to use from many threads."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        owner: Owner,
        gateways: Gateways,
        delivery: Delivery,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._owner = owner
        self._gateways = gateways
        self._delivery = delivery
        self._starters = ThreadPoolExecutor(settings.concurrency + 4, "starter")
        self._removers = ThreadPoolExecutor(_REMOVALS, "remover")
        self._closing = threading.Event()
        self._give_up_at = math.inf
        self._left_behind: list[str] = []
        # How many containers are yet to be removed, and what to call when one is gone.
        self.removing = 0
        self.on_removed: Callable[[], None] = lambda: None
        self._lock = threading.Lock()

    def submit(self, call: Callable[[], None]) -> Future[None]:
        """Run a call that launches an instance, in a thread."""
        return self._starters.submit(call)

    def launch(self, deployment: Deployment) -> Instance:
        """Create and start a container of `deployment`. It may still boot: see `Instance.ready`.

        Raises:
            SandboxError: the platform could not; see `sandbox.errors`.
        """
        function = deployment.function
        gateway = self._gateways.open(deployment.policy.network)
        try:
            launch = Launch(
                image=deployment.image,
                runtime_class=deployment.runtime_class,
                labels=self._owner.labels(function.name),
                env=deployment.env,
                network=gateway.attachment,
            )
            spec = function_spec(function, deployment.policy, launch, bundle=deployment.bundle.path)
            container = self._engine.create(self._delivery.deliver(spec))
        except BaseException:
            gateway.close()
            raise
        instance = Instance(
            deployment, container, gateway, nonce=launch.nonce, settings=self._settings
        )
        try:
            instance.start()
        except BaseException:
            self.discard(instance)
            raise
        return instance

    def kill(self, instance: Instance) -> Future[None]:
        """Kill an instance's processes. The engine may wait until its output is read."""
        return self._starters.submit(instance.container.kill)

    def discard(self, instance: Instance, *, let_finish: bool = False) -> None:
        """Remove an instance in the background; with `let_finish`, after it has ended by itself."""
        with self._lock:
            self.removing += 1
        self._removers.submit(self._discard, instance, let_finish)

    def remove(self, instance: Instance) -> None:
        """Remove an instance. If the engine fails, a thread tries again until it is gone.

        Raises:
            SandboxError: the engine could not remove the container now.
        """
        instance.gateway.close()
        try:
            instance.container.remove()
        except SandboxError:
            self.discard(instance)
            raise

    def close(self) -> None:
        """Wait until every discarded container is removed; the log names containers that remain."""
        self._give_up_at = time.monotonic() + _CLOSE_SECONDS
        self._closing.set()
        self._starters.shutdown(wait=True)
        self._removers.shutdown(wait=True)
        if self._left_behind:
            log.error("containers are left behind: %s", ", ".join(self._left_behind))

    def _discard(self, instance: Instance, let_finish: bool) -> None:
        try:
            if let_finish and not self._closing.is_set():
                _wait_for_end(instance)
            instance.gateway.close()
            self._remove_until_gone(instance)
        except Exception:  # the edge of a thread; the next process removes it
            log.exception("could not remove container %s", instance.container.id)
            self._left_behind.append(instance.container.id)
        finally:
            with self._lock:
                self.removing -= 1
            self.on_removed()

    def _remove_until_gone(self, instance: Instance) -> None:
        """Remove a container, again and again while the engine is away."""
        attempts = Retrying(
            retry=retry_if_exception_type(SandboxError),
            wait=wait_exponential(_RETRY_SECONDS, max=_MAX_RETRY_SECONDS),
            stop=lambda _: time.monotonic() >= self._give_up_at,
            # The end of the process brings the next attempt forward.
            sleep=self._sleep,
            before_sleep=before_sleep_log(log, logging.WARNING),
            reraise=True,
        )
        attempts(instance.container.remove)

    def _sleep(self, seconds: float) -> None:
        if self._closing.is_set():
            time.sleep(min(seconds, _RETRY_SECONDS))
        else:
            self._closing.wait(seconds)


def _wait_for_end(instance: Instance) -> None:
    """Wait until the container has ended, not only its function.

    An engine removes a container that has ended with less work than one that it must kill.
    """
    deadline = time.monotonic() + _LEAVE
    with contextlib.suppress(TimeoutError, SandboxError):
        while instance.container.receive(deadline) is not None:
            pass


def check_boot(instance: Instance) -> None:
    """Wait until an instance has booted.

    A stdio script that ends by itself passes: it may need no request.

    Raises:
        BootFailedError: it ended, or took longer than it may.
    """
    try:
        while instance.usable and not instance.ready:
            instance.receive(instance.boot_deadline)
    except TimeoutError:
        pass
    except LimitExceeded as exceeded:
        instance.flood = exceeded
    ended = instance.ended and instance.collector.init_error is None
    if instance.ready or (ended and instance.deployment.function.interface == "stdio"):
        return
    written = "\n".join(entry.message for entry in instance.collector.entries)
    raise BootFailedError(instance.why_unusable, log=written)
