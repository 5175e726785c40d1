"""`Launcher`: makes all calls to the engine that create, kill and remove containers of functions.

The calls run in threads of their own. So each is completed, whatever happens to the thread that
asked for it, and no container that the engine has made is lost.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

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
        try:
            instance.container.remove()
        finally:
            instance.gateway.close()

    def close(self) -> None:
        """Wait until every discarded container is removed."""
        self._closing.set()
        self._starters.shutdown(wait=True)
        self._removers.shutdown(wait=True)

    def _discard(self, instance: Instance, let_finish: bool) -> None:
        try:
            if let_finish and not self._closing.is_set():
                _wait_for_end(instance)
            self.remove(instance)
        except Exception:  # the edge of a thread: the reaper removes the container later
            log.exception("could not remove container %s", instance.container.id)
        finally:
            with self._lock:
                self.removing -= 1
            self.on_removed()


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
