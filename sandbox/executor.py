"""One invocation from request to response, in the order in which it happens.

A failure of the function is a response; only a failure of the platform is an exception.
Every invocation has one deadline, and on every path its container is removed: behind the
response when the function has answered, before the response when it had to be killed.
"""

from __future__ import annotations

import logging
import threading
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from sandbox.builds.compile import BuildFailedError
from sandbox.errors import Code, OverloadedError
from sandbox.invocation import Invocation
from sandbox.models import FunctionError, FunctionResponse
from sandbox.policy import function_spec, new_uid
from sandbox.protocol.request import encode_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.deploy import Deployer, Deployment
    from sandbox.engine.base import Container, ContainerSpec, Engine
    from sandbox.function import Function
    from sandbox.models import FunctionRequest, LogEntry
    from sandbox.reaper import Owner
    from sandbox.settings import Settings

log = logging.getLogger(__name__)


def new_request_id() -> str:
    """An id for a request that came without one."""
    return f"req_{uuid.uuid4().hex[:20]}"


class Executor:
    """Runs functions, each invocation in a container of its own. Safe to use from many threads."""

    def __init__(
        self, engine: Engine, settings: Settings, *, deployer: Deployer, owner: Owner
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._deployer = deployer
        self._owner = owner
        self._slots = threading.BoundedSemaphore(settings.concurrency)
        # For the engine calls that must be seen through, whatever happens to the caller's thread.
        self._workers = ThreadPoolExecutor(
            max_workers=settings.concurrency + 4, thread_name_prefix="engine"
        )

    def invoke(
        self,
        function: Function,
        request: FunctionRequest,
        *,
        timeout: float | None = None,
        on_log: Callable[[LogEntry], None] | None = None,
    ) -> FunctionResponse:
        """Run `function` once.

        `timeout` (seconds) replaces the function's own, up to the operator's ceiling. `on_log`
        is called with each log entry as it comes, from this thread.

        Raises:
            SandboxError: the platform could not serve; see `sandbox.errors`.
        """
        payload = encode_request(request, max_bytes=self._settings.limits.request)
        try:
            deployment = self._deployer.deploy(function)
        except BuildFailedError as failure:
            return _build_failed(request, failure)
        invocation = Invocation(
            deployment,
            request,
            settings=self._settings,
            timeout=self._time_limit(deployment, timeout),
            on_log=on_log or (lambda _: None),
        )
        self._take_slot(invocation)
        try:
            return self._serve(invocation, payload)
        finally:
            self._slots.release()

    def close(self) -> None:
        """Wait until every container is removed."""
        self._workers.shutdown(wait=True)

    def _time_limit(self, deployment: Deployment, asked: float | None) -> float:
        if asked is None:
            return deployment.policy.timeout
        return min(asked, self._settings.ceilings.timeout)

    def _take_slot(self, invocation: Invocation) -> None:
        if not self._slots.acquire(timeout=invocation.time_limit):
            raise OverloadedError(
                f"all {self._settings.concurrency} places were taken for "
                f"{invocation.time_limit:g}s, the whole time limit of the invocation",
                retry_after=1.0,
                hint="try again, or raise `concurrency` in the settings",
            )
        invocation.queued()

    def _serve(self, invocation: Invocation, payload: bytes) -> FunctionResponse:
        function = invocation.deployment.function
        spec = function_spec(
            function,
            invocation.deployment.policy,
            image=invocation.deployment.image,
            bundle=invocation.deployment.bundle.path,
            uid=new_uid(),
            runtime_class=invocation.deployment.runtime_class,
            labels=self._owner.labels(function.name),
        )
        container = self._create(spec)
        try:
            stopped = invocation.converse(container, payload)
            if stopped is None:
                invocation.linger(container)
                response = invocation.answered(container)
            else:
                killing = self._workers.submit(container.kill)
                invocation.drain(container)
                container.close()
                killing.result()
                container.remove()
                response = invocation.killed(stopped)
        except BaseException:
            # Ours failed, or Ctrl-C: the container goes before anything else happens.
            container.remove()
            raise
        self._workers.submit(_remove, container)
        return response

    def _create(self, spec: ContainerSpec) -> Container:
        creating = self._workers.submit(self._engine.create, spec)
        try:
            return creating.result()
        except BaseException:
            # Ctrl-C while the engine is at it: what it still makes is removed as soon as it is.
            creating.add_done_callback(_remove_created)
            raise


def _build_failed(request: FunctionRequest, failure: BuildFailedError) -> FunctionResponse:
    return FunctionResponse(
        request_id=request.request_id,
        success=False,
        error=FunctionError(
            code=Code.BUILD_FAILED, message=failure.message, details={"log": failure.log}
        ),
    )


def _remove_created(creating: Future[Container]) -> None:
    if creating.exception() is None:
        _remove(creating.result())


def _remove(container: Container) -> None:
    try:
        container.remove()
    except Exception:  # the edge of a thread: the reaper takes what stays behind
        log.exception("could not remove container %s", container.id)
