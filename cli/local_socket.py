"""The local socket of `sandbox watch` and `sandbox serve`, which `sandbox invoke` goes through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox.local.server import AddressInUseError, ClientLimits, Invoker, LocalServer

if TYPE_CHECKING:
    from sandbox.config.settings import Settings
    from sandbox.local.address import Address
    from sandbox.sandbox import Sandbox

    from .screens import Screen


def open_socket(
    address: Address, sandbox: Sandbox, screen: Screen, *, invoker: Invoker | None = None
) -> LocalServer | None:
    """Serve `sandbox invoke`, by `invoker` if given. None, with a warning, if that cannot be."""
    secrets = _stamp(sandbox.settings)
    try:
        return LocalServer(
            address,
            invoker or sandbox,
            limits=ClientLimits(request=sandbox.settings.limits.request),
            is_current=lambda: _stamp(sandbox.settings) == secrets,
        )
    except AddressInUseError:
        screen.warn("another process serves these functions already: `invoke` goes there")
    except OSError as error:
        screen.warn(f"`sandbox invoke` will not go through this process: {error}")
    return None


def _stamp(settings: Settings) -> tuple[int, ...]:
    """Changes whenever the secrets file does, which is read at the start only."""
    if settings.secrets_file is None:
        return ()
    try:
        status = settings.secrets_file.stat()
    except OSError:
        return (0,)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
