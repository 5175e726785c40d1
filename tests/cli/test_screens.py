"""What `sandbox watch` and `sandbox serve` print for people."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sandbox_cli.screens import TextScreen

from sandbox.deploy.reload_events import DirectoryState, FunctionVersion, PollingEvent, ReloadEvent
from sandbox.documents.problems import Problem

if TYPE_CHECKING:
    import pytest


def state(**digests: str | None) -> DirectoryState:
    function: Any = SimpleNamespace()
    return DirectoryState(
        versions={name: FunctionVersion(function, digest) for name, digest in digests.items()}
    )


def test_a_reload_is_a_line_and_problems_read_as_a_compiler_s(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = TextScreen(Path("functions"))
    screen.show(ReloadEvent(added=("hello",), state=state(hello="a" * 64), seconds=0.0123))
    assert capsys.readouterr() == ("watching functions: 1 function in 12ms\n", "")

    problem = Problem(
        message="unknown field 'memroy'", file="functions/x/function.yaml", line=2, column=1,
        hint="did you mean 'memory'?",
    )  # fmt: skip
    screen.show(
        ReloadEvent(
            added=("new",), changed=("hello",), removed=("x",), problems=(problem,),
            state=state(hello="b" * 64, new=None), seconds=0.5,
        )
    )  # fmt: skip
    out, err = capsys.readouterr()
    assert out == "reloaded: new new, changed hello bbbbbbbbbbbb, removed x in 500ms\n"
    assert err == (
        "functions/x/function.yaml:2:1: error: unknown field 'memroy'\n"
        "  hint: did you mean 'memory'?\n"
    )

    screen.show(ReloadEvent(mended=(problem,), state=state()))
    out, err = capsys.readouterr()
    assert out.startswith("reloaded: no function changed in ")
    assert err == "mended: functions/x/function.yaml:2:1: unknown field 'memroy'\n"


def test_polling_says_why_and_how_to_mend_it(capsys: pytest.CaptureFixture[str]) -> None:
    TextScreen(Path("functions")).show(
        PollingEvent(reason="files are polled: no", hint="raise the limit")
    )
    assert capsys.readouterr().err == "warning: files are polled: no\n  hint: raise the limit\n"
