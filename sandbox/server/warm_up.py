"""What `sandbox serve` does at its start where functions are not watched: builds and boots them."""

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
    """Builds each function and keeps as many containers booted as it asks for, in a thread.

    `warn` is called in that thread with a message for each function that cannot be.
    """

    def __init__(self, sandbox: Sandbox, warn: Callable[[str], None]) -> None:
        self._sandbox = sandbox
        self._warn = warn
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="warm-up", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begin with no other function, and do not wait."""
        self._stopping.set()

    def close(self) -> None:
        """Wait for the function that was begun with."""
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
