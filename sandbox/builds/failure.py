"""The one way in which a build goes wrong that is not the platform's fault."""

from __future__ import annotations


class BuildFailedError(Exception):
    """A build failed; `log` is the end of its output. The executor answers with BUILD_FAILED."""

    def __init__(self, message: str, *, log: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.log = log
