"""A container of the Docker engine, and its attached stream."""

from __future__ import annotations

import contextlib
import select
import signal
import time
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import docker.errors
import requests.exceptions

from sandbox.engine.base import Chunk, ContainerStartError, Exit
from sandbox.engine.docker.errors import ignoring, retried, translated
from sandbox.engine.docker.frames import FrameDecoder, ProtocolError
from sandbox.errors import EngineUnavailableError

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from docker.api import APIClient

_READ_SIZE: Final = 64 * 1024


class DockerContainer:
    """One container, with its attached stream. See `sandbox.engine.base.Container`."""

    def __init__(self, client: APIClient, container_id: str, attached: Any) -> None:
        self.id = container_id
        self._client = client
        # For a local engine, the SDK returns a file object around the socket, which belongs to the
        # response. For any other engine it is a plain socket: see `tls_attach`.
        self._attached = attached
        self._socket: socket.socket = getattr(attached, "_sock", attached)
        self._socket.setblocking(False)
        self._decoder = FrameDecoder()
        self._received: deque[Chunk] = deque()
        self._outgoing = memoryview(b"")
        self._end_pending = False
        self._ended = False
        self._removed = False

    def start(self) -> None:
        try:
            with translated("start a container"):
                self._client.start(self.id)
        except docker.errors.APIError as error:
            raise ContainerStartError(error.explanation or str(error)) from error

    def send(self, data: bytes, *, end: bool = False) -> None:
        self._outgoing = memoryview(bytes(self._outgoing) + data)
        self._end_pending = self._end_pending or end
        self._flush()

    @property
    def sending(self) -> bool:
        return bool(self._outgoing) or self._end_pending

    @property
    def received(self) -> bool:
        return bool(self._received) or self._ended

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self, deadline: float) -> Chunk | None:
        while not self.received:
            remaining = max(deadline - time.monotonic(), 0.0)
            self._exchange(remaining)
            if not self.received and not remaining:
                raise TimeoutError
        return self._received.popleft() if self._received else None

    def _exchange(self, seconds: float) -> None:
        if not seconds and not self.sending:
            self._read()
            return
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if self.sending else 0))
        for _, events in poll.poll(seconds * 1000):
            if events & select.POLLOUT:
                self._flush()
            if events & ~select.POLLOUT:
                self._read()

    def _flush(self) -> None:
        try:
            while self._outgoing:
                sent = self._socket.send(self._outgoing)
                self._outgoing = self._outgoing[sent:]
            if self._end_pending:
                self._end_pending = False
                self._socket.shutdown(1)  # SHUT_WR: with StdinOnce this ends the function's stdin
        except BlockingIOError:
            return
        except OSError:
            # The function ended, or closed its stdin, before it had read everything.
            self._outgoing = memoryview(b"")
            self._end_pending = False

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if data:
            try:
                self._received.extend(self._decoder.feed(data))
            except ProtocolError as error:
                raise EngineUnavailableError(f"the engine's stream is garbled: {error}") from error
        else:
            self._ended = True

    def kill(self) -> None:
        with translated("kill a container"), ignoring(404, 409):
            self._client.kill(self.id)

    def wait(self, timeout: float) -> Exit:
        try:
            with translated("wait for a container"):
                self._client.wait(self.id, timeout=max(timeout, 0.001))
        except requests.exceptions.ReadTimeout:
            raise TimeoutError from None
        with translated("inspect a container"):
            state = self._client.inspect_container(self.id)["State"]
        killed = state["ExitCode"] == 128 + signal.SIGKILL
        oom_killed = state["OOMKilled"] or (killed and self._heard_of_oom(state))
        return Exit(
            exit_code=state["ExitCode"], oom_killed=oom_killed, error=state.get("Error", "")
        )

    def _heard_of_oom(self, state: Mapping[str, Any]) -> bool:
        """Whether the engine learned of the kill after the end, too late for the container's state.

        That happens under gVisor, where a lack of memory ends the whole container at once.
        """
        # By the engine's clock; one more second for events that are on their way.
        began, ended = (
            int(datetime.fromisoformat(state[name]).timestamp())
            for name in ("StartedAt", "FinishedAt")
        )
        with translated("look up the events of a container"):
            events = self._client.events(
                since=began,
                until=ended + 1,
                filters={"container": [self.id], "event": ["oom"]},
            )
            return bool(list(events))

    def remove(self) -> None:
        # First: the engine ends a container only after its output has been read.
        self.close()
        if not self._removed:
            retried("remove a container", lambda: remove_container(self._client, self.id))
            self._removed = True

    def close(self) -> None:
        response = getattr(self._attached, "_response", None)
        if response is not None:
            with contextlib.suppress(OSError):
                response.close()
        with contextlib.suppress(OSError):
            self._attached.close()
        with contextlib.suppress(OSError):
            self._socket.close()


def remove_container(client: APIClient, container_id: str) -> None:
    """Kill and remove a container. It is no error if it is gone."""
    # 409: another process is removing it at this moment.
    with ignoring(404, 409):
        client.remove_container(container_id, force=True, v=True)
