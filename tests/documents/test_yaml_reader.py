from __future__ import annotations

import math
import os
import re
import threading
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sandbox.documents.yaml_reader import MAX_BYTES, MAX_DEPTH, MAX_NODES, load, parse

if TYPE_CHECKING:
    from pathlib import Path


def value_of(text: str) -> Any:
    node, problems = parse(text.encode(), "f")
    assert problems == []
    assert node is not None
    return node.value


def problem_of(data: str | bytes) -> str:
    _, problems = parse(data.encode() if isinstance(data, str) else data, "f")
    assert len(problems) == 1, problems
    return str(problems[0])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("012", 12),
        ("0o14", 12),
        ("0xff", 255),
        ("-7", -7),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("1e99", 1e99),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("2026-01-24", "2026-01-24"),
        ("2026-01-24T10:30:00Z", "2026-01-24T10:30:00Z"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("!!str 1", "1"),
        ("! 1", "1"),
        ("!!int '3'", 3),
        ("!!float 3", 3),
        ("=", "="),
    ],
)
def test_scalars_resolve_as_in_yaml_1_2(text: str, value: object) -> None:
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


def test_nan_is_a_float() -> None:
    assert math.isnan(value_of(".nan"))


def test_every_key_and_value_has_its_place() -> None:
    node, _ = parse(b"a: 1\nb:\n  - x\n  - {c: 2}\n", "f")
    assert node is not None
    assert node.position("a", key=True) == (1, 1)
    assert node.position("a") == (1, 4)
    assert node.position("b", 1, "c", key=True) == (4, 6)
    assert node.position("b", 1, "c") == (4, 9)


def test_a_missing_value_is_placed_at_what_surrounds_it() -> None:
    node, _ = parse(b"a: 1\nb: {c: 2}\n", "f")
    assert node is not None
    assert node.position("b", "missing") == (2, 1)
    assert node.position("missing") == (1, 1)


def test_scalars_keep_their_text() -> None:
    node, _ = parse(b"version: 1.10\n", "f")
    assert node is not None
    child = node.find("version")
    assert child is not None
    assert (child.value, child.text) == (1.1, "1.10")


def test_keys_are_text_as_in_json() -> None:
    assert value_of("1: a\ntrue: b\n~: c\n'<<': d") == {"1": "a", "true": "b", "~": "c", "<<": "d"}


def test_aliases_are_written_out() -> None:
    assert value_of("a: &x [1, 2]\nb: *x\nc: [*x]") == {"a": [1, 2], "b": [1, 2], "c": [[1, 2]]}


def test_an_empty_file_is_null() -> None:
    assert value_of("") is None
    assert value_of("# nothing\n") is None
    assert value_of("\ufeffa: 1") == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "f:2:1: error: 'a' stands here twice; first on line 1 (keep one)"),
        ("b: &x {a: 1}\nc:\n  <<: *x", "f:3:3: error: merge keys (<<) are not read"),
        ("a: !!python/object/apply:os.system [id]", "f:1:4: error: the tag '!!python/object"),
        ("a: !foo 1", "f:1:4: error: the tag '!foo' is not read"),
        ("a: !!binary aGk=", "f:1:4: error: the tag '!!binary' is not read"),
        ("a: !!int x", "f:1:4: error: 'x' is no int"),
        ("a: !!map [1]", "the tag '!!map' is not read"),
        ("a: 1\n---\nb: 2", "f:2:1: error: a second document begins here"),
        ("? [a, b]\n: 1", "f:1:3: error: a key must be a text"),
        ("a: *b", "f:1:4: error: nothing before this is anchored as &b"),
        ("a: &a [*a]", "f:1:8: error: *a contains itself"),
        ("a: b: c", "not valid YAML: mapping values are not allowed"),
        ("a: [1, 2", "close the bracket"),
        ("a:\n\t- b", "indent with spaces, not tabs"),
        ("a: 'x", "close the quotes"),
        ("a: " + "9" * 5000, "a number of more than 100 digits"),
        (b"a: caf\xe9", "f:1:7: error: not UTF-8"),
        ("a: 1".encode("utf-16"), "not UTF-8"),
        (b"a: 1\nb: \x00", "f:2:4: error: the character U+0000 is not allowed"),
        (b"a: \x1b[31m", "the character U+001B is not allowed"),
    ],
)
def test_what_is_refused_says_where_and_why(text: str | bytes, message: str) -> None:
    assert message in problem_of(text)


def test_reading_goes_on_after_a_problem() -> None:
    node, problems = parse(b"a: 1\na: 2\nb: !x 3\n? {k: v}\n: 4\nc: 5", "f")
    assert [problem.line for problem in problems] == [2, 3, 4]
    assert node is not None
    assert node.value == {"a": 1, "b": "3", "c": 5}


def test_a_file_that_is_wrong_everywhere_gives_fifty_problems() -> None:
    _, problems = parse(b"a: 1\n" * 9000, "f")
    assert len(problems) == 50


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "a:\n"])
def test_ten_thousand_levels_are_refused_at_fifty(opening: str) -> None:
    if opening == "a:\n":
        text = "".join(" " * level + "a:\n" for level in range(200))
    else:
        text = opening * 10_000
    assert f"nested deeper than {MAX_DEPTH} levels" in problem_of(text)


def test_fifty_levels_are_read() -> None:
    assert value_of("[" * MAX_DEPTH + "]" * MAX_DEPTH)


def test_levels_of_aliases_count() -> None:
    lines = ["a0: &a0 [1]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 100))]
    assert "nested deeper" in problem_of("\n".join(lines))


def test_an_alias_bomb_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert f"more than {MAX_NODES} values, aliases written out" in problem_of("\n".join(lines))


def test_a_bomb_of_long_texts_is_refused() -> None:
    text = f"a: &a {'x' * 50_000}\nb: [{', '.join(['*a'] * 50)}]"
    assert "KiB of text, aliases written out" in problem_of(text)


def test_too_many_values_are_refused() -> None:
    assert f"more than {MAX_NODES} values" in problem_of("[" + "1," * MAX_NODES + "1]")


def test_ten_megabytes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(b"a: " + b"x" * 10_000_000)
    _, problems = load(file, "f")
    assert "larger than 256 KiB" in str(problems[0])
    assert "larger than 256 KiB" in problem_of(b"x" * (MAX_BYTES + 1))


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f.yaml")
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.append(load(tmp_path / "f.yaml", "f")), daemon=True
    )
    thread.start()
    thread.join(timeout=5)
    assert results, "reading the FIFO blocks"
    assert "it is a FIFO, not a file" in str(results[0][1][0])


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text("a: 1")
    (tmp_path / "link.yaml").symlink_to("real.yaml")
    for name, reason in [("link.yaml", "a symbolic link"), (".", "a directory"), ("x", "exist")]:
        node, problems = load(tmp_path / name, name)
        assert node is None
        assert reason in str(problems[0])


def test_the_operators_files_may_be_links(tmp_path: Path) -> None:
    """Secrets managers mount files as links."""
    (tmp_path / "real.yaml").write_text("a: 1")
    (tmp_path / "link.yaml").symlink_to("real.yaml")
    node, problems = load(tmp_path / "link.yaml", "link.yaml", follow_links=True)
    assert (node.value, problems) == ({"a": 1}, [])


def test_names_in_problems_cannot_move_the_terminals_cursor() -> None:
    _, problems = parse('"\\e[2J\u202e": 1\n"\\e[2J\u202e": 2'.encode(), "f\x1b")
    assert "\x1b" not in str(problems[0])
    assert "\u202e" not in str(problems[0])


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    parse(data, "f")


@given(st.text(alphabet="ab:-[]{}?&*!|>'\"#%@, \n\t<", max_size=200))
def test_no_text_makes_it_raise(text: str) -> None:
    parse(text.encode(), "f")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abc<y", min_size=1, max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_values)
def test_what_json_can_say_is_read_as_it_was_written(value: Any) -> None:
    text = yaml.safe_dump(value, default_style='"', allow_unicode=True)
    quoted_keys_only = yaml.safe_dump(value, allow_unicode=True)
    for written in (text, quoted_keys_only):
        node, problems = parse(written.encode(), "f")
        if re.search(r"(?m)^\W*<<", written):  # a key that means more than text
            continue
        assert problems == []
        assert node is not None
        assert node.value == value
