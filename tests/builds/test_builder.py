"""What is built and installed, when, and what a failure leads to; tests/docker has the installers."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.engine.volume_delivery import LABEL_CONTENT
from sandbox.errors import BuildFailedError
from sandbox.testing import FakeBuild, FakeEngine, default_build
from sandbox.testing.builds import REGISTRY
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.fakes import Directory

    Build = Callable[[FakeBuild], Mapping[str, bytes]]

REQUIREMENTS = {"requirements.txt": "six==1\n"}
STEP = "runtime: node\nentrypoint: dist/a.mjs\nbuild: {command: make, args: [all], output: dist}"
OFFLINE = {"network": "none"}


class Builds:
    """Plays all builds, and remembers them; `act` says what each does."""

    def __init__(self, act: Build = default_build) -> None:
        self.act = act
        self.seen: list[FakeBuild] = []
        self.engine = FakeEngine(build=self._build)

    def _build(self, build: FakeBuild) -> Mapping[str, bytes]:
        self.seen.append(build)
        return self.act(build)


def installed(build: FakeBuild) -> Mapping[str, bytes]:
    return {".alyx/python/six.py": b"six"}


def files_of(directory: Directory) -> dict[str, str]:
    """All files of the newest bundle that has an entrypoint, by their path."""
    (bundle,) = [
        path
        for path in (directory.store / "bundles").iterdir()
        if (path / "index.py").is_file() and (path / ".alyx").is_dir()
    ]
    return {
        str(path.relative_to(bundle)): path.read_text()
        for path in bundle.rglob("*")
        if path.is_file()
    }


def test_dependencies_are_installed_once_into_the_bundle(directory: Directory) -> None:
    directory.write("f", files=REQUIREMENTS)
    builds = Builds(installed)
    with directory.sandbox(builds.engine, build=OFFLINE) as sandbox:
        first = sandbox.build("f")
        assert sandbox.build("f") == first
        assert sandbox.invoke("f").success
    (build,) = builds.seen
    assert (build.function, build.image, build.command[0]) == ("f", "python-build", "install")
    assert b"six==1" in b"".join(build.files.values())
    assert "index.py" not in build.files
    assert build.env["PIP_NO_INDEX"] == "1"
    assert files_of(directory)[".alyx/python/six.py"] == "six"
    # Another process finds it in the store.
    again = Builds()
    with directory.sandbox(again.engine, build=OFFLINE) as sandbox:
        assert sandbox.build("f") == first
    assert again.seen == []


def test_functions_that_ask_for_the_same_share_one_installation(directory: Directory) -> None:
    for name in "abc":
        directory.write(name, files={**REQUIREMENTS, "own.py": name})
    builds = Builds(installed)
    with (
        directory.sandbox(builds.engine, build=OFFLINE) as sandbox,
        ThreadPoolExecutor(3) as threads,
    ):
        versions = set(threads.map(sandbox.build, "abc"))
    assert len(versions) == 3
    assert len(builds.seen) == 1


def test_what_is_asked_for_decides_what_is_installed_anew(directory: Directory) -> None:
    directory.write("f", files=REQUIREMENTS)
    builds = Builds(installed)
    with directory.sandbox(builds.engine, build=OFFLINE) as sandbox:
        first = sandbox.build("f")
        directory.write("f", files={"requirements.txt": "six==2\n"})
        assert sandbox.build("f") != first
    assert len(builds.seen) == 2


def test_a_build_leaves_its_output_alone(directory: Directory) -> None:
    files = {"a.mjs": "", "package.json": '{"dependencies": {"left-pad": "1"}}'}
    directory.write("f", STEP, files=files)
    (directory.path / "f/dist").mkdir()
    (directory.path / "f/dist/stale.mjs").write_text("")

    def act(build: FakeBuild) -> Mapping[str, bytes]:
        if build.command[0] == "install":
            return {"node_modules/left-pad/index.js": b"1"}
        assert build.files["node_modules/left-pad/index.js"] == b"1"
        return {"dist/a.mjs": b"built"}

    builds = Builds(act)
    with directory.sandbox(builds.engine, build=OFFLINE) as sandbox:
        version = sandbox.build("f")
    steps = [build for build in builds.seen if build.command[0] == "build"]
    assert [build.command for build in steps] == [("build", "make", "all")]
    assert (steps[0].image, steps[0].env["BUILD_OUTPUT"]) == ("node-build", "dist")
    bundle = directory.store / "bundles" / version
    assert [path.name for path in (bundle / "dist").iterdir()] == ["a.mjs"]
    assert (bundle / "dist/a.mjs").read_bytes() == b"built"


def test_go_is_compiled_and_what_comes_out_serves(directory: Directory) -> None:
    folder = directory.path / "f"
    folder.mkdir()
    (folder / "main.go").write_text("package function\n\nfunc Handler(ctx *alyx.Context) {}\n")
    builds = Builds()
    with directory.sandbox(builds.engine) as sandbox:
        assert sandbox.invoke("f", {"a": 1}).output == {"a": 1}
    (build,) = builds.seen
    assert (build.image, build.command) == ("go", ("compile", "main.go", "handler"))
    assert list(build.files) == ["main.go"]


def fails(build: FakeBuild) -> Mapping[str, bytes]:
    build.process.write("no such package\n", "stderr")
    build.process.exit(3)


def hangs(build: FakeBuild) -> Mapping[str, bytes]:
    build.process.write("still at it\n", "stderr")
    build.process.stall()


def hogs(build: FakeBuild) -> Mapping[str, bytes]:
    build.process.run_out_of_memory()


def hogs_under_gvisor(build: FakeBuild) -> Mapping[str, bytes]:
    build.process.run_out_of_memory(with_init=True)


def fills_its_disk(build: FakeBuild) -> Mapping[str, bytes]:
    build.process.report["tmp_full"] = True
    build.process.exit(1)


def filled_its_disk(build: FakeBuild) -> Mapping[str, bytes]:
    build.process.write("cp: No space left on device\n", "stderr")
    build.process.exit(1)


def forks(build: FakeBuild) -> Mapping[str, bytes]:
    build.process.report["pids_denied"] = 7
    build.process.exit(1)


def calls_home(build: FakeBuild) -> Mapping[str, bytes]:
    build.process.report["denied"] = ["example.org"]
    build.process.exit(1)


def is_killed(build: FakeBuild) -> Mapping[str, bytes]:
    build.process.die(signal.SIGSEGV)


def has_a_defect(build: FakeBuild) -> Mapping[str, bytes]:
    raise ValueError("no such package")


def floods(build: FakeBuild) -> Mapping[str, bytes]:
    build.process.flood()


def leaves_garbage(build: FakeBuild) -> Mapping[str, bytes]:
    build.process.write("no archive")
    build.process.exit()


def leads_elsewhere(build: FakeBuild) -> Mapping[str, bytes]:
    return {"../../etc/passwd": b"root"}


@pytest.mark.parametrize(
    ("act", "message", "written"),
    [
        (fails, "ended with exit code 3", "no such package"),
        (hangs, "took longer than 200ms", "still at it"),
        (hogs, "its memory ran out", ""),
        (hogs_under_gvisor, "its memory ran out", ""),
        (fills_its_disk, "its disk was full", ""),
        (filled_its_disk, "its disk was full", "No space left"),
        (forks, "more processes than it may have", ""),
        (calls_home, "it wanted to reach example.org", ""),
        (is_killed, "exit code 139", ""),
        (has_a_defect, "exit code 1", "no such package"),
        (floods, r"left more than 1mb", ""),
        (leaves_garbage, "cannot be read", ""),
        (leads_elsewhere, "leads elsewhere", ""),
    ],
)
def test_an_installation_that_fails_says_why_and_is_not_tried_again_at_once(
    directory: Directory, act: Build, message: str, written: str
) -> None:
    directory.write("f", files=REQUIREMENTS)
    builds = Builds(act)
    settings = {**OFFLINE, "timeout": "200ms" if act is hangs else "60s", "output": "1mb"}
    with directory.sandbox(builds.engine, build=settings) as sandbox:
        for _ in range(2):
            with pytest.raises(BuildFailedError, match=message) as failed:
                sandbox.build("f")
            assert "its dependencies could not be installed" in failed.value.message
            assert written in failed.value.log
        response = sandbox.invoke("f")
    assert response.error is not None
    assert response.error.code == "BUILD_FAILED"
    assert written in response.error.details["log"]
    assert len(builds.seen) == 1


def test_limits_that_a_build_touched_and_lived_with_are_logged(
    directory: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    def act(build: FakeBuild) -> Mapping[str, bytes]:
        build.process.report["pids_denied"] = 1
        return {}

    directory.write("f", files=REQUIREMENTS)
    with directory.sandbox(Builds(act).engine, build=OFFLINE) as sandbox:
        sandbox.build("f")
    assert "more processes" in caplog.text


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda build: {"dist/b.mjs": b""}, r"left no dist/a\.mjs"),
        (fails, "the build `make all` failed"),
    ],
    ids=["elsewhere", "fails"],
)
def test_a_build_that_makes_nothing_of_use_is_told(
    directory: Directory, act: Build, message: str
) -> None:
    directory.write("f", STEP)
    with (
        directory.sandbox(Builds(act).engine, build=OFFLINE) as sandbox,
        pytest.raises(BuildFailedError, match=message),
    ):
        sandbox.build("f")


def test_after_a_build_that_fails_the_version_before_goes_on(directory: Directory) -> None:
    builds = Builds(installed)
    directory.write("f", files=REQUIREMENTS)
    with directory.sandbox(builds.engine, build=OFFLINE) as sandbox:
        before = sandbox.invoke("f").stats
        builds.act = fails
        directory.write("f", files={"requirements.txt": "six==2\n"})
        sandbox.reload()
        after = sandbox.invoke("f")
        assert after.success
        assert before is not None
        assert after.stats is not None
        assert after.stats.version == before.version
        with pytest.raises(BuildFailedError):
            sandbox.prepare("f")


def test_a_folder_in_the_place_of_dependencies_is_refused(directory: Directory) -> None:
    directory.write("f", files=REQUIREMENTS)
    (directory.path / "f/.alyx").mkdir()
    (directory.path / "f/.alyx/mine").write_text("")
    with (
        directory.sandbox(FakeEngine(), build=OFFLINE) as sandbox,
        pytest.raises(BuildFailedError, match=r"has a folder \.alyx"),
    ):
        sandbox.build("f")


def test_when_it_ends_no_build_goes_on_and_none_begins(directory: Directory) -> None:
    directory.write("f", files=REQUIREMENTS)
    builds = Builds(hangs)
    with (
        directory.sandbox(builds.engine, build=OFFLINE) as sandbox,
        ThreadPoolExecutor(1) as threads,
    ):
        building = threads.submit(sandbox.build, "f")
        wait_until(lambda: builds.seen)
        sandbox.stop_building()
        for failing in (building.result, lambda: sandbox.build("f")):
            with pytest.raises(BuildFailedError, match="was stopped"):
                failing()
    assert len(builds.seen) == 1


def test_no_more_builds_at_once_than_the_settings_say(directory: Directory) -> None:
    for number in range(4):
        directory.write(f"f{number}", files={"requirements.txt": f"six=={number}\n"})
    lock, most, go = threading.Lock(), 0, threading.Event()
    running = 0

    def act(build: FakeBuild) -> Mapping[str, bytes]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        assert go.wait(30)
        with lock:
            running -= 1
        return {}

    with (
        directory.sandbox(Builds(act).engine, build={**OFFLINE, "concurrency": 2}) as sandbox,
        ThreadPoolExecutor(4) as threads,
    ):
        built = [threads.submit(sandbox.build, f"f{number}") for number in range(4)]
        wait_until(lambda: running == 2)
        go.set()
        assert len({item.result(30) for item in built}) == 4
    assert most == 2


def test_builds_reach_the_registries_and_what_the_operator_allows(directory: Directory) -> None:
    directory.write("f", files=REQUIREMENTS)
    directory.write("g", STEP)
    builds = Builds(lambda build: {"dist/a.mjs": b"", ".alyx/python/a.py": b""})
    settings = {"registries": {"npm": "https://npm.example:8443/"}, "allow": ["git.example:443"]}
    with directory.sandbox(builds.engine, build=settings) as sandbox:
        for name in "fg":
            sandbox.build(name)
    by_function = {build.function: build for build in builds.seen}
    assert by_function["g"].env["NPM_CONFIG_REGISTRY"] == "https://npm.example:8443/"
    assert "PIP_INDEX_URL" not in by_function["f"].env
    assert "PIP_NO_INDEX" not in by_function["f"].env


def test_a_tool_is_asked_for_its_registries_once(directory: Directory) -> None:
    for number in range(2):
        directory.write(f"f{number}", files={"requirements.txt": f"six=={number}\n"})
    builds = Builds(installed)
    with directory.sandbox(builds.engine) as sandbox:
        for number in range(2):
            sandbox.build(f"f{number}")
    assert builds.engine.created == 3
    kept = [path.read_text() for path in directory.store.rglob("hosts") if path.is_file()]
    assert kept == [f"{REGISTRY}\n"]


def test_a_bridge_leads_everywhere_and_offline_jobs_nowhere(directory: Directory) -> None:
    directory.write("f", files=REQUIREMENTS)
    networks: list[str] = []

    class Watching(FakeEngine):
        def create(self, spec: Any) -> Any:
            networks.append(spec.network)
            return super().create(spec)

    with directory.sandbox(Watching(), build={"network": "bridge"}) as sandbox:
        sandbox.build("f")
        sandbox.invoke("f")
    assert networks == ["bridge", "none"]


def test_an_engine_elsewhere_gets_what_it_builds_from_in_volumes(directory: Directory) -> None:
    directory.write("f", files=REQUIREMENTS)
    builds = Builds(installed)
    builds.engine.local = False
    with directory.sandbox(builds.engine, build=OFFLINE) as sandbox:
        stats = sandbox.invoke("f").stats
        (build,) = builds.seen
        assert b"six==1" in b"".join(build.files.values())
        # What only the build needed is gone. The function's bundle stays, and its /etc/hosts.
        contents = {volume.labels[LABEL_CONTENT] for volume in builds.engine.volumes({})}
        assert stats is not None
        assert stats.version in contents
        assert len(contents) == 2
