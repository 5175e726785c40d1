"""Translates the SDK's errors into ours, once; and retries idempotent calls."""

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
    """Ignore answers with these HTTP statuses."""
    try:
        yield
    except docker.errors.APIError as error:
        if error.status_code not in statuses:
            raise


def gone_after(remove: Callable[[], object]) -> bool:
    """Call `remove`; returns False if the engine keeps the thing because it is in use."""
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
    """Turn the SDK's errors into ours, by type and status, never by matching text.

    The caller handles answers below 500 itself, and also a read that timed out, if it waited on
    purpose.
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
    """Call `call`, which must be idempotent, again while the engine does not answer."""
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
