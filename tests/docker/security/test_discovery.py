"""A functions directory in which everything is hostile but one function, which has to run."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import (
    FunctionNotFoundError,
    InvalidManifestError,
    InvalidRequestError,
    PolicyRefusedError,
    Sandbox,
    SandboxError,
)
from sandbox.functions.discovery import function_from_path

if TYPE_CHECKING:
    from pathlib import Path

    from tests.docker.security.conftest import Arena

CANARY = "canary-of-the-host-5511"
HANDLER = "def handler(ctx):\n    return 'ran'\n"

# Manifests that must not be obeyed; each belongs to a function that would run without it.
MANIFESTS = {
    "privileged": "privileged: true\n",
    "capabilities": "cap_add: [SYS_ADMIN]\n",
    "user": "user: root\n",
    "volumes": "volumes: ['/:/host']\n",
    "mounts": "mounts: ['/var/run/docker.sock']\n",
    "image": "image: alyx-sandbox/go\n",
    "network_mode": "network: host\n",
    "seccomp": "security_opt: [seccomp=unconfined]\n",
    "duplicate": "timeout: 1s\ntimeout: 1h\n",
    "merge": "<<: {timeout: 1h}\n",
    "python_tag": "description: !!python/object/apply:os.system ['touch /tmp/owned-by-yaml']\n",
    "python_name": "description: !!python/name:os.system\n",
    "unknown_tag": "description: !vault x\n",
    "alias_bomb": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(12)),
    "alias_loop": "description: &a [*a]\n",
    "levels": "description: " + "[" * 10_000 + "]" * 10_000 + "\n",
    "ten_megabytes": "description: " + "x" * 10_000_000 + "\n",
    "not_utf8": b"description: \xff\xfe\n",
    "nul": b"description: a\x00b\n",
    "zero_memory": "memory: 0\n",
    "negative_memory": "memory: -1\n",
    "nan_memory": "memory: .nan\n",
    "huge_memory": "memory: 1.0e+99\n",
    "zero_timeout": "timeout: 0\n",
    "negative_timeout": "timeout: -1s\n",
    "nan_timeout": "timeout: .nan\n",
    "infinite_timeout": "timeout: .inf\n",
    "huge_timeout": "timeout: 1e99\n",
    "zero_pids": "pids: 0\n",
    "negative_pids": "pids: -1\n",
    "huge_pids": "pids: 100000000000000000000\n",
    "zero_cpu": "cpu: 0\n",
    "nan_cpu": "cpu: .nan\n",
    "huge_cpu": "cpu: 1.0e+99\n",
    "negative_tmp": "tmp: -1\n",
    "true_timeout": "timeout: true\n",
    "ld_preload": "env: {LD_PRELOAD: /function/x.so}\n",
    "ld_library_path": "env: {LD_LIBRARY_PATH: /function}\n",
    "env_equals": "env: {'A=B': c}\n",
    "env_nul": 'env: {A: "b\\0c"}\n',
    "outside": "entrypoint: ../good/index.py\n",
    "absolute": "entrypoint: /etc/passwd\n",
    "dash": "entrypoint: -c\n",
    "path_outside": "path: ../../..\n",
    "name_dots": "name: ../good\n",
    "name_dash": "name: --help\n",
    "name_long": f"name: {'x' * 300}\n",
    "name_nul": 'name: "a\\0b"\n',
    "name_cyrillic": "name: g\u043e\u043ed\n",
    "name_fullwidth": "name: \uff47ood\n",
    "name_newline": 'name: "good\\n"\n',
}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The directory; everything in it that is not `good` is hostile."""
    root = tmp_path / "functions"
    for name, manifest in {"good": "timeout: 20s\n", **MANIFESTS}.items():
        directory = root / name
        directory.mkdir(parents=True)
        (directory / "index.py").write_text(HANDLER)
        data = manifest if isinstance(manifest, bytes) else manifest.encode()
        (directory / "function.yaml").write_bytes(data)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "index.py").write_text(f"{HANDLER}# {CANARY}\n")
    (outside / "secret").write_text(CANARY)

    def make(name: str) -> Path:
        (root / name).mkdir()
        return root / name

    (make("linked_entry") / "index.py").symlink_to(outside / "index.py")
    (make("linked_relative") / "index.py").symlink_to("../../outside/index.py")
    (root / "linked_directory").symlink_to(outside)
    (make("loop") / "index.py").symlink_to("index.py")
    (root / "directory_loop").symlink_to("directory_loop")
    os.mkfifo(make("fifo_entry") / "index.py")
    fifo = make("fifo_manifest")
    (fifo / "index.py").write_text(HANDLER)
    os.mkfifo(fifo / "function.yaml")
    device = make("device_manifest")
    (device / "index.py").write_text(HANDLER)
    (device / "function.yaml").symlink_to("/dev/zero")
    linked = make("linked_manifest")
    (linked / "index.py").write_text(HANDLER)
    (linked / "function.yaml").symlink_to(outside / "secret")
    for name in ("-rf", "with space", "semi;colon", "x" * 250, "g\u043eod", "new\nline"):
        (make(name) / "index.py").write_text(HANDLER)
    return root


def test_hostile_neighbours_are_told_and_the_good_function_runs(
    project: Path, arenas: dict[str, Arena], crun: Arena
) -> None:
    began = time.monotonic()
    with Sandbox(project, settings=crun.settings, engine=crun.engine) as sandbox:  # type: ignore[arg-type]
        assert time.monotonic() - began < 20  # nothing blocks, nothing expands
        assert set(sandbox.functions) == {"good"}
        assert sandbox.invoke("good").output == "ran"
        told = "\n".join(str(problem) for problem in sandbox.problems)
        for name in MANIFESTS:
            assert f"{name}/function.yaml" in told, name
            with pytest.raises(SandboxError) as refused:
                sandbox.invoke(name)
            assert isinstance(refused.value, InvalidManifestError | FunctionNotFoundError)
        for name in ("linked_entry", "linked_relative", "loop", "fifo_entry", "fifo_manifest", "device_manifest", "linked_manifest"):  # fmt: skip
            with pytest.raises(SandboxError) as refused:
                sandbox.invoke(name)
            assert CANARY not in str(refused.value)
        assert CANARY not in told
        # One container for the one function that ran.
        assert len(crun.engine.created) == 1
    assert not os.path.exists("/tmp/owned-by-yaml")  # noqa: PTH110


def test_a_name_that_a_caller_makes_up_finds_nothing(project: Path, crun: Arena) -> None:
    with Sandbox(project, settings=crun.settings, engine=crun.engine) as sandbox:  # type: ignore[arg-type]
        for name in (
            "../outside", "good/../../outside", "/etc/passwd", "good\0", "", ".", "..", "-h", "--help",
            "x" * 300, "x" * 1_000_000, "g\u043eod", "GOOD", "good\n", "$(id)", "good;id", "%2e%2e", "\ud800",
        ):  # fmt: skip
            # Some manifest may claim the name; then it is told why that is no name.
            with pytest.raises((FunctionNotFoundError, InvalidManifestError)) as refused:
                sandbox.invoke(name)
            assert len(str(refused.value)) < 2000
        assert crun.engine.created == []


def test_paths_that_a_mount_s_text_would_split_are_mounted_whole(
    crun: Arena, tmp_path: Path
) -> None:
    odd = tmp_path / "a:b,c=d;ro 'e\" $HOME é"
    settings = crun.settings.model_copy(update={"store": odd / "store:rw,z"})
    path = odd / "functions" / "fn"
    path.mkdir(parents=True)
    name = 'odd:,name = " é.py'
    (path / name).write_text(HANDLER.replace("'ran'", "open(__file__).read()[:3]"))
    (path / "function.yaml").write_text(f"entrypoint: '{name}'\nruntime: python\n")
    with Sandbox(odd / "functions", settings=settings, engine=crun.engine) as sandbox:  # type: ignore[arg-type]
        assert list(sandbox.problems) == []
        response = sandbox.invoke("fn")
        assert response.output == "def", response.error


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_hard_link_to_another_user_s_file_is_not_deployed(crun: Arena, tmp_path: Path) -> None:
    secret = tmp_path / "shadow"
    secret.write_text(CANARY)
    os.chown(secret, 0, 0)
    path = crun.write(
        "def handler(ctx):\n    import os\n    return [open('/function/' + n).read() for n in os.listdir('/function')]\n"
    )
    for file in (path, *path.iterdir()):
        os.chown(file, 4242, 4242)
    os.link(secret, path / "leak")
    function, _ = function_from_path(path)
    result = crun.run(function)
    assert result.code == "INVALID_MANIFEST"
    assert CANARY not in result.visible
    # The control: a link to a file of the directory's own owner is a copy in the bundle.
    os.chown(secret, 4242, 4242)
    assert CANARY in crun.run(function).output


def test_special_files_beside_the_code_are_refused_and_never_opened(
    crun: Arena, tmp_path: Path
) -> None:
    path = crun.write(HANDLER)
    function, _ = function_from_path(path)
    listener = socket.socket(socket.AF_UNIX)

    def socket_file() -> None:
        listener.bind(str(path / "special"))

    makers: dict[str, Any] = {
        "a FIFO": lambda: os.mkfifo(path / "special"),
        "a socket": socket_file,
        "a device": lambda: os.mknod(path / "special", 0o020644, os.makedev(1, 5)),
    }
    try:
        for kind, make in makers.items():
            make()
            result = crun.run(function)
            assert result.code == "INVALID_MANIFEST", kind
            assert result.seconds < 10
            (path / "special").unlink()
    finally:
        listener.close()
    assert crun.run(function).output == "ran"


def test_caps_on_a_bundle_hold(crun: Arena) -> None:
    path = crun.write(HANDLER)
    function, _ = function_from_path(path)
    with (path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    result = crun.run(function)
    assert result.code == "INVALID_MANIFEST"
    assert result.seconds < 10  # a terabyte of nothing was not read
    (path / "sparse").unlink()
    for number in range(120):
        (path / f"f{number}").touch()
    result = crun.run(function, settings={"limits": {"bundle_files": 100}})
    assert result.code == "INVALID_MANIFEST"
    deep = path / "deep"
    for _ in range(150):
        deep = deep / "d"
    deep.mkdir(parents=True)
    result = crun.run(function)
    assert result.code == "INVALID_MANIFEST"


def test_what_is_asked_for_beyond_the_ceilings_is_not_given(crun: Arena) -> None:
    manifest = "memory: 1024gb\ntmp: 1024gb\npids: 100000\ncpu: 512\ntimeout: 6h\n"
    settings = {
        "ceilings": {"memory": "96mb", "tmp": "8mb", "pids": 40, "cpu": 0.5, "timeout": "9s"}
    }
    code = """
import os
def handler(ctx):
    stat = os.statvfs("/tmp")
    return stat.f_blocks * stat.f_frsize
"""
    specs: list[Any] = []
    crun.engine.change = lambda spec: specs.append(spec) or spec  # type: ignore[func-returns-value]
    assert crun.attack(code, manifest=manifest, settings=settings, timeout=3600).output == 8 << 20
    (spec,) = specs
    assert (spec.memory, spec.tmp, spec.pids, spec.cpu) == (96 << 20, 8 << 20, 40, 0.5)
    hang = crun.attack("import time\ntime.sleep(60)\n", manifest=manifest, settings={"ceilings": {"timeout": "1s"}}, timeout=10)  # fmt: skip
    assert hang.code == "TIMEOUT"
    assert hang.details["limit"] == 1


def test_a_network_or_a_runtime_that_is_not_allowed_is_refused(crun: Arena) -> None:
    with pytest.raises(PolicyRefusedError):
        raise_error(crun, manifest="network: [example.org:443]\n")
    with pytest.raises(PolicyRefusedError):
        raise_error(crun, manifest="", settings={"runtimes": ["node"]})
    assert crun.engine.created == []


def raise_error(arena: Arena, **options: Any) -> None:
    result = arena.attack(HANDLER, **options)
    assert result.error is not None
    raise result.error


def test_what_a_caller_sends_is_refused_before_anything_starts(crun: Arena) -> None:
    cycle: dict[str, Any] = {}
    cycle["again"] = cycle
    deep: Any = 0
    for _ in range(100_000):
        deep = [deep]
    path = crun.write(HANDLER)
    function, _ = function_from_path(path)
    for bad in ([1], "text", {"a": float("nan")}, {"a": object()}, cycle, {"a": deep}, {"a": "x" * (9 << 20)}):  # fmt: skip
        result = crun.run(function, bad)  # type: ignore[arg-type]
        assert isinstance(result.error, InvalidRequestError), bad
    while isinstance(deep, list):  # taken apart by hand: a destructor would recurse
        deep = deep[0]
    assert crun.engine.created == []
