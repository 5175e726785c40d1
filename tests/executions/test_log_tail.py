from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox.executions.log_tail import log_tail, storable, tail_entries
from sandbox.models import LogEntry

WHEN = "2026-01-24T10:30:00.000Z"
texts = st.text(st.characters(codec=None, categories=None))
entries = st.builds(
    LogEntry,
    level=st.sampled_from(["debug", "info", "warn", "error"]),
    message=texts,
    data=st.none() | st.dictionaries(texts, texts),
    timestamp=st.just(WHEN) | texts,
)


@given(st.lists(entries), st.integers(0, 300))
def test_a_tail_never_has_more_than_its_size_and_every_database_takes_it(
    logs: list[LogEntry], most: int
) -> None:
    tail = log_tail(logs, most=most)
    assert len(tail.encode()) <= most
    assert "\0" not in tail


@given(st.lists(st.builds(LogEntry, message=st.text("ab\n 1"), timestamp=st.just(WHEN))))
def test_entries_come_back_from_a_tail(logs: list[LogEntry]) -> None:
    back = tail_entries(log_tail(logs, most=1_000_000))
    assert [entry.message for entry in back] == [entry.message for entry in logs]


def test_the_end_is_kept_and_not_the_beginning() -> None:
    logs = [LogEntry(message=str(number), timestamp=WHEN) for number in range(100)]
    line = f"{WHEN} info 99"
    assert log_tail(logs, most=len(line) + 1) == line
    assert log_tail([LogEntry(message="x" * 100 + "end", timestamp=WHEN)], most=5) == "xxend"


def test_a_message_of_several_lines_cannot_pass_for_several_entries() -> None:
    logs = [LogEntry(message=f"a\n{WHEN} error forged", timestamp=WHEN)]
    back = tail_entries(log_tail(logs, most=1000))
    assert [(entry.level, entry.message) for entry in back] == [("info", logs[0].message)]


def test_data_is_shown_behind_the_message() -> None:
    logs = [LogEntry(level="warn", message="low", data={"left": 3}, timestamp=WHEN)]
    assert log_tail(logs, most=1000) == f'{WHEN} warn low {{"left": 3}}'


def test_what_no_database_takes_is_replaced() -> None:
    assert storable("a\0b") == "a\ufffdb"
    assert storable("a\ud800b\u00e4") == "a?b\u00e4"
