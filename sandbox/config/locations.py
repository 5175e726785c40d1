"""Where settings come from and where this user's data is kept, for whoever starts fast.

Nothing is imported here but the standard library, and nothing is read at import.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SETTINGS_FILE: Final = "sandbox.yaml"
ENV_PREFIX: Final = "SANDBOX_"
# Read by the command line itself; no settings.
ENV_OF_OPTIONS: Final = frozenset({"SANDBOX_FUNCTIONS", "SANDBOX_SETTINGS", "SANDBOX_DEBUG"})


def cache_directory(environment: Mapping[str, str]) -> Path:
    """The user's cache directory, as the XDG base directory specification gives it."""
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "alyx-sandbox"
