"""What the SDK raises, translated once, into our errors; and retries of idempotent calls."""

from __future__ import annotations

import contextlib
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

import docker.errors
import requests.exceptions

from sandbox.errors import EngineUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


@contextlib.contextmanager
def ignoring(*statuses: int) -> Iterator[None]:
    """Pass over answers with these HTTP statuses."""
    try:
        yield
    except docker.errors.APIError as error:
        if error.status_code not in statuses:
            raise


def gone_after(remove: Callable[[], object]) -> bool:
    """Whether what `remove` removes is gone: it was, is now, or stays because it is in use."""
    try:
        remove()
    except docker.errors.NotFound:
        return True
    except docker.errors.APIError as error:
        if error.status_code == HTTPStatus.CONFLICT:
            return False
        raise
    return True


@contextlib.contextmanager
def translated(action: str) -> Iterator[None]:
    """Turn what the SDK raises into our errors, by type and status, never by matching text.

    An answer below 500 is left to the caller, who knows what it means; so is a read that ran out
    of time, where waiting was the purpose.
    """
    try:
        yield
    except docker.errors.APIError as error:
        if error.status_code is not None and error.status_code < 500:
            raise
        raise EngineUnavailableError(
            f"the engine failed to {action}: {error.explanation or error}",
            hint="sandbox doctor",
        ) from error
    except requests.exceptions.ReadTimeout:
        raise
    except (requests.exceptions.RequestException, docker.errors.DockerException, OSError) as error:
        raise EngineUnavailableError(
            f"no container engine answers (trying to {action})",
            hint="start it: `make engine` on Debian or Ubuntu, else start Docker; "
            "or set DOCKER_HOST; `sandbox doctor` says more",
        ) from error


def retried(action: str, call: Callable[[], T]) -> T:
    """`call`, which must be idempotent, tried again while the engine does not answer."""
    try:
        return _once(action, call)
    except EngineUnavailableError:
        # Imported only when needed: it costs every start of the command line 30 ms.
        from tenacity import (  # noqa: PLC0415
            Retrying,
            retry_if_exception_type,
            stop_after_attempt,
            wait_exponential,
        )

        retrying = Retrying(
            retry=retry_if_exception_type(EngineUnavailableError),
            stop=stop_after_attempt(2),
            wait=wait_exponential(multiplier=0.05, max=1),
            reraise=True,
        )
        result: T = retrying(_once, action, call)
        return result


def _once(action: str, call: Callable[[], T]) -> T:
    try:
        with translated(action):
            return call()
    except requests.exceptions.ReadTimeout as error:
        raise EngineUnavailableError(
            f"the engine took too long to {action}", hint="sandbox doctor"
        ) from error
    except docker.errors.APIError as error:
        raise EngineUnavailableError(
            f"the engine refused to {action}: {error.explanation or error}", hint="sandbox doctor"
        ) from error
