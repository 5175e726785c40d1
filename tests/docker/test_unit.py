"""`deploy/alyx-sandbox.service`, run by systemd as it stands.

systemd gets a container and this machine's root file system in it, under an overlay that goes with
it. The server that it starts uses the real engine, as a user that is not root.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.store.owners import LABEL_STORE

if TYPE_CHECKING:
    from sandbox.engine.docker.engine import DockerEngine

PROJECT = Path(__file__).parents[2]
SYSTEMD = Path("/usr/lib/systemd/systemd")
SOCKET = Path("/run/docker.sock")

# Runs in the machine's root as it is; what it mounts is its container's own.
SETUP = r"""
set -e
top=$OUT/top; new=$OUT/new; opt=$new/opt/alyx
mkdir "$top" "$new"
mount -t tmpfs tmpfs "$top"
mkdir "$top/upper" "$top/work"
mount -t overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" overlay "$new"
for place in run tmp; do mount -t tmpfs tmpfs "$new/$place"; done
mount -t proc proc "$new/proc"
for place in sys dev; do mount --rbind "/$place" "$new/$place"; done
touch "$new/run/docker.sock"
mount --bind /run/docker.sock "$new/run/docker.sock"

# The unit's user sees no home and no /tmp, where Python and the project may be.
at() { mkdir -p "$2"; mount --bind "$1" "$2"; }
at "$OUT" "$opt/out"
at "$PYTHON" "$opt/python"
at "$PACKAGES" "$opt/site"
at "$PROJECT/sandbox" "$opt/own/sandbox"
at "$PROJECT/cli" "$opt/own/sandbox_cli"
at "$PROJECT/images" "$opt/own/sandbox_images"
mkdir -p "$new/opt/alyx-sandbox/bin"
cat > "$new/opt/alyx-sandbox/bin/sandbox" <<'END'
#!/bin/sh
export PYTHONPATH=/opt/alyx/own:/opt/alyx/site LD_LIBRARY_PATH=/opt/alyx/python/lib
exec /opt/alyx/python/bin/python3 -m sandbox_cli "$@"
END
chmod 755 "$new/opt/alyx-sandbox/bin/sandbox"

mkdir -p "$new/srv/alyx" "$new/etc/alyx-sandbox"
cp -r "$OUT/functions" "$new/srv/alyx/functions"
chmod -R a+rX "$new/srv/alyx"
# The engine does not see the overlay.
echo 'engine: {delivery: volume}' > "$new/etc/alyx-sandbox/sandbox.yaml"
group=$(stat -c %g /run/docker.sock)
sed -i '/^docker:/d' "$new/etc/group"
echo "docker:x:$group:" >> "$new/etc/group"
echo 'alyx-sandbox:x:10077:' >> "$new/etc/group"
echo 'alyx-sandbox:x:10077:10077::/:/bin/false' >> "$new/etc/passwd"
rm -rf "$new/var/lib/alyx-sandbox"

units=$new/etc/systemd/system
rm -rf "$units"
mkdir "$units"
cp "$PROJECT/deploy/alyx-sandbox.service" "$units"
printf '[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n' > "$units/docker.service"
cat > "$units/try.service" <<'END'
[Unit]
DefaultDependencies=no
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
Environment=LD_LIBRARY_PATH=/opt/alyx/python/lib
ExecStart=/opt/alyx/python/bin/python3 /opt/alyx/out/try.py
END
printf '[Unit]\nDefaultDependencies=no\nRequires=try.service\n' > "$units/try.target"
container=docker exec chroot "$new" /usr/lib/systemd/systemd --system --unit=try.target
"""

# Runs under systemd, and leaves what it saw.
TRY = """
import json, pathlib, subprocess, threading, time, urllib.request

seen = {}

def run(*command):
    return subprocess.run(command, capture_output=True, text=True)

def unit(verb):
    return run("systemctl", verb, "alyx-sandbox").returncode

def ask(path, body=None):
    request = urllib.request.Request("http://127.0.0.1:8080" + path, data=body)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)

def invoke(name):
    seen[name] = ask(f"/api/functions/{name}", b"{}")["output"]

try:
    seen["start"] = unit("start")
    invoke("hello")
    pid = run("systemctl", "show", "-p", "MainPID", "--value", "alyx-sandbox").stdout.strip()
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    seen["process"] = dict(line.split(":", 1) for line in status.splitlines())
    root = pathlib.Path(f"/proc/{pid}/root")
    seen["home"] = [path.name for path in (root / "root").iterdir()]
    try:
        (root / "etc/written").touch()
    except OSError as error:
        seen["writing"] = error.strerror
    seen["reload"] = unit("reload")
    invoke("hello")
    sleeping = threading.Thread(target=invoke, args=("sleeps",))
    sleeping.start()
    while sleeping.is_alive() and not ask("/api/functions/stats")["running"]:
        time.sleep(0.05)
    seen["stop"] = unit("stop")
    sleeping.join()
    seen["result"] = run("systemctl", "show", "-p", "Result", "--value", "alyx-sandbox").stdout
except Exception as error:
    seen["error"] = repr(error)
unit("stop")
seen["journal"] = run("journalctl", "-u", "alyx-sandbox", "--no-pager", "-o", "cat").stdout
store = pathlib.Path("/var/lib/alyx-sandbox/id")
seen["store"] = store.read_text() if store.exists() else ""
pathlib.Path("/opt/alyx/out/seen.json").write_text(json.dumps(seen))
"""


@pytest.mark.skipif(not SYSTEMD.exists(), reason="systemd is not installed")
@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may have the machine's root in a container"
)
@pytest.mark.skipif(not SOCKET.is_socket(), reason="the engine's socket is elsewhere")
def test_systemd_starts_reloads_and_drains_the_unit(tmp_path: Path, engine: DockerEngine) -> None:
    for name, body in (
        ("hello", "return 'hello'"),
        ("sleeps", "import time; time.sleep(3); return 'slept'"),
    ):
        (tmp_path / "functions" / name).mkdir(parents=True)
        (tmp_path / "functions" / name / "index.py").write_text(f"def handler(ctx): {body}\n")
    (tmp_path / "setup.sh").write_text(SETUP)
    (tmp_path / "try.py").write_text(TRY)
    container = f"alyx-sandbox-unit-{os.getpid()}"
    environment = {
        "OUT": tmp_path,
        "PROJECT": PROJECT,
        "PYTHON": Path(sys.base_prefix).resolve(),
        "PACKAGES": sysconfig.get_path("purelib"),
    }
    rights = ("SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH", "SYS_BOOT")
    try:
        ended = subprocess.run(
            [
                "docker", "run", "--rm", "--name", container, "--network", "none",
                "--cgroupns", "private", *(f"--cap-add={right}" for right in rights),
                "--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined",
                "--volume", "/:/host", *(f"--env={name}={value}" for name, value in environment.items()),
                "alyx-sandbox/debian:trixie", "chroot", "/host", "/bin/sh", f"{tmp_path}/setup.sh",
            ],
            capture_output=True, text=True, timeout=240,
        )  # fmt: skip
    finally:
        subprocess.run(["docker", "rm", "--force", container], capture_output=True)
    result = tmp_path / "seen.json"
    assert result.exists(), ended.stdout + ended.stderr
    seen: dict[str, Any] = json.loads(result.read_text())
    ours = {LABEL_STORE: seen["store"]}
    left = engine.containers(ours)
    for volume in engine.volumes(ours):
        assert engine.remove_volume(volume.name)

    journal = seen["journal"]
    assert "error" not in seen, journal + seen.get("error", "")
    # `Type=notify`: it counts as started when it says so, and answers from then on.
    assert (seen["start"], seen["hello"]) == (0, "hello"), journal
    assert (seen["reload"], "were read again" in journal) == (0, True), journal
    assert (seen["stop"], seen["sleeps"], seen["result"]) == (0, "slept", "success\n"), journal
    assert left == []
    process = {name: value.split() for name, value in seen["process"].items()}
    assert process["Uid"] == ["10077"] * 4
    assert process["CapEff"] == process["CapBnd"] == ["0" * 16]
    assert (process["NoNewPrivs"], process["Seccomp"]) == (["1"], ["2"])
    assert (seen["home"], seen["writing"]) == ([], "Read-only file system")
