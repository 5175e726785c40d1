"""One invocation from request to response, in the order in which it happens.

A failure of the function is a response; only a failure of the platform is an exception.
An invocation has one deadline. Its container is always removed: after the response if the function
has answered, before the response if the function had to be killed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sandbox.cancellation import Cancellation
from sandbox.engine.steps import BLOCKING, LIGHT
from sandbox.errors import BuildFailedError, Code
from sandbox.invocation.invocation import Invocation, InvocationLog, cancelled_error
from sandbox.models import FunctionError, FunctionResponse
from sandbox.pool.pool import CancelledError, LateError
from sandbox.protocol.request import add_token, encode_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.call import Call
    from sandbox.config.settings import Settings
    from sandbox.containers.instance import Instance
    from sandbox.containers.launcher import Launcher
    from sandbox.deploy.deployer import Deployer, Deployment
    from sandbox.engine.steps import Steps
    from sandbox.functions.function import Function
    from sandbox.invocation.contexts import Contexts
    from sandbox.models import FunctionRequest, LogEntry
    from sandbox.pool.pool import Pool


class Executor:
    """Runs functions, each invocation in a container of its own. Safe to use from many threads."""

    def __init__(
        self,
        settings: Settings,
        *,
        deployer: Deployer,
        pool: Pool,
        launcher: Launcher,
        contexts: Contexts,
    ) -> None:
        self._settings = settings
        self._deployer = deployer
        self._pool = pool
        self._launcher = launcher
        self._contexts = contexts

    def steps(
        self,
        function: Function,
        call: Call,
        *,
        on_log: Callable[[LogEntry], None] | None = None,
        cancellation: Cancellation | None = None,
    ) -> Steps[FunctionResponse]:
        """Run `function` once, as `call` asks for; see `Sandbox.steps`.

        Raises:
            SandboxError: the platform could not serve; see `sandbox.errors`.
        """
        request = self._contexts.request(function, call)
        payload = encode_request(request, max_bytes=self._settings.limits.request)
        deployment = self._deployer.in_force(function)
        if deployment is None or len(payload) > LIGHT:
            yield BLOCKING
        try:
            deployment = deployment or self._deployer.deploy(function)
        except BuildFailedError as failure:
            return _build_failed(request, failure)
        time_limit = self._time_limit(deployment, call.timeout)
        tokens = self._contexts.tokens
        token = tokens.generate(function.name, request.request_id, time.time() + time_limit)
        try:
            invocation = Invocation(
                deployment,
                request,
                time_limit=time_limit,
                log=InvocationLog(self._contexts.redactor(function).with_token(token), on_log),
                cancellation=cancellation or Cancellation(),
            )
            return (yield from self._run(invocation, add_token(payload, token)))
        finally:
            # Before anybody has the response, so that no token outlives its invocation.
            tokens.revoke(token)

    def _run(self, invocation: Invocation, payload: bytes) -> Steps[FunctionResponse]:
        try:
            instance = yield from self._pool.acquire(
                invocation.deployment,
                deadline=invocation.deadline,
                cancellation=invocation.cancellation,
            )
        except CancelledError:
            return invocation.unserved(cancelled_error())
        except LateError as late:
            invocation.granted(late.granted_at)
            return invocation.late()
        invocation.granted(instance.granted_at)
        return (yield from self._serve(invocation, instance, payload))

    def _time_limit(self, deployment: Deployment, asked: float | None) -> float:
        if asked is None:
            return deployment.policy.timeout
        return min(asked, self._settings.ceilings.timeout)

    def _serve(
        self, invocation: Invocation, instance: Instance, payload: bytes
    ) -> Steps[FunctionResponse]:
        reusable = let_finish = False
        last = instance.requests + 1 >= instance.deployment.reuse

        def kill() -> None:
            self._launcher.kill(instance)

        invocation.cancellation.on_cancel(kill)
        try:
            stopped = yield from invocation.converse(instance, payload, last=last)
            if stopped is None:
                response = yield from invocation.answered(instance)
                let_finish = True
                reusable = not last and invocation.went_well
            else:
                killing = self._launcher.kill(instance)
                yield BLOCKING
                invocation.drain(instance)
                instance.container.close()
                killing.result()
                self._launcher.remove(instance)
                response = invocation.killed(instance, stopped)
        except BaseException as error:
            # The platform failed, or Ctrl-C: the container goes before anything else happens.
            try:
                if not isinstance(error, GeneratorExit):
                    yield BLOCKING
            finally:
                self._launcher.remove(instance)
            raise
        finally:
            invocation.cancellation.forget(kill)
            # A late cancellation may have killed the container after its answer.
            reusable = reusable and not invocation.cancellation.cancelled
            self._pool.release(instance, reusable=reusable, let_finish=let_finish)
        return response


def _build_failed(request: FunctionRequest, failure: BuildFailedError) -> FunctionResponse:
    return FunctionResponse(
        request_id=request.request_id,
        success=False,
        error=FunctionError(
            code=Code.BUILD_FAILED, message=failure.message, details={"log": failure.log}
        ),
    )
