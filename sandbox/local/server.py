"""The server's side: a thread for each connection, each with one invocation.

Only processes of the same user can connect, and these could run anything anyway. Even so, no client
can harm others: the number of connections, the size of a request and the time that a client may
take are bounded, and the invocation of a client that hangs up is cancelled.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from sandbox.call import Call
from sandbox.cancellation import Cancellation
from sandbox.engine.steps import run_steps
from sandbox.errors import InternalError, InvalidRequestError, OverloadedError, SandboxError
from sandbox.local.messages import (
    ENVELOPE_BYTES,
    Hello,
    LineReader,
    LogMessage,
    MessageError,
    Response,
    decode,
    encode,
    failure_from,
)
from sandbox.local.sockets import inside, peer_is_us, private_directory
from sandbox.protocol.request import check_call
from sandbox.store.locks import try_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from sandbox.engine.steps import Steps
    from sandbox.local.address import Address
    from sandbox.local.messages import Message
    from sandbox.models import FunctionResponse, LogEntry

log = logging.getLogger(__name__)

_BACKLOG: Final = 64


class Invoker(Protocol):
    """What runs invocations: a `Sandbox`, or a server's `Dispatcher`."""

    def steps(
        self,
        call: Call,
        *,
        on_log: Callable[[LogEntry], None] | None = None,
        cancellation: Cancellation | None = None,
    ) -> Steps[FunctionResponse]:
        """See `Sandbox.steps`."""


@dataclass(frozen=True, kw_only=True)
class ClientLimits:
    """What clients may take: bytes of a request, connections at once, seconds.

    `patience` is how long a client may take to send its request, or to read what it is sent.
    """

    request: int
    connections: int = 64
    patience: float = 30.0


class AddressInUseError(Exception):
    """Another process serves at this address."""


class LocalServer:
    """Serves invocations at `address` until it is closed; a context manager.

    While `is_current` returns False, clients are turned away, and invoke without this server.

    Raises:
        AddressInUseError: another process serves there.
        OSError: the socket cannot be made.
    """

    def __init__(
        self,
        address: Address,
        invoker: Invoker,
        *,
        limits: ClientLimits,
        is_current: Callable[[], bool] = lambda: True,
    ) -> None:
        self._invoker = invoker
        self._limits = limits
        self._is_current = is_current
        self._running: dict[threading.Thread, Cancellation] = {}
        self._lock = threading.Lock()
        self._closing = False
        self._resources = contextlib.ExitStack()
        self._listening = self._resources.enter_context(_listening(address))
        self._accepting = threading.Thread(target=self._accept, name="local socket", daemon=True)
        self._accepting.start()

    def stop(self) -> None:
        """Accept no more clients, and free the address. Running invocations go on."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._accepting.join()
        self._resources.close()

    def close(self) -> None:
        """Accept no more clients, cancel running invocations, and wait until they have ended."""
        self.stop()
        with self._lock:
            running = dict(self._running)
        for cancellation in running.values():
            cancellation.cancel()
        for thread in running:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                if not self._closing:  # out of descriptors, perhaps; there may be some later
                    threading.Event().wait(0.1)
                continue
            connection.settimeout(self._limits.patience)
            cancellation = Cancellation()
            thread = threading.Thread(
                target=self._serve,
                args=(connection, cancellation),
                name="local client",
                daemon=True,
            )
            with self._lock:
                taken = not self._closing and len(self._running) < self._limits.connections
                if taken:
                    self._running[thread] = cancellation
            if taken:
                thread.start()
            else:
                self._turn_away(connection)

    def _turn_away(self, connection: socket.socket) -> None:
        """Greet the client, so that it knows this protocol, and refuse it."""
        refusal = OverloadedError(
            f"{self._limits.connections} invocations are running through the local socket",
            retry_after=1.0,
            hint="try again, or invoke with --local",
        )
        with connection, contextlib.suppress(OSError):
            _send(connection, Hello(max_request=self._limits.request))
            _send(connection, failure_from(refusal))

    def _serve(self, connection: socket.socket, cancellation: Cancellation) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                if peer_is_us(connection) and self._is_current():
                    self._converse(connection, cancellation)
        except Exception:  # the edge of a thread
            log.exception("a connection to the local socket failed")
        finally:
            with self._lock:
                del self._running[threading.current_thread()]

    def _converse(self, connection: socket.socket, cancellation: Cancellation) -> None:
        _send(connection, Hello(max_request=self._limits.request))
        try:
            call = self._receive(connection)
        except MessageError as error:
            refusal = InvalidRequestError(f"the local socket received {error}")
            _send(connection, failure_from(refusal))
            return
        if call is None:
            return
        with _watched(connection, cancellation):
            answer = self._answer(connection, call, cancellation)
            _send(connection, answer)

    def _receive(self, connection: socket.socket) -> Call | None:
        """The client's call; None if it hung up."""
        lines = LineReader(2 * self._limits.request + ENVELOPE_BYTES)
        while data := connection.recv(1 << 16):
            for line in lines.feed(data):
                message = decode(line)
                if not isinstance(message, Call):
                    raise MessageError("a message that is no call")
                return message
        return None

    def _answer(self, connection: socket.socket, call: Call, cancellation: Cancellation) -> Message:
        def send_log(entry: LogEntry) -> None:
            try:
                _send(connection, LogMessage(entry=entry.to_dict()))
            except OSError:  # the client has gone, or does not read
                cancellation.cancel()

        try:
            check_call(call)
            # The server knows better than the client where the call comes from.
            local = replace(call, caller="local", trigger="local")
            response = run_steps(
                self._invoker.steps(local, on_log=send_log, cancellation=cancellation)
            )
            return Response(text=response.to_json())
        except SandboxError as error:
            return failure_from(error)
        except Exception as error:  # the edge of a thread
            log.exception("an invocation through the local socket failed")
            return failure_from(
                InternalError(
                    f"a defect of the sandbox: {type(error).__name__}: {error}",
                    hint="please report it, with the trace that the serving process has printed",
                )
            )


def _send(connection: socket.socket, message: Message) -> None:
    connection.sendall(encode(message))


@contextlib.contextmanager
def _watched(connection: socket.socket, cancellation: Cancellation) -> Iterator[None]:
    """Within, cancel if the client hangs up. It sends nothing more, so `recv` tells."""
    duplicate = connection.dup()
    duplicate.settimeout(None)

    def watch() -> None:
        with contextlib.suppress(OSError):
            duplicate.recv(1)
        cancellation.cancel()

    thread = threading.Thread(target=watch, name="local client's end", daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RD)  # wakes `recv`
        thread.join()
        duplicate.close()


@contextlib.contextmanager
def _listening(address: Address) -> Iterator[socket.socket]:
    """A listening socket at `address`, which only this user can reach; removed afterwards."""
    address.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with private_directory(address.directory) as directory, contextlib.ExitStack() as stack:
        _clear_stale(directory)
        name = address.socket.name
        stack.enter_context(_locked(directory, f"{address.name}.lock"))
        _unlink(directory, name)  # of a killed process: it no longer holds the lock
        listening = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listening.bind(inside(directory, name))
        stack.callback(_unlink, directory, name)
        os.chmod(inside(directory, name), 0o600)  # noqa: PTH101
        listening.listen(_BACKLOG)
        yield listening


@contextlib.contextmanager
def _locked(directory: int, name: str) -> Iterator[None]:
    """Hold the lock file `name`; it is removed afterwards.

    Raises:
        AddressInUseError: another process holds it.
    """
    flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        descriptor = os.open(name, flags, 0o600, dir_fd=directory)
        if not try_lock(descriptor):
            os.close(descriptor)
            raise AddressInUseError
        if _is_still(directory, name, descriptor):
            break
        os.close(descriptor)
    try:
        yield
    finally:
        _unlink(directory, name)
        os.close(descriptor)


def _is_still(directory: int, name: str, descriptor: int) -> bool:
    """Whether the open file still has that name: its last holder may have removed it."""
    try:
        return os.path.samestat(os.stat(name, dir_fd=directory), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _clear_stale(directory: int) -> None:
    """Remove the sockets of killed processes: their locks are free."""
    for name in os.listdir(inside(directory, "")):  # noqa: PTH208
        stem, ending = os.path.splitext(name)  # noqa: PTH122
        if ending == ".lock":
            with contextlib.suppress(AddressInUseError, OSError), _locked(directory, name):
                _unlink(directory, f"{stem}.sock")


def _unlink(directory: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
