"""Builds and boots all functions when `sandbox serve` starts without `--watch`."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from sandbox.errors import DeploymentFailedError, SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.sandbox import Sandbox

log = logging.getLogger(__name__)


class WarmUp:
    """Builds each function and boots the containers that it keeps warm, in a thread.

    That thread calls `warn` with a message for each function that fails.
    """

    def __init__(self, sandbox: Sandbox, warn: Callable[[str], None]) -> None:
        self._sandbox = sandbox
        self._warn = warn
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="warm-up", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Start no further function, without waiting."""
        self._stopping.set()

    def close(self) -> None:
        """Wait for the function under way."""
        self.stop()
        self._thread.join()

    def _run(self) -> None:
        for name in self._sandbox.functions:
            if self._stopping.is_set():
                return
            try:
                self._sandbox.warm(name)
            except DeploymentFailedError as failure:
                # A build that was stopped has not failed.
                if not self._stopping.is_set():
                    self._warn(f"{name}: {failure.message}\n{failure.log}".rstrip())
            except SandboxError as error:
                self._warn(f"{name}: {error}")
            except Exception:  # the edge of a thread
                log.exception("%s is not warmed", name)
