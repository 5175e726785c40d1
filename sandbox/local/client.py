"""The client's side: one connection, one invocation."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from sandbox.errors import InternalError
from sandbox.local.messages import (
    ENVELOPE_BYTES,
    Failure,
    Hello,
    LineReader,
    LogMessage,
    MessageError,
    Response,
    decode,
    encode,
    error_from,
)
from sandbox.local.sockets import inside, peer_is_us, private_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

    from sandbox.call import Call
    from sandbox.local.address import Address
    from sandbox.local.messages import Message

# A server that is alive greets at once; one that is stopped never does.
_GREETING_SECONDS: Final = 2.0
# After Ctrl-C, how long to wait until the server has removed the container.
_CANCEL_SECONDS: Final = 10.0
# The server caps responses and logs.
_MOST_BYTES: Final = 1 << 32


class NotTakenError(Exception):
    """The server has not taken the call: it is safe to invoke in another way."""


class Connection:
    """A connection to a server, for one invocation. `max_request` is in bytes.

    Raises:
        NotTakenError: the server does not greet as it should.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lines = LineReader(_MOST_BYTES)
        self._arrived: deque[bytes] = deque()
        self._socket.settimeout(_GREETING_SECONDS)
        hello = next(self._messages(), None)
        if not isinstance(hello, Hello):
            raise NotTakenError
        self.max_request = hello.max_request

    def invoke(self, call: Call, *, on_log: Callable[[dict[str, Any]], None]) -> str:
        """The text of the response document; `on_log` is called with each entry as it comes.

        Raises:
            NotTakenError: the server went away, or the call is too large for it.
            SandboxError: as `Sandbox.invoke` raises it, from the server.
        """
        line = encode(call)
        if len(line) > 2 * self.max_request + ENVELOPE_BYTES:
            raise NotTakenError
        try:
            self._socket.sendall(line)
        except OSError as error:
            self._raise_refusal()
            raise NotTakenError from error
        self._socket.settimeout(None)
        try:
            return self._answer(on_log)
        except KeyboardInterrupt:
            self._cancel()
            raise

    def close(self) -> None:
        self._socket.close()

    def _answer(self, on_log: Callable[[dict[str, Any]], None]) -> str:
        try:
            for message in self._messages():
                if isinstance(message, LogMessage):
                    on_log(message.entry)
                elif isinstance(message, Response):
                    return message.text
                elif isinstance(message, Failure):
                    raise error_from(message)
        except ConnectionError:
            pass
        except MessageError as error:
            raise InternalError(f"the process that serves these functions sent {error}") from None
        raise InternalError(
            "the process that serves these functions ended before it answered",
            hint="the function may have run; `--local` invokes without that process",
        )

    def _raise_refusal(self) -> None:
        """Raise the error that the server sent before it hung up: it may be overloaded."""
        with contextlib.suppress(OSError, MessageError):
            for message in self._messages():
                if isinstance(message, Failure):
                    raise error_from(message)

    def _cancel(self) -> None:
        """Have the server kill the invocation, and wait until that is done."""
        with contextlib.suppress(OSError, MessageError):
            self._socket.shutdown(socket.SHUT_WR)
            deadline = time.monotonic() + _CANCEL_SECONDS
            self._socket.settimeout(_CANCEL_SECONDS)
            for _ in self._messages():
                if time.monotonic() > deadline:
                    return

    def _messages(self) -> Iterator[Message]:
        """Messages until the server hangs up."""
        while True:
            while self._arrived:
                yield decode(self._arrived.popleft())
            data = self._socket.recv(1 << 16)
            if not data:
                return
            self._arrived += self._lines.feed(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def connect(address: Address) -> Connection | None:
    """A connection to the process that serves at `address`; None if there is none that answers."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with private_directory(address.directory) as directory:
            connection.connect(inside(directory, address.socket.name))
        if peer_is_us(connection):
            return Connection(connection)
    except (OSError, MessageError, NotTakenError):
        pass
    connection.close()
    return None
