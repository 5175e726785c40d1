"""Reads untrusted YAML as plain values, with the place of every key and value.

Rules:
- It uses the parser's events, never a loader's constructors: no tag makes an object.
- Scalars resolve as in YAML 1.2's core schema: `yes`, `on` and dates are text; quoted is text.
- Keys are text, as in JSON. Duplicate keys, merge keys (`<<`) and other tags are problems.
- Size, depth and number of nodes are capped. An alias counts as much as its expansion.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import yaml

from sandbox.documents.problems import MOST_PROBLEMS, Problem, shown
from sandbox.documents.untrusted_files import FileRefusedError, read_regular
from sandbox.documents.yaml_core_schema import CORE, TAGS, resolve_plain

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES: Final = 256 * 1024
MAX_NODES: Final = 10_000
MAX_DEPTH: Final = 50

_UNREADABLE: Final = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)
_MENDS: Final = (
    ("mapping values are not allowed", 'check the indentation; put text that holds ": " in quotes'),
    ("cannot start any token", "indent with spaces, not tabs; put text that begins so in quotes"),
    ("found a tab", "indent with spaces, not tabs"),
    ("while scanning a quoted scalar", "close the quotes"),
    ("while parsing a flow", "close the bracket"),
    ("while parsing a block mapping", "check the indentation: fields of one map start in line"),
)


@dataclass(eq=False)
class Node:
    """One value of a document and its place. `line` and `column` count from 1.

    `text` is a scalar as it was written. `children` are a map's values by key or a list's by
    index; `keys` tells where a map's keys are. An alias shares the node of its anchor.
    """

    value: Any
    line: int
    column: int
    text: str | None = None
    children: dict[str | int, Node] = field(default_factory=dict)
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)
    # The size of the expanded node: nodes, characters, levels.
    count: int = 1
    characters: int = 0
    depth: int = 0

    def find(self, *path: str | int) -> Node | None:
        node: Node | None = self
        for step in path:
            node = node.children.get(step) if node else None
        return node

    def position(self, *path: str | int, key: bool = False) -> tuple[int, int]:
        """Line and column of the value at `path`, or of the nearest node around it.

        With `key`, the place of the key instead of the value.
        """
        node, place = self, (self.line, self.column)
        for step in path:
            child = node.children.get(step)
            if child is None:
                break
            place = node.keys.get(str(step), (child.line, child.column))
            node = child
        else:
            if not key:
                return node.line, node.column
        return place


def parse(data: bytes, file: str) -> tuple[Node | None, list[Problem]]:
    """The document in `data`, and its problems. An empty document has the value None.

    Invalid YAML, or YAML over a cap, gives no node. Else the node has everything that could be
    read. `file` is for the problems.
    """
    reader = _Reader(file)
    try:
        reader.read(_decode(data, reader))
    except _Stop:
        return None, reader.problems
    return reader.root, reader.problems


def load(path: Path, file: str, *, follow_links: bool = False) -> tuple[Node | None, list[Problem]]:
    """The document in the file at `path`; see `parse`. Never blocks on a FIFO or a device."""
    try:
        data = read_regular(path, max_bytes=MAX_BYTES, follow_links=follow_links)
    except FileRefusedError as refused:
        return None, [Problem(message=refused.message, hint=refused.hint, file=file)]
    return parse(data, file)


class _Stop(Exception):  # noqa: N818 - control flow, the error is a Problem
    """The reader cannot go on."""


@dataclass(eq=False)
class _Frame:
    """An open map or list. `key` is None while a map waits for its next key."""

    node: Node
    anchor: str | None
    key: str | None = None
    # An invalid key still has a value to skip.
    key_usable: bool = True


class _Reader:
    """Builds the nodes of one document from the parser's events, with its own stack."""

    def __init__(self, file: str) -> None:
        self.root: Node | None = Node(None, 1, 1)
        self.problems: list[Problem] = []
        self._file = file
        self._stack: list[_Frame] = []
        self._anchors: dict[str, Node | None] = {}
        self._count = 0
        self._characters = 0

    def problem(self, message: str, line: int, column: int, hint: str = "") -> None:
        self.problems.append(
            Problem(message=message, hint=hint, file=self._file, line=line, column=column)
        )
        if len(self.problems) >= MOST_PROBLEMS:
            raise _Stop

    def stop(self, message: str, line: int, column: int, hint: str = "") -> _Stop:
        """Note a problem, and return the error for the caller to raise."""
        self.problem(message, line, column, hint)
        return _Stop()

    def read(self, text: str) -> None:
        # Only for its events. The one with libyaml is about ten times as fast.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        documents = 0
        try:
            while loader.check_event():
                event = loader.get_event()
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        raise self.stop(
                            "a second document begins here",
                            *_place(event),
                            "keep one document in the file, without further `---` lines",
                        )
                elif isinstance(event, yaml.NodeEvent):
                    self._node(event)
                elif isinstance(event, yaml.CollectionEndEvent):
                    self._close()
        except yaml.YAMLError as error:
            raise self._syntax(error) from None
        finally:
            loader.dispose()

    def _node(self, event: yaml.NodeEvent) -> None:
        match event:
            case yaml.AliasEvent():
                self._alias(event)
            case yaml.ScalarEvent():
                self._scalar(event)
            case _:
                self._open(event)

    def _open(self, event: Any) -> None:
        is_map = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", f"{CORE}{'map' if is_map else 'seq'}"):
            self._refuse_tag(event)
        self._grow(event, depth=1)
        if event.anchor:
            self._anchors[event.anchor] = None  # it is open, so an alias to it would be a loop
        node = Node({} if is_map else [], *_place(event))
        self._stack.append(_Frame(node, event.anchor))

    def _close(self) -> None:
        frame = self._stack.pop()
        node = frame.node
        children = node.children.values()
        node.count = 1 + sum(child.count for child in children)
        node.characters = sum(child.characters for child in children)
        node.characters += sum(len(key) for key in node.keys)
        node.depth = 1 + max((child.depth for child in children), default=0)
        if frame.anchor:
            self._anchors[frame.anchor] = node
        self._put(node)

    def _scalar(self, event: Any) -> None:
        line, column = _place(event)
        self._grow(event, characters=len(event.value))
        node = Node(event.value, line, column, text=event.value, characters=len(event.value))
        if not event.value.isascii() and any("\ud800" <= c <= "\udfff" for c in event.value):
            self.problem("half of a surrogate pair is no text", line, column)
        if event.tag is None and event.implicit[0]:
            node.value = self._resolve(event.value, line, column)
        elif event.tag in TAGS:
            node.value = self._resolve(event.value, line, column)
            if not isinstance(node.value, TAGS[event.tag]):
                kind = event.tag.removeprefix(CORE)
                self.problem(f"{shown(event.value)} is no {kind}", line, column)
        elif event.tag not in (None, "!", f"{CORE}str"):
            self._refuse_tag(event)
        if event.anchor:
            self._anchors[event.anchor] = node
        self._put(node, merge=event.implicit[0] and event.value == "<<")

    def _alias(self, event: Any) -> None:
        line, column = _place(event)
        if event.anchor not in self._anchors:
            raise self.stop(
                f"nothing before this is anchored as &{event.anchor}",
                line,
                column,
                "put text that begins with * in quotes",
            )
        node = self._anchors[event.anchor]
        if node is None:
            raise self.stop(f"*{event.anchor} contains itself", line, column, "write it out")
        self._grow(event, count=node.count, characters=node.characters, depth=node.depth)
        self._put(node)

    def _put(self, node: Node, *, merge: bool = False) -> None:
        """Add a finished node to its map or list."""
        if not self._stack:
            self.root = node
            return
        frame = self._stack[-1]
        parent = frame.node
        if isinstance(parent.value, list):
            parent.children[len(parent.value)] = node
            parent.value.append(node.value)
        elif frame.key is None:
            self._put_key(frame, node, merge=merge)
        else:
            if frame.key_usable:
                parent.children[frame.key] = node
                parent.value[frame.key] = node.value
            frame.key = None

    def _put_key(self, frame: _Frame, node: Node, *, merge: bool) -> None:
        key, line, column = node.text, node.line, node.column
        frame.key = key or ""
        frame.key_usable = False
        if key is None:
            self.problem("a key must be a text", line, column, "put it in quotes")
        elif merge:
            self.problem(
                "merge keys (<<) are not read: YAML 1.2 has none",
                line,
                column,
                "write the fields out",
            )
        elif key in frame.node.keys:
            first = frame.node.keys[key][0]
            self.problem(
                f"{shown(key)} stands here twice; first on line {first}", line, column, "keep one"
            )
        else:
            frame.key_usable = True
            frame.node.keys[key] = (line, column)

    def _grow(self, event: Any, *, count: int = 1, characters: int = 0, depth: int = 0) -> None:
        """Count an added node; stop at a cap."""
        self._count += count
        self._characters += characters
        over = None
        if len(self._stack) + depth > MAX_DEPTH:
            over = f"nested deeper than {MAX_DEPTH} levels"
        elif self._count > MAX_NODES:
            over = f"more than {MAX_NODES} values, aliases written out"
        elif self._characters > MAX_BYTES:
            over = f"more than {MAX_BYTES // 1024} KiB of text, aliases written out"
        if over:
            raise self.stop(over, *_place(event), "make it smaller")

    def _resolve(self, text: str, line: int, column: int) -> Any:
        try:
            return resolve_plain(text)
        except ValueError as error:
            self.problem(str(error), line, column)
            return text

    def _refuse_tag(self, event: Any) -> None:
        tag = event.tag.replace(CORE, "!!")
        self.problem(f"the tag {shown(tag)} is not read", *_place(event), "remove the tag")

    def _syntax(self, error: yaml.YAMLError) -> _Stop:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        parts = (getattr(error, "context", None), getattr(error, "problem", None))
        text = ", ".join(part for part in parts if part) or "it cannot be read"
        hint = next((hint for sign, hint in _MENDS if sign in text), "")
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        return self.stop(f"not valid YAML: {text}", line, column, hint)


def _decode(data: bytes, reader: _Reader) -> str:
    """The text of a file. It must be UTF-8 without characters that YAML forbids."""
    if len(data) > MAX_BYTES:
        raise reader.stop(f"larger than {MAX_BYTES // 1024} KiB", 1, 1, "make it smaller")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        raise reader.stop("not UTF-8", *_end(before), "save the file as UTF-8") from None
    bad = _UNREADABLE.search(text)
    if bad:
        name = f"U+{ord(bad[0]):04X}"
        raise reader.stop(f"the character {name} is not allowed", *_end(text[: bad.start()]))
    return text


def _end(text: str) -> tuple[int, int]:
    """Line and column after `text`."""
    return text.count("\n") + 1, len(text) - text.rfind("\n")


def _place(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1
