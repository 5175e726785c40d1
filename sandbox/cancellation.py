"""`Cancellation`: the caller's way to end an invocation that is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox.latch import Latch

if TYPE_CHECKING:
    from collections.abc import Callable


class Cancellation(Latch):
    """Handed to an invocation; `cancel`, from any thread, ends it with the code CANCELLED."""

    @property
    def cancelled(self) -> bool:
        return self.is_set

    def cancel(self) -> None:
        """End the invocation. Calling it twice, or after the invocation has ended, is harmless."""
        self.set()

    def on_cancel(self, call: Callable[[], object]) -> None:
        """Have `cancel` make this call; make it now if it was cancelled already."""
        self.on_set(call)
