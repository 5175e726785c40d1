"""The server's log: what lines say and never say, and that logging never blocks."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import threading
from typing import Any

from sandbox.server.telemetry.request_log import BackgroundStream
from tests.waiting import wait_until

SCRIPT = """
import logging
from sandbox.call import Call
from sandbox.executions.model import Execution
from sandbox.models import FunctionResponse
from sandbox.server.telemetry.request_log import ExecutionLog, configure_logging

logs = configure_logging()
call = Call(function="hello", input={"password": "canary"}, auth={"id": "canary"})
execution = Execution(
    id="req_1", function="hello", caller="key:ci", trigger="http", status="failed", code="E_CANARY",
    message="canary", log_tail="canary", created_at=0.0, response={"output": "canary"},
)
response = FunctionResponse(request_id="req_1", success=True, output="canary")
ExecutionLog().ended(execution, response, None, call)
logging.getLogger("sandbox.server.lifecycle").info("%s was read", "it")
logging.getLogger("sandbox.server.lifecycle").debug("not this")
logging.getLogger("others").info("nor this")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("others").exception("a defect")
logs.close()
"""


def test_lines_are_json_where_nobody_looks() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True
    )
    execution, info, defect = map(json.loads, ended.stderr.splitlines())
    assert execution["event"] == "execution"
    expected = {"request_id": "req_1", "function": "hello", "status": "failed", "caller": "key:ci"}
    assert expected.items() <= execution.items()
    assert "canary" not in ended.stderr
    assert (info["event"], info["level"]) == ("it was read", "info")
    assert info["timestamp"].endswith("Z")
    assert defect["level"] == "error"
    assert "ZeroDivisionError" in defect["exception"]
    assert ended.stdout == ""


def test_lines_are_for_people_at_a_terminal() -> None:
    ours, theirs = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", SCRIPT], stderr=theirs, timeout=60, check=True)
        os.close(theirs)
        text = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
    assert "request_id" in text
    assert not text.startswith("{")


HOSTILE = """
import logging, structlog
from sandbox.server.telemetry.request_log import configure_logging

logs = configure_logging()
wiped = "\\x1b[2J\\x1b]0;owned\\x07\\u202e"
structlog.get_logger().info("request", path="/" + wiped, code=wiped)
logging.getLogger("sandbox.containers.reaper").warning("%s left something", wiped)
try:
    raise ValueError(wiped)
except ValueError:
    logging.getLogger("sandbox.containers.reaper").exception("a defect")
logs.close()
"""


def test_what_callers_and_functions_write_does_not_reach_the_terminal_as_it_is() -> None:
    ours, theirs = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", HOSTILE], stderr=theirs, timeout=60, check=True)
        os.close(theirs)
        text = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
    assert text.count("owned") >= 4
    for sequence in ("\x1b[2J", "\x1b]", "\x07", "\u202e"):
        assert sequence not in text


class Stuck(io.StringIO):
    """A stream that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.free = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.free.wait(60)
        return super().write(text)


def test_nobody_waits_for_a_stream_that_takes_nothing() -> None:
    stream = Stuck()
    background = BackgroundStream(stream)
    background.write("first\n")
    assert stream.reached.wait(60)
    for number in range(10_005):
        background.write(f"{number}\n")
    stream.free.set()
    background.close()
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["first", "0"]
    assert lines[-2:] == ["9999", "5 lines were left out here"]


def test_what_was_logged_is_written_soon_and_at_the_end() -> None:
    stream = io.StringIO()
    background: Any = BackgroundStream(stream)
    background.write("soon\n")
    wait_until(lambda: stream.getvalue() == "soon\n")
    background.write("at the end\n")
    background.close()
    background.close()
    assert stream.getvalue() == "soon\nat the end\n"
