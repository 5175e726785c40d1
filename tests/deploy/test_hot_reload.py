"""Hot reload: real files, real notifications; what is observed is which reload reports what."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.config.settings import Settings
from sandbox.deploy.hot_reload import HotReload, Watcher, concerns
from sandbox.deploy.validation import source_digest
from sandbox.errors import BuildFailedError, InvalidManifestError, OverloadedError
from sandbox.functions.registry import Registry
from sandbox.testing import FakeEngine
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox.deploy.reload_events import WatchEvent
    from sandbox.functions.function import Function
    from tests import fakes

SCRIPT = "import json\nprint(json.dumps({'success': True}))\n"
# For what must happen, on a machine that is busy.
PATIENCE = 30.0
# For what must not happen: several times as long as a reload takes to be noticed.
A_WHILE = 1.5


class Reloading:
    """What a `Sandbox` does when it is reloaded, without an engine; counts reloads.

    A function whose file has the word `broken` cannot be built.
    """

    def __init__(self, directory: Path, settings: Settings | None = None) -> None:
        self.directory = directory
        self.settings = settings or Settings()
        self.secrets: dict[str, str] = {}
        self.reloads = 0
        self.prepared: list[str] = []
        self._registry = Registry(directory)

    @property
    def functions(self) -> Any:
        return self._registry.functions

    @property
    def problems(self) -> Any:
        return self._registry.problems

    def reload(self) -> None:
        self.reloads += 1
        self._registry.reload()

    def source_digest(self, function: Function) -> str:
        digest = source_digest(function, self.settings)
        if digest is None:
            raise InvalidManifestError("its files do not stop changing")
        return digest

    def prepare(self, name: str, *, source_digest: str | None = None) -> None:
        assert source_digest is not None
        self.prepared.append(name)
        function = self._registry.get(name)
        text = "" if function.single_file else (function.source / "index.py").read_text()
        if "broken" in text:
            raise BuildFailedError("it cannot be built", log="line 1: no")
        if "overloaded" in text:
            raise OverloadedError("no place came free", retry_after=1, hint="ask for less")


class Watching:
    """Hot reload in a thread; its events in a queue."""

    def __init__(
        self, directory: Path, *, settings: Settings | None = None, polling: bool = False
    ) -> None:
        self.sandbox = Reloading(directory, settings)
        self._events: queue.Queue[WatchEvent] = queue.Queue()
        self._hot_reload = HotReload(self.sandbox, self._events.put, polling=polling)

    def next(self) -> Any:
        return self._events.get(timeout=PATIENCE)

    def nothing(self) -> bool:
        try:
            self._events.get(timeout=A_WHILE)
        except queue.Empty:
            return True
        return False

    def settle(self) -> None:
        """Wait until the look after the start of the watch has been taken, and no more come."""
        seen = -1
        while seen != self.sandbox.reloads or seen < 2:
            seen = self.sandbox.reloads
            threading.Event().wait(0.7)

    def close(self) -> None:
        self._hot_reload.close()


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    directory = tmp_path / "functions"
    write(directory / "hello/index.py")
    return directory


@pytest.fixture
def watch(functions: Path) -> Iterator[Callable[..., Watching]]:
    """`watch()` starts to watch and takes the first event, in which everything is new."""
    started: list[Watching] = []

    def start(directory: Path = functions, **options: Any) -> Watching:
        watching = Watching(directory, **options)
        started.append(watching)
        return watching

    yield start
    for watching in started:
        watching.close()


def write(path: Path, text: str = SCRIPT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


Watch = "Callable[..., Watching]"


def test_at_first_everything_is_new(watch: Watch) -> None:
    first = watch().next()
    assert (first.added, first.changed, first.removed) == (("hello",), (), ())
    assert len(first.state.versions["hello"].digest) == 64


def test_a_change_is_one_reload_that_names_the_function(watch: Watch, functions: Path) -> None:
    watching = watch()
    before = watching.next()
    write(functions / "hello/index.py", SCRIPT + "# changed\n")
    after = watching.next()
    assert (after.added, after.changed, after.removed) == ((), ("hello",), ())
    assert after.state.versions["hello"] != before.state.versions["hello"]
    assert after.seconds > 0


def test_functions_come_and_go(watch: Watch, functions: Path) -> None:
    watching = watch()
    watching.next()
    write(functions / "deep/lib/util.py")
    write(functions / "deep/index.py")
    assert watching.next().added == ("deep",)
    shutil.rmtree(functions / "deep")
    assert watching.next().removed == ("deep",)


def test_a_manifest_beside_a_single_file_makes_a_version(watch: Watch, functions: Path) -> None:
    write(functions / "greet.js", "export default () => 1\n")
    watching = watch()
    watching.next()
    write(functions / "greet.yaml", "timeout: 5s\n")
    assert watching.next().changed == ("greet",)


def test_an_atomic_save_is_one_reload(watch: Watch, functions: Path) -> None:
    watching = watch()
    watching.next()
    watching.settle()
    reloads = watching.sandbox.reloads
    target = functions / "hello/index.py"
    write(functions / "hello/.index.py.swp", "swap")
    write(functions / "hello/index.py.tmp", SCRIPT + "# saved\n")
    target.rename(functions / "hello/index.py~")
    (functions / "hello/index.py.tmp").rename(target)
    assert watching.next().changed == ("hello",)
    assert watching.nothing()
    assert watching.sandbox.reloads == reloads + 1


def test_a_checkout_of_a_thousand_files_is_one_reload(watch: Watch, functions: Path) -> None:
    watching = watch()
    watching.next()
    watching.settle()
    reloads = watching.sandbox.reloads
    for number in range(1000):
        write(functions / f"hello/lib/module{number}.py", "x = 1\n")
    assert watching.next().changed == ("hello",)
    assert watching.nothing()
    assert watching.sandbox.reloads == reloads + 1


def test_what_no_bundle_holds_is_no_reload(watch: Watch, functions: Path) -> None:
    watching = watch()
    watching.next()
    watching.settle()
    reloads = watching.sandbox.reloads
    for path in (
        ".git/index", "hello/__pycache__/index.pyc", "hello/.index.py.swp", "hello/index.py~",
        "hello/.#index.py",
    ):  # fmt: skip
        write(functions / path)
    assert watching.nothing()
    assert watching.sandbox.reloads == reloads
    write(functions / "hello/index.py", SCRIPT + "# the control\n")
    assert watching.next().changed == ("hello",)


def test_a_problem_is_reported_once_and_again_when_it_is_mended(
    watch: Watch, functions: Path
) -> None:
    watching = watch()
    watching.next()
    write(functions / "hello/function.yaml", "memroy: 64mb\n")
    broken = watching.next()
    assert broken.removed == ("hello",)
    (problem,) = broken.problems
    assert problem.where == "functions/hello/function.yaml:1:1"
    assert "memory" in problem.hint

    write(functions / "other/index.py")
    assert watching.next().problems == ()

    write(functions / "hello/function.yaml", "memory: 64mb\n")
    mended = watching.next()
    assert (mended.added, mended.mended, mended.problems) == (("hello",), (problem,), ())


def test_files_that_cannot_be_deployed_are_a_problem(watch: Watch, functions: Path) -> None:
    watching = watch()
    watching.next()
    (functions / "hello/passwords").symlink_to("/etc/passwd")
    after = watching.next()
    assert after.changed == ("hello",)
    assert "passwords: it is a symbolic link that leaves" in after.problems[0].message


def test_what_goes_wrong_in_preparing_stays_until_the_function_changes(
    watch: Watch, functions: Path
) -> None:
    watching = watch()
    watching.next()
    write(functions / "hello/index.py", "broken")
    (problem,) = watching.next().problems
    assert problem.message == "it cannot be built\nline 1: no"
    write(functions / "other/index.py")
    other = watching.next()
    assert (other.problems, other.mended) == ((), ())
    write(functions / "hello/index.py")
    assert watching.next().mended == (problem,)
    assert watching.sandbox.prepared == ["hello", "hello", "other", "hello"]


def test_what_the_platform_cannot_do_is_a_problem_with_a_hint(
    watch: Watch, functions: Path
) -> None:
    watching = watch()
    watching.next()
    write(functions / "hello/index.py", "overloaded")
    (problem,) = watching.next().problems
    assert (problem.message, problem.hint) == ("no place came free", "ask for less")


def test_what_the_settings_refuse_is_not_prepared_and_what_they_clamp_is_a_warning(
    watch: Watch, functions: Path
) -> None:
    watching = watch(settings=Settings.model_validate({"ceilings": {"memory": "256mb"}}))
    watching.next()
    write(functions / "hello/function.yaml", "memory: 1gb\n")
    (clamped,) = watching.next().problems
    assert (clamped.severity, clamped.line) == ("warning", 1)
    write(functions / "hello/function.yaml", "env: {KEY: '${NO_SUCH_SECRET}'}\n")
    refused = watching.next()
    assert "NO_SUCH_SECRET" in refused.problems[0].message
    assert refused.mended == (clamped,)
    assert watching.sandbox.prepared == ["hello", "hello"]


def test_events_can_be_read_without_a_thread(functions: Path) -> None:
    events = Watcher(Reloading(functions), stop=threading.Event()).events()
    first: Any = next(events)
    assert first.added == ("hello",)
    write(functions / "hello/index.py", SCRIPT + "# changed\n")
    second: Any = next(events)
    assert second.changed == ("hello",)


def test_a_callback_that_fails_ends_hot_reload_and_is_logged(
    functions: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: WatchEvent) -> None:
        raise ValueError("no more room")

    with HotReload(Reloading(functions), fail):
        wait_until(lambda: "not watched any more" in caplog.text)
    assert "no more room" in caplog.text


def test_a_directory_that_is_not_there_yet_is_waited_for(watch: Watch, tmp_path: Path) -> None:
    watching = watch(tmp_path / "later/functions")
    first = watching.next()
    assert first.state.versions == {}
    assert "cannot be used" in first.problems[0].message
    write(tmp_path / "later/functions/hello/index.py")
    appeared = watching.next()
    while appeared.added != ("hello",):  # seen between the directory and the file
        appeared = watching.next()
    write(tmp_path / "later/functions/hello/index.py", SCRIPT + "#\n")
    assert watching.next().changed == ("hello",)


def test_a_directory_that_is_removed_and_made_again_is_watched_again(
    watch: Watch, functions: Path
) -> None:
    watching = watch()
    watching.next()
    shutil.rmtree(functions)
    removed = watching.next()
    while not removed.problems:  # seen while it was being removed
        removed = watching.next()
    write(functions / "hello/index.py")
    back = watching.next()
    while back.added != ("hello",):
        back = watching.next()
    watching.settle()
    write(functions / "hello/index.py", SCRIPT + "#\n")
    assert watching.next().changed == ("hello",)


def test_a_directory_replaced_by_another_in_one_step_is_noticed(
    watch: Watch, functions: Path, tmp_path: Path
) -> None:
    watching = watch()
    watching.next()
    write(tmp_path / "new/fresh/index.py")
    functions.rename(tmp_path / "old")
    (tmp_path / "new").rename(functions)
    replaced = watching.next()
    while replaced.added != ("fresh",):  # seen between the two renames
        replaced = watching.next()
    write(functions / "fresh/index.py", SCRIPT + "#\n")
    assert watching.next().changed == ("fresh",)


def test_a_link_to_the_directory_can_be_pointed_elsewhere(
    watch: Watch, functions: Path, tmp_path: Path
) -> None:
    write(tmp_path / "second/other/index.py")
    current = tmp_path / "current"
    current.symlink_to("functions")
    watching = watch(current)
    assert watching.next().added == ("hello",)
    (tmp_path / "next").symlink_to("second")
    (tmp_path / "next").rename(current)
    moved = watching.next()
    assert (moved.added, moved.removed) == (("other",), ("hello",))
    write(tmp_path / "second/other/index.py", SCRIPT + "#\n")
    assert watching.next().changed == ("other",)


def test_polling_sees_quick_edits_of_one_size(watch: Watch, functions: Path) -> None:
    watching = watch(polling=True)
    watching.next()
    watching.settle()
    for letter in "abc":
        write(functions / "hello/index.py", SCRIPT + f"# {letter}\n")
        assert watching.next().changed == ("hello",)
    shutil.rmtree(functions / "hello")
    assert watching.next().removed == ("hello",)


# In a user namespace limits may be lowered, and root is nobody special.
ISOLATED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.deploy.test_hot_reload import Watching, write
functions = Path(sys.argv[2])
for limit in sys.argv[3:]:
    Path("/proc/sys/user", limit).write_text("0")
watching = Watching(functions)
try:
    watching.next()
    polling = watching.next()
    watching.settle()
    write(functions / "hello/index.py", "changed")
    print(watching.next().changed)
    print(polling.reason)
    print(polling.hint)
finally:
    watching.close()
"""


def watched_in_a_namespace(unshare: list[str], functions: Path, *limits: str) -> list[str]:
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("user namespaces are not allowed here")
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [*unshare, sys.executable, "-c", ISOLATED, root, functions, *limits],
        capture_output=True, text=True, timeout=3 * PATIENCE,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.parametrize("limit", ["max_inotify_watches", "max_inotify_instances"])
def test_without_notifications_files_are_polled_and_it_says_so(limit: str, functions: Path) -> None:
    isolated = ["unshare", "--user", "--map-root-user"]
    changed, reason, hint = watched_in_a_namespace(isolated, functions, limit)
    assert changed == "('hello',)"
    assert reason.startswith("files are polled: ")
    assert str(functions) not in reason
    assert "sysctl -w fs.inotify.max_user_watches" in hint


def test_where_not_all_can_be_read_files_are_polled_and_it_says_so(functions: Path) -> None:
    closed = functions / "closed"
    closed.mkdir(mode=0)
    changed, reason, hint = watched_in_a_namespace(["unshare", "--user"], functions)
    closed.chmod(0o700)
    assert changed == "('hello',)"
    assert "Permission denied" in reason
    assert "chmod" in hint


# With a real `Sandbox`.


@pytest.fixture
def opened() -> Iterator[Counter[str]]:
    """How often this process has opened each `.txt` file to read it, by name."""
    counts: Counter[str] = Counter()
    counting = True

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        if not counting or event != "open":
            return
        path, _, flags = arguments
        if str(path).endswith(".txt") and flags & os.O_ACCMODE == os.O_RDONLY:
            counts[Path(str(path)).name] += 1

    sys.addaudithook(count)  # it cannot be taken away again
    yield counts
    counting = False


def test_an_edit_is_read_once_to_hash_it_and_once_to_copy_it(
    directory: fakes.Directory, opened: Counter[str]
) -> None:
    directory.write("edited", files={"edited.txt": "one"})
    directory.write("other", files={"other.txt": "small: to remember its digest would not pay"})
    engine = FakeEngine({"edited": lambda _: None, "other": lambda _: None})
    with directory.sandbox(engine, pool={"enabled": False}) as sandbox:
        events = sandbox.watch()

        def reads() -> dict[str, int]:
            """What the next reload reads."""
            opened.clear()
            next(events)
            return dict(opened)

        def save(text: str) -> None:
            """As editors do: all at once, which is one reload."""
            (directory.path.parent / "saved").write_text(text)
            (directory.path.parent / "saved").rename(directory.path / "edited/edited.txt")

        def served() -> str:
            response = sandbox.invoke("edited")
            assert response.stats is not None
            return str(response.stats.version)

        assert reads() == {"edited.txt": 2, "other.txt": 2}  # the control: both are new
        first = served()
        save("two")  # the watch begins with one more reload
        next(events)

        save("three")
        assert reads() == {"edited.txt": 2, "other.txt": 1}
        assert served() != first

        save("one")  # the store has that version
        assert reads() == {"edited.txt": 1, "other.txt": 1}
        assert served() == first


# What a change means, without any files.


def function(functions: Path, name: str, **manifest: Any) -> Function:
    write(functions / name / "index.py")
    lines = "".join(f"{key}: {value}\n" for key, value in manifest.items())
    write(functions / name / "function.yaml", lines)
    return Registry(functions).get(name)


def test_build_watch_names_the_files_whose_change_counts(functions: Path) -> None:
    build = "{command: make, output: dist/index.py, watch: ['src/**/*.ts', 'make.conf']}"
    built = function(functions, "built", build=build)
    plain = Registry(functions).get("hello")

    def counts(path: str) -> bool:
        return concerns(functions / path, functions, [built, plain])

    assert counts("built/package-lock.json"), "it says what is installed for the build"
    assert not counts("built/src/package-lock.json")

    assert counts("built/src/a.ts")
    assert counts("built/src/deep/er/a.ts")
    assert counts("built/make.conf")
    assert counts("built/function.yaml")
    assert not counts("built/README.md")
    assert not counts("built/dist/index.py")
    assert counts("hello/README.md")
    assert counts("elsewhere/README.md")
