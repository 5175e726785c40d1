"""Connects to a destination: looks up its name once, checks the addresses, connects to one."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

from sandbox.config.addresses import parse_address, refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.config.addresses import IPAddress
    from sandbox.config.destinations import GatewayRoute
    from sandbox.gateway.resolver import Resolver

# Names with more addresses have them for load balancing; a few are enough to try.
_MOST_ADDRESSES: Final = 8
# Lookups of one container at once. Each takes a thread, and an attacker's name server may never
# answer.
_MOST_LOOKUPS: Final = 4


class DestinationRefusedError(Exception):
    """None of the destination's addresses is allowed; the text says why."""


class UnreachableError(Exception):
    """The destination has no address, or did not take the connection; the text says why."""


class Dialer:
    """Makes one container's connections, in the gateway's event loop.

    It looks a name up once, and pins the answer for the life of the container. So it only connects
    to addresses that it has checked.
    """

    def __init__(self, *, resolver: Resolver, timeout: float) -> None:
        self._resolver = resolver
        self._timeout = timeout
        self._pins: dict[str, asyncio.Task[tuple[IPAddress, ...]]] = {}
        self._lookups = asyncio.Semaphore(_MOST_LOOKUPS)

    async def dial(self, route: GatewayRoute) -> socket.socket:
        """A connected non-blocking socket.

        Raises:
            DestinationRefusedError: none of the destination's addresses is allowed.
            UnreachableError: none took the connection in time.
        """
        try:
            async with asyncio.timeout(self._timeout):
                addresses = await self._addresses(route)
                return await self._connect(addresses, route.upstream.port)
        except TimeoutError:
            raise UnreachableError("no connection in time (network.connect_timeout)") from None

    def close(self) -> None:
        for pin in self._pins.values():
            pin.cancel()

    async def _addresses(self, route: GatewayRoute) -> tuple[IPAddress, ...]:
        """The allowed ones of the destination's addresses; at least one."""
        literal = route.upstream.address
        found = (literal,) if literal is not None else await self._pinned(route.upstream.host)
        good = [item for item in found if not refusal(item, allow_private=route.allow_private)]
        if not good:
            reason = refusal(found[0], allow_private=route.allow_private)
            opens = refusal(found[0], allow_private=True) is None
            raise DestinationRefusedError(
                f"{found[0]} {reason}{' (network.allow_private)' if opens else ''}"
            )
        return tuple(good[:_MOST_ADDRESSES])

    async def _pinned(self, host: str) -> tuple[IPAddress, ...]:
        pin = self._pins.get(host)
        if pin is None:
            pin = self._pins[host] = asyncio.ensure_future(self._look_up(host))
        try:
            # Shielded: other connections wait for the same answer.
            return await asyncio.shield(pin)
        except OSError as error:
            self._pins.pop(host, None)  # a failed lookup is not pinned
            raise UnreachableError(f"{host} has no address: {_reason(error)}") from None

    async def _look_up(self, host: str) -> tuple[IPAddress, ...]:
        async with self._lookups:
            texts = await _in_thread(self._resolver, host)
        found = []
        for text in texts:
            try:
                found.append(parse_address(text))
            except ValueError:
                continue
        if not found:
            raise OSError("the answer is empty")
        return tuple(dict.fromkeys(found))

    async def _connect(self, addresses: Sequence[IPAddress], port: int) -> socket.socket:
        """Connect to the first address that accepts; each gets a share of the time that is left."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        reason = ""
        for number, address in enumerate(addresses):
            share = max(deadline - loop.time(), 0) / (len(addresses) - number)
            try:
                async with asyncio.timeout(share):
                    return await _connected(loop, address, port)
            except TimeoutError:
                reason = f"{address} does not answer"
            except OSError as error:
                reason = f"{address}: {_reason(error)}"
        raise UnreachableError(reason)


async def _connected(
    loop: asyncio.AbstractEventLoop, address: IPAddress, port: int
) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    upstream = socket.socket(family, socket.SOCK_STREAM)
    try:
        upstream.setblocking(False)
        upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(upstream, (str(address), port))
    except BaseException:
        upstream.close()
        raise
    return upstream


async def _in_thread(resolver: Resolver, host: str) -> Sequence[str]:
    """The resolver's answer, from a daemon thread: a lookup cannot be stopped."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Sequence[str]] = loop.create_future()

    def settle(result: Any, error: Exception | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    def look_up() -> None:
        result, error = None, None
        try:
            result = resolver(host)
        except Exception as problem:  # the edge of a thread: passed on
            error = problem if isinstance(problem, OSError) else OSError(str(problem))
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:  # the loop is closed: nobody waits for the answer
            return

    threading.Thread(target=look_up, name="resolver", daemon=True).start()
    return await answer


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror) or error.errno is None:
        return str(error.strerror or error)
    return os.strerror(error.errno)
