"""Without `network` in its manifest a function has a loopback interface and nothing else.

Whether something is reached is asked; and how soon a function learns that it is not, since one
that waits for its own time limit is a worse neighbour than one that fails.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker.security.conftest import docker, python_control
from tests.docker.security.test_file_system import listening

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.docker.security.conftest import Arena

# Far more than a refusal takes, and less than any timeout of a resolver or of TCP.
SOON = 5.0

PROBE = r"""
import errno, json, os, socket, struct, threading, time

def attempt(call):
    began = time.monotonic()
    try:
        call()
        answer = "ok"
    except socket.gaierror as error:
        answer = "gaierror"
    except OSError as error:
        answer = errno.errorcode.get(error.errno, type(error).__name__)
    return [answer, round(time.monotonic() - began, 3)]

def tcp(address, port, family=socket.AF_INET):
    def call():
        with socket.socket(family, socket.SOCK_STREAM) as s:
            s.settimeout(20)
            s.connect((address, port))
    return call

def udp(address, port, family=socket.AF_INET):
    def call():
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.sendto(b"x", (address, port))
    return call

def icmp(address, family=socket.AF_INET, protocol=1):
    def call():
        with socket.socket(family, socket.SOCK_DGRAM, protocol) as s:
            s.settimeout(5)
            kind = 8 if family == socket.AF_INET else 128
            s.sendto(struct.pack("!BBHHH", kind, 0, 0, 1, 1) + b"x" * 8, (address, 0))
    return call

def resolve(name):
    return lambda: socket.getaddrinfo(name, 443)

def multicast():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", ("224.0.0.251", 5353))

def broadcast():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.sendto(b"x", ("255.255.255.255", 67))

def loopback(family, address):
    def call():
        with socket.socket(family, socket.SOCK_STREAM) as server:
            server.bind((address, 0))
            server.listen()
            with socket.create_connection(server.getsockname()[:2], 5) as s:
                peer, _ = server.accept()
                peer.sendall(b"hello")
                if s.recv(5) != b"hello":
                    raise OSError(errno.EIO, "")
                peer.close()
    return call

def abstract(name):
    def call():
        with socket.socket(socket.AF_UNIX) as s:
            s.connect("\0" + name)
    return call

def routes():
    try:
        return [line.split()[0] for line in open("/proc/net/route").readlines()[1:] if line.split()[0] != "lo"]
    except OSError:
        return []

def neighbours():
    try:
        return open("/proc/net/arp").readlines()[1:]
    except OSError:
        return []

def handler(ctx):
    target = ctx.input
    names = ["example.org", "metadata.google.internal", "host.docker.internal", "gateway.docker.internal", "kubernetes.default.svc", "registry"]
    return {
        "interfaces": [name for _, name in socket.if_nameindex()],
        "routes": routes(),
        "neighbours": neighbours(),
        "names": {name: attempt(resolve(name)) for name in names},
        "out": {
            "tcp": attempt(tcp("192.0.2.1", 80)),
            "udp": attempt(udp("192.0.2.1", 53)),
            "icmp": attempt(icmp("192.0.2.1")),
            "tcp6": attempt(tcp("2001:db8::1", 80, socket.AF_INET6)),
            "udp6": attempt(udp("2001:db8::1", 53, socket.AF_INET6)),
            "icmp6": attempt(icmp("2001:db8::1", socket.AF_INET6, 58)),
            "multicast": attempt(multicast),
            "broadcast": attempt(broadcast),
            "metadata": attempt(tcp("169.254.169.254", 80)),
            "metadata of containers": attempt(tcp("169.254.170.2", 80)),
            "metadata elsewhere": attempt(tcp("100.100.100.200", 80)),
            "metadata 6": attempt(tcp("fd00:ec2::254", 80, socket.AF_INET6)),
            "private": attempt(tcp("10.0.0.1", 80)),
            "the bridge's host": attempt(tcp(target.get("bridge", "172.17.0.1"), target.get("port", 1))),
            "the host": attempt(tcp(target.get("host", "192.0.2.2"), target.get("port", 1))),
        },
        "the host's loopback": attempt(tcp("127.0.0.1", target.get("port", 1))),
        "the host's loopback 6": attempt(tcp("::1", target.get("port", 1), socket.AF_INET6)),
        "the host's abstract socket": attempt(abstract(target.get("abstract", "none"))),
        "loopback": attempt(loopback(socket.AF_INET, "127.0.0.1")),
        "another loopback": attempt(loopback(socket.AF_INET, "127.8.7.6")),
        "localhost": attempt(lambda: socket.getaddrinfo("localhost", 80)),
    }
"""


@pytest.fixture
def host() -> Iterator[dict[str, Any]]:
    """Listeners of the host: TCP on every address, and an abstract Unix socket."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        name = f"alyx-test-{server.getsockname()[1]}"
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        with listening("\0" + name) as unix:
            yield {
                "port": server.getsockname()[1],
                "abstract": name,
                "bridge": bridge_address(),
                "host": bridge_address(),
                "unix": unix,
            }
        server.shutdown(socket.SHUT_RDWR)


def serve(server: socket.socket) -> None:
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        peer.close()


def bridge_address() -> str:
    networks = json.loads(docker("network", "inspect", "bridge"))
    return str(networks[0]["IPAM"]["Config"][0].get("Gateway", "172.17.0.1"))


def test_nothing_but_loopback_and_every_way_out_fails_soon(
    arena: Arena, host: dict[str, Any]
) -> None:
    unix = host.pop("unix")
    seen = arena.attack(PROBE, host).output
    assert seen["interfaces"] == ["lo"]
    assert seen["routes"] == []
    assert seen["neighbours"] == []
    for way, (answer, seconds) in (seen["names"] | seen["out"]).items():
        assert answer != "ok", way
        assert seconds < SOON, (way, seconds)
    for way in ("the host's loopback", "the host's loopback 6", "the host's abstract socket"):
        assert seen[way][0] in {"ECONNREFUSED", "EADDRNOTAVAIL", "ENETUNREACH"}, way
    assert unix.accepted == 0
    # The control within: the same code reaches what is there.
    assert seen["loopback"][0] == seen["another loopback"][0] == "ok"


def test_localhost_has_its_address(arena: Arena) -> None:
    code = "import socket\ndef handler(ctx):\n    return socket.gethostbyname('localhost')\n"
    assert arena.attack(code).output == "127.0.0.1"


def test_with_a_network_the_same_probe_reaches_the_host(host: dict[str, Any]) -> None:
    """The control: the listeners are there, and a container with the host's network gets to them."""
    unix = host.pop("unix")
    code = PROBE.replace("target = ctx.input", f"target = {host!r}")
    seen = python_control(
        code.replace("s.settimeout(20)", "s.settimeout(1)"), "--network=host", "--user=0:0"
    )
    assert seen["the host's loopback"][0] == "ok"
    assert seen["the host's abstract socket"][0] == "ok"
    assert seen["out"]["the bridge's host"][0] == "ok"
    assert unix.accepted == 1
    assert set(seen["interfaces"]) > {"lo"}


def test_a_container_on_the_bridge_is_no_neighbour(arena: Arena) -> None:
    """What runs beside it, and is reached from the host, is not reached from a function."""
    server = (
        "import socket\ns = socket.create_server(('0.0.0.0', 8080))\nprint('up', flush=True)\n"
        "while True: s.accept()[0].close()\n"
    )
    name = docker("run", "--detach", "--rm", "alyx-sandbox/python", "python3", "-c", server).strip()
    try:
        networks = json.loads(docker("inspect", name))[0]["NetworkSettings"]["Networks"]
        address = networks["bridge"]["IPAddress"]
        deadline = time.monotonic() + 20
        while not reachable(address, 8080):
            assert time.monotonic() < deadline
        code = (
            "import errno, socket\n"
            "def handler(ctx):\n"
            "    try:\n"
            "        socket.create_connection((ctx.input['address'], 8080), 10)\n"
            "    except OSError as error:\n"
            "        return errno.errorcode[error.errno]\n"
        )
        assert arena.attack(code, {"address": address}).output in {
            "ENETUNREACH",
            "EHOSTUNREACH",
        }
    finally:
        docker("rm", "--force", name)


def reachable(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True


TYPESCRIPT = """
export default async function handler(ctx: any) {
  const began = Date.now();
  const answers: string[] = [];
  for (const url of ["http://192.0.2.1/", "http://169.254.169.254/latest/meta-data/", "http://example.org/", "http://[2001:db8::1]/"]) {
    try { await fetch(url); answers.push("reached"); } catch (error) { answers.push("failed"); }
  }
  return [answers, (Date.now() - began) / 1000];
}
"""
FETCHES = {
    "node": {
        "index.mjs": """
export default async function handler(ctx) {
  const began = Date.now();
  const answers = [];
  for (const url of ["http://192.0.2.1/", "http://169.254.169.254/latest/meta-data/", "http://example.org/", "http://[2001:db8::1]/"]) {
    try { await fetch(url); answers.push("reached"); } catch (error) { answers.push("failed"); }
  }
  return [answers, (Date.now() - began) / 1000];
}
"""
    },
    "bun": {"index.tsx": TYPESCRIPT},
    "deno": {"deno.json": "{}", "main.ts": TYPESCRIPT},
    "go": {
        "main.go": """
package main

import (
	"encoding/json"
	"net/http"
	"os"
	"time"
)

func main() {
	began := time.Now()
	answers := []string{}
	for _, url := range []string{"http://192.0.2.1/", "http://169.254.169.254/latest/meta-data/", "http://example.org/", "http://[2001:db8::1]/"} {
		if response, err := http.Get(url); err != nil {
			answers = append(answers, "failed")
		} else {
			response.Body.Close()
			answers = append(answers, "reached")
		}
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{"success": true, "output": []any{answers, time.Since(began).Seconds()}})
}
"""
    },
}


@pytest.mark.parametrize("runtime", FETCHES)
def test_each_language_s_own_client_fails_soon(crun: Arena, runtime: str) -> None:
    answers, seconds = crun.attack(FETCHES[runtime]).output
    assert answers == ["failed"] * 4
    assert seconds < SOON * 4


def test_the_host_sees_a_network_namespace_without_a_link(arena: Arena) -> None:
    """From outside: the links of the container's namespace, while it runs."""
    found: list[str] = []

    def look(entry: Any) -> None:
        if entry.message == "here":
            pid = docker("inspect", "--format={{.State.Pid}}", arena.engine.created[-1]).strip()
            lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
            found.extend(line.split(":")[0].strip() for line in lines)

    arena.attack("import sys, time\nprint('here', file=sys.stderr, flush=True)\ntime.sleep(1)\nprint('{\"success\": true}')\n", on_log=look)  # fmt: skip
    # Some kernels give every namespace unconfigured tunnels; they lead nowhere.
    assert set(found) - {"lo", "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6gre0"} == set()  # fmt: skip
    assert len(Path("/proc/net/dev").read_text().splitlines()) > 3
