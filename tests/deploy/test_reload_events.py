"""What a reload changed, without any files."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox.deploy.reload_events import DirectoryState, FunctionVersion, diff
from sandbox.documents.problems import Problem
from sandbox.functions.function import Origin


@given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("123")),
       st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("123")))  # fmt: skip
def test_diff_tells_all_that_is_different(before: dict[str, str], after: dict[str, str]) -> None:
    def state(digests: dict[str, str]) -> DirectoryState:
        return DirectoryState(
            versions={name: FunctionVersion(None, text) for name, text in digests.items()}
        )  # type: ignore[arg-type]

    changes = diff(state(before), state(after))
    assert bool(changes) == (before != after)
    assert set(changes.added) == after.keys() - before.keys()
    assert set(changes.removed) == before.keys() - after.keys()
    assert set(changes.changed) == {
        name for name in after.keys() & before.keys() if after[name] != before[name]
    }


def test_a_problem_that_moves_to_another_line_is_neither_new_nor_mended() -> None:
    origin = Origin("hello", "function.yaml")
    problem = origin.problem("unknown field")
    moved = Problem(message=problem.message, file=problem.file, line=9, function="hello")
    assert not diff(DirectoryState(problems=(problem,)), DirectoryState(problems=(moved,)))
