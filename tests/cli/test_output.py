"""What people read is safe to print, whatever a function wrote."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_cli.output import (
    describe_details,
    describe_limit,
    dump,
    print_error,
    print_fields,
    print_log,
    print_problem,
    print_response,
    print_table,
    print_warning,
    printable,
)

from sandbox.documents.problems import Problem
from sandbox.models import FunctionError, FunctionResponse, LogEntry, Stats

# Every character, lone surrogates too.
TEXT = st.text(st.characters(exclude_categories=()))


@given(TEXT)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = printable(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    shown.encode()


@given(st.recursive(st.none() | st.booleans() | st.integers() | TEXT, st.lists))
def test_escaping_json_does_not_change_what_it_says(value: object) -> None:
    expected = json.loads(json.dumps(value))  # surrogates that pair up are joined by any reader
    assert json.loads(dump(value)) == expected
    assert json.loads(dump(value, indent=2)) == expected


def test_ordinary_text_is_left_alone() -> None:
    text = "Zürich ☕ 👩‍💻 日本\n\té"
    assert printable(text) == text


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "\x9b2J", "\x07", "\r", "\u202e", "\u2028", "\u061c", "\x00"]
)
def test_what_moves_a_cursor_or_reorders_text_is_escaped(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(text).startswith("\\u")


def test_further_lines_of_a_log_entry_are_indented(capsys: pytest.CaptureFixture[str]) -> None:
    print_log(LogEntry(level="warn", message="first\nerror: FAKE: second", data={"n": 1}).to_dict())
    out, err = capsys.readouterr()
    assert out == ""
    assert err == '  warn  first\n        error: FAKE: second  {"n": 1}\n'


def test_a_limit_reads_as_a_sentence() -> None:
    details = {"limit": 134217728, "observed": 134500000, "setting": "memory", "exit_code": None}
    assert describe_details(details) == [
        "the limit is 128mb; 128.3mb was seen; `memory` in the manifest sets it"
    ]
    assert describe_details({"limit": 10, "observed": None, "setting": "limits.boot"}) == [
        "the limit is 10s; `limits.boot` in the operator's settings sets it"
    ]


def test_long_text_in_details_is_a_block() -> None:
    assert describe_details({"exit_code": 3, "stderr": "a\nb\n", "signal": None, "x": [1]}) == [
        "exit_code: 3",
        "stderr:",
        "  a",
        "  b",
        "x: [1]",
    ]


def test_a_response_puts_output_on_stdout_and_figures_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stats = Stats(cold=True, peak_memory_bytes=2**20, runtime_class="crun", version="ab" * 32)
    print_response(
        FunctionResponse(
            request_id="r", success=True, output={"a": "ü"}, duration_ms=12.4, stats=stats
        ).to_dict()
    )
    out, err = capsys.readouterr()
    assert json.loads(out) == {"a": "ü"}
    assert err == "succeeded in 12 ms · cold · 1mb · crun · version abababababab\n"


def test_a_failure_leaves_stdout_empty(capsys: pytest.CaptureFixture[str]) -> None:
    error = FunctionError(code="MINE", message="no\x1b[31m", details={"field": "email"})
    print_response(FunctionResponse(request_id="r", success=False, error=error).to_dict())
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[:2] == [r"error: MINE: no\u001b[31m", "  field: email"]


FORGED = "x\r\x1b[2K\nerror: INTERNAL: forged\n  hint: curl | sh\u202e"


def test_nothing_that_a_function_or_a_manifest_says_can_pass_for_a_line_of_ours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    details = {FORGED: FORGED, "setting": FORGED, "limit": FORGED, "observed": FORGED}
    print_error(FORGED, FORGED, hint=FORGED, details=details)
    print_warning(FORGED)
    print_problem(Problem(message=FORGED, file=FORGED, line=1, hint=FORGED))
    print_log(LogEntry(message=FORGED, data={FORGED: FORGED}).to_dict())
    print_table(["NAME"], [[FORGED]])
    print_fields([("name", FORGED)])
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "\u202e" not in out + err
    lines = (out + err).splitlines()
    assert not [line for line in lines if line.startswith(("error: INTERNAL", "  hint: curl"))]


@pytest.mark.parametrize("setting", ["memory", "timeout", "pids", "network", "mine"])
@pytest.mark.parametrize("value", [10**400, -1, 1e300, 0, True, None, "x", [1], {"a": 1}])
def test_a_limit_that_a_function_made_up_is_shown_all_the_same(setting: str, value: object) -> None:
    """Any function can answer with details that look like those of a limit."""
    (line,) = describe_details({"limit": value, "observed": value, "setting": setting})
    assert line.startswith(("the limit is", "it may reach"))


def test_refused_destinations_read_as_a_sentence() -> None:
    assert describe_limit("network", 1, 2) == (
        "it may reach 1 destinations; 2 others were tried; `network` in the manifest names them"
    )
