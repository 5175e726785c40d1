"""What a function can change, leave behind or reach through the file system."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import InvalidManifestError
from sandbox.functions.discovery import function_from_path
from tests.docker.security.conftest import (
    UNDEFENDED,
    control,
    inspect,
    python_control,
    wait_until,
)

if TYPE_CHECKING:
    from sandbox.models import LogEntry
    from tests.docker.security.conftest import Arena

CHANGES = r'''
import errno, os, stat, sys

def attempt(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"

def append(path):
    with open(path, "ab"):
        pass

def create(directory):
    path = f"{directory}/.probe"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    os.unlink(path)

def suid():
    with open("/tmp/suid", "wb") as file, open("/usr/bin/busybox", "rb") as source:
        file.write(source.read())
    os.chmod("/tmp/suid", 0o4755)
    # It is executable by its mode, and may not be run where it lies.
    os.execv("/tmp/suid", ["true"])

def in_child(call, *arguments):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, attempt(call, *arguments).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read) as answer:
        return answer.read() or "ok"

def mounts():
    """The options of each mounted directory, as the kernel says; a masked file is /dev/null."""
    found = {}
    for line in open("/proc/self/mountinfo"):
        fields = line.split()
        if os.path.isdir(fields[4]):
            found[fields[4]] = sorted(set(fields[5].split(",")))
    return found

def writable():
    """Every directory and file that could be written, outside what is a process's own."""
    found = []
    for directory, names, files in os.walk("/"):
        if directory == "/":
            names[:] = [name for name in names if name != "proc"]
        if os.access(directory, os.W_OK) and attempt(create, directory) == "ok":
            found.append(directory)
        found += [
            path for path in (os.path.join(directory, file) for file in files)
            if stat.S_ISREG(os.lstat(path).st_mode) and attempt(append, path) == "ok"
        ]
    return found

def handler(ctx):
    interpreter = os.path.realpath(sys.executable)
    library = os.__file__
    code = "/function/index.py" if os.path.exists("/function/index.py") else library
    os.symlink(code, "/tmp/link")
    return {
        "mounts": mounts(),
        "writable": writable(),
        "create": {path: attempt(create, path) for path in ("/", "/function", "/usr/bin", "/etc", "/opt/alyx", "/var", "/sys", "/tmp", "/dev/shm")},
        "append": {path: attempt(append, path) for path in (interpreter, library, code, "/tmp/link", "/opt/alyx/init", "/etc/passwd", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/etc/ld.so.preload")},
        "change": {
            "chmod the code": attempt(os.chmod, code, 0o777),
            "chown the code": attempt(os.chown, code, os.getuid(), -1),
            "remove the code": attempt(os.unlink, code),
            "rename the code": attempt(os.rename, code, code + "x"),
            "hard link to the code": attempt(os.link, code, "/tmp/hard"),
            "hard link to passwd": attempt(os.link, "/etc/passwd", "/tmp/passwd"),
            "a link beside the code": attempt(os.symlink, "/etc/passwd", os.path.dirname(code) + "/l"),
            "an attribute of the code": attempt(os.setxattr, code, "user.x", b"x"),
            "times of the code": attempt(os.utime, code),
            "chown to root": attempt(os.chown, "/tmp/link", 0, 0),
            "become root": in_child(os.setuid, 0),
            "other groups": in_child(os.setgroups, [0]),
            "a device": attempt(os.mknod, "/tmp/sda", stat.S_IFBLK | 0o666, os.makedev(8, 0)),
            "a device null": attempt(os.mknod, "/tmp/null", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
            "a disk that was made": attempt(open, "/tmp/sda", "rb"),
            "run from /tmp": in_child(suid),
        },
    }
'''
# A device cannot be made without its capability; root with all the rest can do everything here.
EVERYTHING = (*UNDEFENDED, "--tmpfs=/tmp:exec,mode=1777")


@pytest.fixture(scope="module")
def undefended() -> dict[str, Any]:
    """The control: the same probe with the defences off."""
    return python_control(CHANGES, *EVERYTHING)


@pytest.fixture
def seen(arena: Arena) -> dict[str, Any]:
    """The same from inside a function's container, under each runtime class."""
    return arena.observe(CHANGES)


def test_only_tmp_and_shared_memory_can_be_written(
    seen: dict[str, Any], undefended: dict[str, Any]
) -> None:
    places = set(seen["writable"])
    allowed = {"/tmp", "/dev/shm", "/dev/mqueue"}
    assert places - {"/tmp/link"} <= allowed
    assert {"/tmp", "/dev/shm"} <= places
    assert len(undefended["writable"]) > 100
    create = dict(seen["create"])
    assert create.pop("/tmp") == create.pop("/dev/shm") == "ok"
    assert set(create.values()) <= {"EROFS", "EACCES", "EPERM"}
    assert {undefended["create"][path] for path in ("/", "/usr/bin", "/etc")} == {"ok"}


def test_code_interpreter_and_names_cannot_be_changed(
    seen: dict[str, Any], undefended: dict[str, Any]
) -> None:
    assert set(seen["append"].values()) <= {"EROFS", "EACCES", "EPERM", "ETXTBSY"}
    for path in ("/etc/passwd", "/etc/hosts", "/etc/ld.so.preload", "/tmp/link"):
        assert undefended["append"][path] == "ok"
    refused = {"EROFS", "EPERM", "EACCES", "EXDEV"}
    changes = dict(seen["change"])
    if seen["runtime_class"] == "gvisor":
        # A node can be made there; opened, it is a device of gVisor's kernel, which has no disk.
        assert changes.pop("a device") == changes.pop("a device null") == "ok"
        assert changes.pop("a disk that was made") in {"ENXIO", "ENODEV", "EPERM", "EACCES"}
    else:
        assert changes.pop("a disk that was made") == "ENOENT"  # for it could not be made
    assert {name for name, answer in changes.items() if answer not in refused} == set()
    for name in ("chmod the code", "become root", "other groups", "a device null", "run from /tmp"):
        assert undefended["change"][name] == "ok", name


def test_every_mount_is_read_only_or_neither_runs_nor_has_devices(seen: dict[str, Any]) -> None:
    mounts = seen["mounts"]
    assert "ro" in mounts["/"]
    assert "ro" in mounts["/function"]
    assert {"rw", "noexec"} <= set(mounts["/tmp"])
    if seen["runtime_class"] == "gvisor":
        return  # which knows no more of these options; what they would prevent was tried above
    assert {"nosuid", "nodev"} <= set(mounts["/tmp"])
    for path, options in mounts.items():
        if "rw" in options and path != "/dev":
            assert {"nosuid", "noexec"} <= set(options), (path, options)
    assert not {path for path in mounts if path.endswith(".sock")}


MARKS = r'''
import ctypes, os, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
KEY = 0x5EED
def marks():
    """Everything that outlives a process, looked for and then left."""
    seen = {}
    for path in ("/tmp/mark", "/dev/shm/mark", "/dev/mqueue/mark", "/function/mark", "/var/tmp/mark"):
        seen[path] = os.path.exists(path)
        try:
            open(path, "w").close()
        except OSError:
            pass
    for name, get in (("shm", (29, KEY, 4096)), ("sem", (64, KEY, 1)), ("msg", (68, KEY))):
        seen[name] = libc.syscall(*get, 0o600) >= 0
        libc.syscall(*get, 0o1600)
    holder = socket.socket(socket.AF_UNIX)
    try:
        holder.bind("\0mark")
        seen["abstract socket"] = False
    except OSError:
        seen["abstract socket"] = True
    port = socket.socket()
    try:
        port.bind(("127.0.0.1", 4242))
        port.listen()
        seen["port"] = False
    except OSError:
        seen["port"] = True
    seen["others"] = len([name for name in os.listdir("/proc") if name.isdigit()]) > 2
    return seen, holder, port
def handler(ctx):
    first, *holding = marks()
    print("here", file=sys.stderr, flush=True)
    time.sleep(ctx.input["hold"])
    again = marks()[0]
    return [first, again]
'''


def test_marks_are_not_seen_by_the_next_invocation_nor_by_one_at_the_same_time(
    arena: Arena,
) -> None:
    function, _ = function_from_path(arena.write(MARKS))
    together = threading.Barrier(2)
    answers: list[Any] = []

    def run() -> None:
        def met(entry: LogEntry) -> None:
            if entry.message == "here":
                together.wait(30)  # both have left their marks, and both are still there

        answers.append(arena.run(function, {"hold": 2}, on_log=met).output)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.append(arena.run(function, {"hold": 0}).output)
    assert len(answers) == 3
    for first, again in answers:
        assert set(first.values()) == {False}
        # The control: within one invocation the marks are seen.
        assert again["/tmp/mark"]
        assert again["/dev/shm/mark"]
        assert again["abstract socket"]
        assert again["shm"] == again["sem"]


CONNECT = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect("/function/host.sock")
print(s.recv(16).decode())
"""


def test_a_host_s_socket_in_the_function_s_folder_never_gets_into_a_container(
    crun: Arena, tmp_path: Path
) -> None:
    """A read-only mount does not keep a socket from being connected to: it must not be there."""
    path = crun.write("def handler(ctx):\n    import os\n    return os.listdir('/function')\n")
    function, _ = function_from_path(path)
    with listening(path / "host.sock"):
        result = crun.run(function)
        assert result.code == "INVALID_MANIFEST"
        assert isinstance(result.error, InvalidManifestError)
        assert "host.sock" in str(result.error)
        assert crun.engine.created == []
        # The control: in a plain container the same folder, read-only, lets the host be reached.
        path.chmod(0o755)
        (path / "host.sock").chmod(0o777)
        out = control(
            "python", f"--volume={path}:/function:ro", "--network=none", "--read-only",
            "--cap-drop=ALL", command=("python3", "-c", CONNECT),
        )  # fmt: skip
        assert out.strip() == "reached"


class listening:  # noqa: N801 - reads as a statement
    """A Unix socket of the host that answers whoever connects."""

    def __init__(self, path: Path | str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        self.accepted = 0
        self.thread = threading.Thread(target=self.answer, daemon=True)

    def answer(self) -> None:
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            self.accepted += 1
            with peer, contextlib.suppress(OSError):  # it may be gone already
                peer.sendall(b"reached")

    def __enter__(self) -> listening:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join()


REREAD = """
import pathlib, sys, time
def handler(ctx):
    before = {str(path): path.read_text() for path in pathlib.Path("/function").iterdir()}
    print("here", file=sys.stderr, flush=True)
    time.sleep(1)
    after = {str(path): path.read_text() for path in pathlib.Path("/function").iterdir()}
    import helper
    return [before == after, helper.VALUE, sorted(after)]
"""


def test_code_that_is_changed_during_a_run_reaches_only_the_next(arena: Arena) -> None:
    path = arena.write({"index.py": REREAD, "helper.py": "VALUE = 'old'\n"})
    function, _ = function_from_path(path)

    def edit(entry: LogEntry) -> None:
        if entry.message == "here":
            (path / "helper.py").write_text("VALUE = 'new'\n")
            (path / "planted.py").write_text("")

    names = ["/function/function.yaml", "/function/helper.py", "/function/index.py"]
    assert arena.run(function, on_log=edit).output == [True, "old", names]
    assert arena.run(function).output == [True, "new", sorted([*names, "/function/planted.py"])]


def test_links_and_modes_of_a_function_s_files_are_made_harmless(
    crun: Arena, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary")
    code = (
        "import os\n"
        "def handler(ctx):\n"
        "    return {name: [oct(os.lstat('/function/' + name).st_mode), os.lstat('/function/' + name).st_nlink] for name in os.listdir('/function')}\n"
    )
    path = crun.write({"index.py": code, "tool": "#!/bin/sh\n"})
    (path / "tool").chmod(0o6777)
    os.link(path / "tool", path / "twin")
    (path / "inside").symlink_to("index.py")
    function, _ = function_from_path(path)
    seen = crun.run(function).output
    assert seen["tool"] == ["0o100755", 1]
    assert seen["twin"] == ["0o100755", 1]
    assert seen["index.py"] == ["0o100644", 1]
    assert seen["inside"][0] == "0o120777"
    for target in (
        str(secret),
        f"../../{secret.name}",
        "/etc/shadow",
        "/proc/self/root/etc/shadow",
    ):
        (path / "leak").symlink_to(target)
        result = crun.run(function)
        assert result.code == "INVALID_MANIFEST", target
        assert "leak" in str(result.error)
        (path / "leak").unlink()


def test_the_bundle_is_mounted_from_the_store_read_only_and_private(arena: Arena) -> None:
    found: dict[str, Any] = {}

    def look(entry: LogEntry) -> None:
        if entry.message == "here":
            found.update(inspect(arena.engine.created[-1]))

    arena.attack("import sys, time\nprint('here', file=sys.stderr, flush=True)\ntime.sleep(1)\nprint('{\"success\": true}')\n", on_log=look)  # fmt: skip
    wait_until(lambda: found)
    mounts = {mount["Destination"]: mount for mount in found["Mounts"]}
    assert {(mount["RW"], mount["Propagation"]) for mount in mounts.values()} == {
        (False, "rprivate")
    }
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    source = Path(mounts["/function"]["Source"])
    assert arena.settings.store is not None
    assert source.is_relative_to(arena.settings.store / "bundles")
    # Nobody but the owner of the store gets to it by its path.
    assert (arena.settings.store.stat().st_mode & 0o777) == 0o700
