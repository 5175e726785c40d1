"""What goes into a bundle, what is refused, and what a crash or a race can do."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sandbox.store.tree
from sandbox.errors import InvalidManifestError, InvalidSettingsError
from sandbox.store.bundles import Bundle, BundleStore
from sandbox.store.tree import Caps, ChangedError, Tree, stays_inside

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    return BundleStore(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    return directory


@pytest.fixture
def write(source: Path) -> Callable[..., Path]:
    def write_file(path: str, text: str = "", *, mode: int = 0o644) -> Path:
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)
        return target

    return write_file


def contents(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def refused(store: BundleStore, source: Path, **options: Caps) -> list[str]:
    """The problems of a directory that can't be a bundle, which leaves nothing in the store."""
    with pytest.raises(InvalidManifestError) as caught:
        store.snapshot(source, **options)
    root = source.parent / "store"
    assert list((root / "bundles").iterdir()) == []
    assert list((root / "temporary").iterdir()) == []
    assert str(source) not in str(caught.value)
    return list(caught.value.details["problems"])


def test_a_bundle_is_a_copy(store: BundleStore, source: Path, write: Callable[..., Path]) -> None:
    write("index.py", "1")
    write("lib/deep/x.py", "2")
    (source / "empty").mkdir()
    bundle = store.snapshot(source)
    assert contents(bundle.path) == {"index.py": "1", "lib/deep/x.py": "2"}
    assert (bundle.path / "empty").is_dir()
    write("index.py", "changed")
    assert contents(bundle.path)["index.py"] == "1"


def test_the_same_content_is_the_same_bundle(
    store: BundleStore, source: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    write("index.py", "1")
    first = store.snapshot(source)
    os.utime(source / "index.py", (1, 1))
    (source / "index.py").chmod(0o600)
    assert store.snapshot(source) == first
    assert BundleStore(tmp_path / "other").snapshot(source).digest == first.digest


@pytest.mark.parametrize(
    "change",
    [
        lambda source: (source / "index.py").write_text("2"),
        lambda source: (source / "index.py").rename(source / "main.py"),
        lambda source: (source / "index.py").chmod(0o755),
        lambda source: (source / "more").mkdir(),
        lambda source: (source / "more").write_text(""),
        lambda source: (source / "more").symlink_to("index.py"),
    ],
)
def test_any_change_is_another_bundle(
    store: BundleStore,
    source: Path,
    write: Callable[..., Path],
    change: Callable[[Path], object],
) -> None:
    write("index.py", "1")
    before = store.snapshot(source)
    change(source)
    assert store.snapshot(source).digest != before.digest


def test_names_and_contents_never_run_into_each_other(store: BundleStore, tmp_path: Path) -> None:
    digests = set()
    trees = [{"ab": "c"}, {"a": "bc"}, {"a": "", "b": "c"}, {"a": "c", "b": ""}, {"a/b": "c"}]
    for number, tree in enumerate(trees):
        for name, text in tree.items():
            path = tmp_path / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        digests.add(store.snapshot(tmp_path / str(number)).digest)
    assert len(digests) == len(trees)


def test_permissions_and_times_are_normal(
    store: BundleStore, source: Path, write: Callable[..., Path]
) -> None:
    write("secret", mode=0o600)
    write("run", mode=0o700)
    write("setuid", mode=0o6755)
    write("lib/x", mode=0o666)
    (source / "lib").chmod(0o2777)
    previous = os.umask(0o077)
    try:
        bundle = store.snapshot(source)
    finally:
        os.umask(previous)
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in [bundle.path, *bundle.path.rglob("*")]
    }
    assert modes == {
        bundle.digest: 0o755,
        "lib": 0o755,
        "run": 0o755,
        "secret": 0o644,
        "setuid": 0o755,
        "x": 0o644,
    }
    assert {path.stat().st_mtime for path in bundle.path.rglob("*")} == {315_532_800}


def test_what_is_an_authors_own_is_left_out(
    store: BundleStore, source: Path, write: Callable[..., Path]
) -> None:
    for path in (".git/config", "__pycache__/x.pyc", "lib/.DS_Store", ".venv/bin/python"):
        write(path)
    for path in (".index.py.swp", "lib/index.py~", ".#index.py", "#index.py#"):
        write(path)
    write("index.py")
    write(".env")
    write("node_modules/a/index.js")
    assert list(contents(store.snapshot(source).path)) == [
        ".env",
        "index.py",
        "node_modules/a/index.js",
    ]


def test_a_single_file_is_a_bundle(
    store: BundleStore, source: Path, write: Callable[..., Path]
) -> None:
    write("other.py", "no")
    bundle = store.snapshot(write("hello.py", "yes"), single_file=True)
    assert contents(bundle.path) == {"hello.py": "yes"}
    for target in ("other.py", "/etc/passwd"):
        (source / "link.py").unlink(missing_ok=True)
        (source / "link.py").symlink_to(target)
        if target.startswith("/"):
            with pytest.raises(InvalidManifestError, match=r"link\.py: it is a symbolic link"):
                store.snapshot(source / "link.py", single_file=True)


def test_links_that_stay_inside_are_kept_as_links(
    store: BundleStore, source: Path, write: Callable[..., Path]
) -> None:
    write("pkg/bin/run.js", "1")
    (source / "bin").mkdir()
    (source / "bin/run").symlink_to("../pkg/bin/run.js")
    (source / "dangling").symlink_to("nothing")
    (source / "loop").symlink_to("loop")
    bundle = store.snapshot(source)
    assert (bundle.path / "bin/run").readlink() == Path("../pkg/bin/run.js")
    assert (bundle.path / "bin/run").read_text() == "1"
    assert (bundle.path / "loop").readlink() == Path("loop")


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "..", "../secret", "../../etc", "a/../../secret", "/proc/self/root"]
)
def test_links_that_leave_are_refused(
    store: BundleStore, source: Path, write: Callable[..., Path], target: str
) -> None:
    write("index.py")
    (source.parent / "secret").write_text("canary")
    (source / "link").symlink_to(target)
    assert refused(store, source) == [
        "link: it is a symbolic link that leaves the function's directory "
        "(put a copy there, or remove the link)"
    ]


def test_a_link_never_leaves_by_way_of_another(source: Path) -> None:
    """`p` is the root itself, so `p/p/..` is above it, whatever it looks like."""
    (source / "p").symlink_to(".")
    escape = "p/p/p/../../.."
    assert not (source / escape).resolve().is_relative_to(source)
    assert not stays_inside(escape, depth=0)


@given(
    st.lists(st.sampled_from(["a", "b", "..", ".", "l", "m"]), max_size=6),
    st.lists(st.sampled_from(["a", "b", "..", ".", "l", "m"]), max_size=6),
    st.integers(0, 2),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_links_that_are_kept_resolve_inside(
    tmp_path: Path, first: list[str], second: list[str], depth: int
) -> None:
    """With any two links in any tree: what `stays_inside` lets through, the kernel keeps inside."""
    root = tmp_path / "root"
    place = root.joinpath(*["a", "b"][:depth])
    (root / "a/b").mkdir(parents=True, exist_ok=True)
    made = []
    for name, target, where, level in (
        ("l", "/".join(first), place, depth),
        ("m", "/".join(second), root, 0),
    ):
        if target and stays_inside(target, depth=level):
            (where / name).symlink_to(target)
            made.append(where / name)
    try:
        for link in made:
            try:
                assert link.resolve(strict=True).is_relative_to(root.resolve())
            except (OSError, RuntimeError):
                continue  # it dangles or loops
    finally:
        for link in made:
            link.unlink()


def test_special_files_are_refused_without_blocking(
    store: BundleStore, source: Path, write: Callable[..., Path]
) -> None:
    write("index.py")
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "socket"))
        with ThreadPoolExecutor(1) as threads:
            problems = threads.submit(refused, store, source).result(timeout=10)
    assert [problem.split(" (")[0] for problem in problems] == [
        "fifo: it is a FIFO, not a file",
        "socket: it is a socket, not a file",
    ]


def test_every_problem_is_told_at_once(store: BundleStore, source: Path) -> None:
    for name in ("a", "b", "c\n"):
        (source / name).symlink_to("/etc/passwd")
    problems = refused(store, source)
    assert [problem.split(":")[0] for problem in problems] == ["a", "b", "c\\n"]


def test_hard_links_of_the_same_user_are_copied(
    store: BundleStore, source: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("1")
    (source / "index.js").hardlink_to(tmp_path / "cache")
    bundle = store.snapshot(source)
    assert (bundle.path / "index.js").stat().st_nlink == 1


def test_a_large_directory_is_refused(
    store: BundleStore, source: Path, write: Callable[..., Path]
) -> None:
    write("a", "x" * 600)
    write("b", "x" * 600)
    assert store.snapshot(source, caps=Caps(1200, 100))
    bundles = source.parent / "store/bundles"
    for path in bundles.iterdir():
        path.rename(source.parent / "aside")
    assert refused(store, source, caps=Caps(1199, 100)) == [
        "b: more than 1.171kb of files (remove what is not needed to run)"
    ]


def test_a_sparse_file_is_refused_before_it_is_read(store: BundleStore, source: Path) -> None:
    with (source / "sparse").open("wb") as file:
        file.truncate(2**40)
    started = time.monotonic()
    assert "sparse: more than 256mb of files" in refused(store, source)[0]
    assert time.monotonic() - started < 5


def test_too_many_files_are_refused(
    store: BundleStore, source: Path, write: Callable[..., Path]
) -> None:
    for number in range(5):
        write(f"lib/{number}")
    assert store.snapshot(source, caps=Caps(10_000, 6))
    for path in (source.parent / "store/bundles").iterdir():
        path.rename(source.parent / "aside")
    assert "more than 5 files and directories" in refused(store, source, caps=Caps(10_000, 5))[0]


def test_a_very_deep_directory_is_refused(store: BundleStore, source: Path) -> None:
    above = os.open(source, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=above)
        below = os.open("d", os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)
    assert "it is deeper than 100 directories" in refused(store, source)[0]


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\nb", b"a:b,c", b"-rf", b"x" * 255, b"\x1b[2J"])
def test_any_name_that_a_file_can_have_is_kept(
    store: BundleStore, source: Path, name: bytes
) -> None:
    Path(os.fsdecode(os.fsencode(source) + b"/" + name)).write_text("1")
    bundle = store.snapshot(source)
    assert os.listdir(os.fsencode(bundle.path)) == [name]  # noqa: PTH208 - bytes


def test_a_missing_directory_is_told(store: BundleStore, tmp_path: Path) -> None:
    assert refused(store, tmp_path / "source") == [
        "the directory: it does not exist (create it, or correct the path)"
    ]


def test_a_source_that_became_a_link_is_refused(
    store: BundleStore, source: Path, tmp_path: Path
) -> None:
    """Discovery resolves every link; one that is there later was put there since."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/index.py").write_text("canary")
    source.rmdir()
    source.symlink_to(tmp_path / "secret")
    assert "the directory: " in refused(store, source)[0]
    (tmp_path / "above").symlink_to(tmp_path)
    with pytest.raises(InvalidManifestError):
        store.snapshot(tmp_path / "above/secret")


@pytest.mark.parametrize("name", ["lib", "x"])
def test_what_is_swapped_for_a_link_just_before_it_is_opened_never_leads_out(
    store: BundleStore,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """The worst moment: between the look at a directory or file and its opening."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/x").write_text("canary")
    honest = source / "lib/x"
    honest.parent.mkdir()
    honest.write_text("honest")
    victim, lure = {
        "lib": (honest.parent, tmp_path / "secret"),
        "x": (honest, tmp_path / "secret/x"),
    }[name]
    opened = []

    def open_while_swapped(path: str, flags: int, above: int) -> int:
        if path != name:
            return os.open(path, flags, dir_fd=above)
        opened.append(path)
        victim.rename(tmp_path / "aside")
        victim.symlink_to(lure)
        try:
            return os.open(path, flags, dir_fd=above)
        finally:
            victim.unlink()
            (tmp_path / "aside").rename(victim)

    monkeypatch.setattr(sandbox.store.tree, "_open", open_while_swapped)
    assert "canary" not in str(refused(store, source))
    assert opened == [name]


def test_a_file_that_grows_while_it_is_read_is_read_again(
    store: BundleStore,
    source: Path,
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = write("index.py", "half")
    read = sandbox.store.tree._read

    def grow_and_read(*arguments: Any) -> bytes:
        file.write_text("the whole")
        return read(*arguments)

    monkeypatch.setattr(sandbox.store.tree, "_read", grow_and_read)
    monkeypatch.setattr(sandbox.store.tree, "_BLOCK", 4)
    assert contents(store.snapshot(source).path) == {"index.py": "the whole"}


def test_a_file_that_changes_between_hash_and_copy_is_hashed_again(
    store: BundleStore,
    source: Path,
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = write("index.py", "old")
    honest = Tree.digest

    def hash_then_change(tree: Tree, **options: Any) -> str:
        digest = honest(tree, **options)
        file.write_text("new")
        return digest

    monkeypatch.setattr(Tree, "digest", hash_then_change)
    bundle = store.snapshot(source)
    assert contents(bundle.path) == {"index.py": "new"}
    assert honest(Tree(bundle.path, caps=Caps(100, 10))) == bundle.digest


def test_a_directory_that_is_swapped_again_and_again_never_leads_out(
    store: BundleStore, source: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    """While it is copied again and again, a directory is swapped for a link to a secret."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "x").write_text("canary")
    write("lib/x", "honest")
    (source / "zlink").symlink_to("nowhere")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            (source / "lib").rename(source / ".git")  # left out of bundles
            (source / "lib").symlink_to(secret)
            (source / "lib").unlink()
            (source / ".git").rename(source / "lib")

    thread = threading.Thread(target=swap)
    thread.start()
    kept = 0
    try:
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            try:
                bundle = store.snapshot(source)
            except InvalidManifestError:
                continue
            kept += 1
            assert "canary" not in contents(bundle.path).values()
            assert not (bundle.path / "lib").is_symlink()
    finally:
        done.set()
        thread.join()
    assert kept, "nothing was ever copied, so nothing was tested"


def test_a_file_that_keeps_changing_gives_one_version_or_none(
    store: BundleStore, source: Path, write: Callable[..., Path]
) -> None:
    """A bundle's content always has the digest that it is named by."""
    write("index.py", "0")
    done = threading.Event()

    def change() -> None:
        number = 0
        while not done.is_set():
            number += 1
            (source / "index.py").write_text("x" * (number % 5000))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(100):
            try:
                bundle = store.snapshot(source)
            except InvalidManifestError as error:
                assert "do not stop changing" in str(error)  # noqa: PT017 - either is right
                continue
            assert Tree(bundle.path.resolve(), caps=Caps(2**20, 10)).digest() == bundle.digest
    finally:
        done.set()
        thread.join()


def test_a_file_that_disappears_is_a_change(source: Path, write: Callable[..., Path]) -> None:
    tree = Tree(source / "gone.py", single_file=True, caps=Caps(100, 10))
    with pytest.raises(ChangedError):
        tree.digest()


def test_many_threads_make_one_bundle(
    store: BundleStore, source: Path, write: Callable[..., Path]
) -> None:
    for number in range(50):
        write(f"lib/{number}", "x" * 1000)
    with ThreadPoolExecutor(8) as threads:
        bundles = set(threads.map(lambda _: store.snapshot(source), range(16)))
    assert len(bundles) == 1
    assert list((source.parent / "store/temporary").iterdir()) == []
    assert len(contents(bundles.pop().path)) == 50


# --- Builds


def test_a_build_is_kept_under_its_key(store: BundleStore, tmp_path: Path) -> None:
    assert store.cached(KEY) is None
    bundle = store.produce(KEY, lambda output: (output / "function").write_text("1") and None)
    assert contents(bundle.path) == {"function": "1"}
    assert store.cached(KEY) == bundle == BundleStore(tmp_path / "store").cached(KEY)


def test_a_build_that_is_there_is_not_made_again(store: BundleStore) -> None:
    first = store.produce(KEY, lambda output: (output / "f").touch())
    assert store.produce(KEY, lambda _: pytest.fail("built again")) == first


def test_a_build_that_fails_leaves_nothing(store: BundleStore, tmp_path: Path) -> None:
    def fail(output: Path) -> None:
        (output / "half").write_text("1")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        store.produce(KEY, fail)
    assert store.cached(KEY) is None
    assert list((tmp_path / "store/temporary").iterdir()) == []


def test_a_build_is_made_once_for_many_callers(store: BundleStore) -> None:
    builds = []

    def build(output: Path) -> None:
        builds.append(1)
        (output / "f").touch()

    with ThreadPoolExecutor(8) as threads:
        bundles = set(threads.map(lambda _: store.produce(KEY, build), range(8)))
    assert (len(builds), len(bundles)) == (1, 1)


def test_a_builds_output_cannot_lead_out(store: BundleStore) -> None:
    with pytest.raises(InvalidManifestError, match="leaves the function's directory"):
        store.produce(KEY, lambda output: (output / "f").symlink_to("/etc/passwd"))


def test_a_published_directory_replaces_what_was_there(
    store: BundleStore, source: Path, write: Callable[..., Path]
) -> None:
    write("f", "1")
    first = store.publish(KEY, source)
    write("f", "2")
    assert store.publish(KEY, source) != first
    assert store.cached(KEY) != first


@pytest.mark.parametrize(
    "key", ["", "../../etc/passwd", "short", "A" * 64, "a" * 129, "a" * 63 + "\n"]
)
def test_a_key_is_hex(store: BundleStore, key: str) -> None:
    with pytest.raises(ValueError, match="hex digits"):
        store.cached(key)


@pytest.mark.parametrize("content", ["", "../../..", "0" * 64, "\x00"])
def test_a_damaged_note_is_no_build(store: BundleStore, tmp_path: Path, content: str) -> None:
    (tmp_path / "store/builds" / KEY).write_text(content)
    assert store.cached(KEY) is None


# --- The store


def test_nobody_else_gets_into_the_store(tmp_path: Path) -> None:
    open_to_all = tmp_path / "store"
    open_to_all.mkdir(mode=0o777)
    BundleStore(open_to_all)
    assert stat.S_IMODE(open_to_all.stat().st_mode) == 0o700


def test_a_store_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSettingsError, match="cannot be used"):
        BundleStore(tmp_path / "file/store")


def _build_forever(root: Path, started: multiprocessing.synchronize.Event) -> None:
    def build(output: Path) -> None:
        (output / "half").write_text("1")
        started.set()
        signal.pause()

    BundleStore(root).produce(KEY, build)


def test_a_process_that_is_killed_leaves_nothing_that_stays(
    store: BundleStore, source: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    """Its lock is free at once, and what it left is cleared once it is old."""
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_build_forever, args=(tmp_path / "store", started))
    process.start()
    try:
        assert started.wait(60)
        (left,) = (tmp_path / "store/temporary").iterdir()
        os.utime(left, (0, 0))
        write("index.py")
        store.snapshot(source)
        assert left.exists(), "it was cleared while its process lives"
    finally:
        process.kill()
        process.join()
    store.produce(KEY, lambda output: (output / "f").touch())
    assert not left.exists()
    assert contents(store.cached(KEY).path) == {"f": ""}  # type: ignore[union-attr]


def test_what_was_just_left_is_not_cleared(
    store: BundleStore, source: Path, tmp_path: Path
) -> None:
    """It may be so new that its process has not locked it yet."""
    (tmp_path / "store/temporary/new").mkdir()
    store.snapshot(source)
    assert (tmp_path / "store/temporary/new").exists()


def test_a_bundle_is_a_value() -> None:
    assert Bundle("a", Path("b")) == Bundle("a", Path("b"))
