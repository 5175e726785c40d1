"""What the store shares between bundles, what it keeps, and what it removes."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.errors import InvalidManifestError
from sandbox.store.bundles import Bundle, BundleStore
from sandbox.store.file_hashes import SETTLED, FileHashes
from sandbox.store.tree import Caps, Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KEY = "0123456789abcdef"
CAPS = Caps(1 << 30, 1000)
T = TypeVar("T")


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    return BundleStore(tmp_path / "store")


def write(directory: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


@pytest.fixture
def bundle_of(store: BundleStore, tmp_path: Path) -> Callable[..., Bundle]:
    """`bundle_of("name", {"path": "text"})` is a bundle of those files."""

    def make(name: str, files: Mapping[str, str]) -> Bundle:
        return store.snapshot(write(tmp_path / name, files))

    return make


def contents(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in directory.rglob("*")
        if path.is_file()
    }


# ---------------------------------------------------------------- merging


def test_a_later_part_replaces_and_files_are_shared(
    store: BundleStore, bundle_of: Callable[..., Bundle]
) -> None:
    source = bundle_of("a", {"index.js": "a", "dist/old.js": "a", "dist/new.js": "a"})
    built = bundle_of("b", {"dist/new.js": "b", "node_modules/m/i.js": "b"})
    merged = store.merge([source, built])
    assert contents(merged.path) == {
        "index.js": "a", "dist/old.js": "a", "dist/new.js": "b", "node_modules/m/i.js": "b",
    }  # fmt: skip
    for part, name in ((source, "index.js"), (built, "node_modules/m/i.js")):
        assert (merged.path / name).samefile(part.path / name)
    assert contents(source.path)["dist/new.js"] == "a", "no bundle ever changes"


def test_what_a_build_replaces_is_left_out(
    store: BundleStore, bundle_of: Callable[..., Bundle]
) -> None:
    source = bundle_of("a", {"index.js": "a", "dist/old.js": "a", "x/dist/f": "a"})
    merged = store.merge([source, bundle_of("b", {"dist/new.js": "b"})], without=["dist"])
    assert set(contents(merged.path)) == {"index.js", "dist/new.js", "x/dist/f"}


def test_a_merge_is_named_by_its_parts_and_made_once(
    store: BundleStore, bundle_of: Callable[..., Bundle]
) -> None:
    one, two = bundle_of("a", {"f": "1"}), bundle_of("b", {"g": "2"})
    with ThreadPoolExecutor(4) as threads:
        merged = set(threads.map(lambda _: store.merge([one, two]), range(8)))
    assert len(merged) == 1
    assert store.merge([two, one]) not in merged
    assert store.merge([one, two], without=["x"]) not in merged


@pytest.mark.parametrize("files", [("f", "f/g"), ("f/g", "f")])
def test_a_file_and_a_directory_of_one_name_are_refused(
    store: BundleStore, bundle_of: Callable[..., Bundle], files: tuple[str, str]
) -> None:
    parts = [bundle_of(f"part{n}", {name: "x"}) for n, name in enumerate(files)]
    with pytest.raises(InvalidManifestError, match="'f'"):
        store.merge(parts)


def test_links_stay_links_and_none_is_written_through(store: BundleStore, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/real").mkdir()
    (tmp_path / "a/m").symlink_to("real")
    source = store.snapshot(tmp_path / "a")
    other = store.snapshot(write(tmp_path / "b", {"m/f": "x"}))
    for parts in ([source, other], [other, source]):
        with pytest.raises(InvalidManifestError, match="'m'"):
            store.merge(parts)
    assert list((source.path / "real").iterdir()) == []
    merged = store.merge([source, store.snapshot(write(tmp_path / "c", {"f": "x"}))])
    assert (merged.path / "m").readlink() == Path("real")


# ---------------------------------------------------------------- hashes


def old(path: Path) -> None:
    """A file that changed long ago, as far as can be arranged: the time of its inode is now."""
    past = time.time() - 60
    os.utime(path, (past, past))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits until files have settled: the clock is ahead."""
    now = time.time_ns
    monkeypatch.setattr("sandbox.store.file_hashes.time.time_ns", lambda: now() + 2 * SETTLED)


def counted(monkeypatch: pytest.MonkeyPatch, read: Callable[[], T]) -> tuple[T, int]:
    """What `read` returns, and how many files it has read."""
    count = 0
    honest = os.read

    def count_and_read(descriptor: int, length: int) -> bytes:
        nonlocal count
        block = honest(descriptor, length)
        count += bool(block)
        return block

    with monkeypatch.context() as patch:
        patch.setattr("sandbox.store.tree.os.read", count_and_read)
        return read(), count


def reads(tree: Tree, file: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    """The tree's digest, and how many files were read for it."""
    hashes = FileHashes(file)
    digest, count = counted(monkeypatch, lambda: tree.digest(hashes=hashes))
    hashes.save()
    return digest, count


@pytest.mark.usefixtures("settled")
def test_only_what_has_changed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "source", {f"f{n}": f"{n}" * 400_000 for n in range(5)})
    tree, file = Tree(source, caps=CAPS), tmp_path / "hashes"
    digest, count = reads(tree, file, monkeypatch)
    assert (digest, count) == (tree.digest(), 5)
    assert reads(tree, file, monkeypatch) == (digest, 0)
    (source / "f3").write_text("3" * 399_999 + "x")
    changed, count = reads(tree, file, monkeypatch)
    assert (changed, count) == (tree.digest(), 1)
    (source / "f4").chmod(0o755)
    assert reads(tree, file, monkeypatch)[0] == tree.digest()


@pytest.mark.usefixtures("settled")
def test_a_digest_that_is_known_saves_reading_files_for_it(
    store: BundleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "source", {f"f{n}": f"{n}" * 400_000 for n in range(5)})
    digest, count = counted(monkeypatch, lambda: store.digest(source))
    assert count == 5
    assert counted(monkeypatch, lambda: store.digest(source)) == (digest, 0)
    bundle, count = counted(monkeypatch, lambda: store.snapshot(source, digest=digest))
    assert (bundle.digest, count) == (digest, 5)  # to copy them
    assert counted(monkeypatch, lambda: store.snapshot(source, digest=digest)) == (bundle, 0)


@pytest.mark.usefixtures("settled")
def test_digests_of_files_that_cannot_be_kept_are_not_needed(
    store: BundleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "source", {"f": "x" * 2_000_000})
    (tmp_path / "store/hashes").rmdir()
    assert [counted(monkeypatch, lambda: store.digest(source))[1] for _ in range(2)] == [2, 2]


def test_a_digest_that_is_out_of_date_is_not_believed(store: BundleStore, tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"f": "one"})
    digest = store.digest(source)
    write(source, {"f": "two"})
    bundle = store.snapshot(source, digest=digest)
    assert bundle.digest == store.digest(source) != digest
    assert contents(bundle.path) == {"f": "two"}


def test_what_changed_just_now_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second edit has the time and the size of the first, as within one tick of a clock."""
    source = write(tmp_path / "source", {"big": "x" * 2_000_000, "f": "one"})
    tree, file = Tree(source, caps=CAPS), tmp_path / "hashes"
    before = (source / "f").stat()
    first, _ = reads(tree, file, monkeypatch)
    (source / "f").write_text("two")
    os.utime(source / "f", ns=(before.st_atime_ns, before.st_mtime_ns))
    second, _ = reads(tree, file, monkeypatch)
    assert second == tree.digest() != first


@pytest.mark.parametrize("content", ["", "{", "[2, {}]", "[1, []]", '[1, {"f": [1]}]', "\x00"])
def test_damaged_hashes_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    source = write(tmp_path / "source", {"f": "x" * 2_000_000})
    (tmp_path / "hashes").write_text(content)
    tree = Tree(source, caps=CAPS)
    assert reads(tree, tmp_path / "hashes", monkeypatch)[0] == tree.digest()


@pytest.mark.usefixtures("settled")
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)
@given(
    edits=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["write", "remove", "touch", "swap"])),
        max_size=12,
    )
)
def test_with_hashes_the_digest_is_always_the_same_as_without(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, str]]
) -> None:
    base = tmp_path_factory.mktemp("edits")
    source = write(base / "source", {"big": "x" * 1_100_000, "a": "a", "b": "b"})
    tree = Tree(source, caps=CAPS)
    for number, (name, edit) in enumerate(edits):
        path = source / name
        if edit == "write":
            path.write_text(str(number))
        elif edit == "touch" and path.exists():
            old(path)
        elif edit == "remove":
            path.unlink(missing_ok=True)
        elif edit == "swap" and path.exists():
            path.rename(source / "abc"["bca".index(name)])
        hashes = FileHashes(base / "hashes")
        assert tree.digest(hashes=hashes) == tree.digest()
        hashes.save()


# ---------------------------------------------------------------- pruning


def test_what_nobody_uses_goes_and_what_is_held_stays(
    store: BundleStore, bundle_of: Callable[..., Bundle]
) -> None:
    held = bundle_of("a", {"f": "held"})
    lost = bundle_of("b", {"f": "lost"}).digest
    gc.collect()
    assert {each.digest: each.in_use for each in store.bundles()} == {
        held.digest: True,
        lost: False,
    }
    assert store.prune() == [], "it was used a moment ago"
    assert store.prune(older_than=0) == [lost]
    assert contents(held.path) == {"f": "held"}
    assert [each.digest for each in store.bundles()] == [held.digest]


def test_a_bundle_that_is_gone_is_made_again(
    store: BundleStore, bundle_of: Callable[..., Bundle]
) -> None:
    built = store.produce(KEY, lambda output: (output / "f").write_text("1")).digest
    gc.collect()
    assert store.prune(older_than=0) == [built]
    assert store.cached(KEY) is None
    assert contents(bundle_of("a", {"f": "1"}).path) == {"f": "1"}


def test_a_merge_outlives_its_parts(store: BundleStore, bundle_of: Callable[..., Bundle]) -> None:
    merged = store.merge([bundle_of("a", {"f": "1"}), bundle_of("b", {"g": "2"})])
    gc.collect()
    assert len(store.prune(older_than=0)) == 2
    assert contents(merged.path) == {"f": "1", "g": "2"}


def _hold(root: Path, source: Path, held: multiprocessing.synchronize.Event) -> None:
    bundle = BundleStore(root).snapshot(source)
    held.set()
    signal.pause()
    del bundle


def test_another_process_s_bundle_stays_until_that_process_ends_however_it_ends(
    store: BundleStore, tmp_path: Path
) -> None:
    source = write(tmp_path / "source", {"f": "1"})
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "store", source, held))
    process.start()
    try:
        assert held.wait(60)
        assert store.prune(older_than=0) == []
        assert [each.in_use for each in store.bundles()] == [True]
    finally:
        process.kill()
        process.join()
    assert len(store.prune(older_than=0)) == 1
    assert list((tmp_path / "store/leases").iterdir()) == []


def test_nothing_that_was_taken_is_ever_removed(store: BundleStore, tmp_path: Path) -> None:
    """One removes what it can, without end, while others take and drop the same bundles."""
    other = BundleStore(tmp_path / "store")
    sources = [write(tmp_path / f"s{n}", {"f": str(n)}) for n in range(3)]
    stop = threading.Event()
    removed = 0

    def remove() -> None:
        nonlocal removed
        while not stop.is_set():
            removed += len(other.prune(older_than=0))

    def take(number: int) -> None:
        for round_ in itertools.count():
            if round_ >= 40 and removed:
                return
            bundle = store.snapshot(sources[(number + round_) % 3])
            assert (bundle.path / "f").read_text() == str((number + round_) % 3)
            del bundle

    with ThreadPoolExecutor(4) as threads:
        removing = threads.submit(remove)
        try:
            list(threads.map(take, range(3)))
        finally:
            stop.set()
    removing.result()
    assert removed > 0


def test_a_bundle_whose_use_was_never_noted_is_not_kept_for_ever(
    store: BundleStore, tmp_path: Path
) -> None:
    """As when a process was killed between the two."""
    (tmp_path / "store/bundles" / ("0" * 64)).mkdir()
    (tmp_path / "store/used" / ("1" * 64)).touch()
    assert store.prune() == ["0" * 64]
    assert store.bundles() == []
    assert list((tmp_path / "store/used").iterdir()) == []
