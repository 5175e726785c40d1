"""The network policy from inside real containers: what is allowed is reached by its own name, with
plain HTTP clients and TLS; nothing else is, and each attempt is listed."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from sandbox import PolicyRefusedError, Settings
from sandbox.containers.reaper import reap
from sandbox.store.owners import Owner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox.engine.docker.engine import DockerEngine
    from sandbox.models import FunctionResponse

Invoke = "Callable[..., FunctionResponse]"
Write = "Callable[..., None]"

PYTHON = """
import ssl, urllib.request

def handler(ctx):
    context = ssl.create_default_context(cafile="/function/ca.pem")
    results = {}
    for name, url in ctx.input["urls"].items():
        try:
            response = urllib.request.urlopen(url, timeout=20, context=context)
            results[name] = response.read().decode()
        except Exception as error:
            results[name] = f"failed: {error!r}"
    return results
"""
JAVASCRIPT = """
import { readFileSync } from "node:fs";
const ca = readFileSync("/function/ca.pem", "utf8");
%s
export default async function handler(ctx) {
  const results = {};
  for (const [name, url] of Object.entries(ctx.input.urls)) {
    try {
      const response = await fetch(url, options);
      results[name] = await response.text();
    } catch (error) {
      results[name] = `failed: ${error} ${error.cause ?? ""}`;
    }
  }
  return results;
}
"""
GO = """
package function

import (
	"alyx"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
)

func Handler(ctx *alyx.Context) (any, error) {
	pem, err := os.ReadFile("/function/ca.pem")
	if err != nil {
		pem = []byte(ctx.Input["ca"].(string))
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	client := http.Client{Transport: transport}
	results := map[string]string{}
	for name, url := range ctx.Input["urls"].(map[string]any) {
		response, err := client.Get(url.(string))
		if err != nil {
			results[name] = "failed: " + err.Error()
			continue
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		results[name] = string(body)
	}
	return results, nil
}
"""
SOURCES = {
    "python": ("index.py", PYTHON),
    "node": (
        "index.mjs",
        JAVASCRIPT % "import tls from 'node:tls';"
        "tls.setDefaultCACertificates([ca]); const options = {};",
    ),
    "deno": (
        "index.mjs",
        JAVASCRIPT % "const options = { client: Deno.createHttpClient({ caCerts: [ca] }) };",
    ),
    "bun": ("index.mjs", JAVASCRIPT % "const options = { tls: { ca } };"),
    "go": ("index.go", GO),
}


class Site:
    """Servers on this machine's loopback, HTTP and HTTPS, and the names that lead there.

    Each answers with the host that it was asked for and the path.
    """

    def __init__(self) -> None:
        authority = trustme.CA()
        self.ca = authority.cert_pem.bytes().decode()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        names = ("api.example.test", "*.wild.example.test", "private.example.test")
        authority.issue_cert(*names, "denied.example.test").configure_cert(context)
        self._http = _server(None)
        self._https = _server(context)
        self.http = self._http.server_port
        self.https = self._https.server_port
        self.asked: list[str] = []
        self.answers = dict.fromkeys(
            ("api.example.test", "a.wild.example.test", "private.example.test",
             "denied.example.test"),
            "127.0.0.1",
        )  # fmt: skip

    def resolve(self, host: str, *arguments: Any, **options: Any) -> list[Any]:
        """The host's resolver, for names below `.test`."""
        if not host.endswith(".test"):
            return _getaddrinfo(host, *arguments, **options)
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (self.answers[host], 0))]

    def close(self) -> None:
        for server in (self._http, self._https):
            server.shutdown()
            server.server_close()


_getaddrinfo = socket.getaddrinfo


class _Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        host = self.headers["Host"].partition(":")[0]
        size = int(self.path[2:]) if self.path.startswith("/+") else 0
        body = f"{host}{self.path}".encode() + b"x" * size
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that went away is no error here."""


def _server(context: ssl.SSLContext | None) -> http.server.ThreadingHTTPServer:
    server = _Server(("127.0.0.1", 0), _Echo)
    if context is not None:
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site()
    monkeypatch.setattr(socket, "getaddrinfo", site.resolve)
    yield site
    site.close()


@pytest.fixture(autouse=True)
def no_sockets_left_behind(store: Path) -> Iterator[None]:
    """When every sandbox of a test is closed, its gateways' directories are gone."""
    before = set((store / "gateways").glob("*"))
    yield
    assert set((store / "gateways").glob("*")) <= before


@pytest.fixture(params=["crun", "gvisor"])
def runtime_class(request: pytest.FixtureRequest) -> str:
    return request.param


def limits(
    store: Path, runtime_class: str = "auto", *, alyx_url: str = "", **network: Any
) -> Settings:
    return Settings.model_validate(
        {
            "store": store,
            "alyx_url": alyx_url,
            "engine": {"runtime_class": runtime_class},
            # Under gVisor a runtime boots slowly on a busy machine.
            "limits": {"boot": "60s"},
            "defaults": {"timeout": "120s", "memory": "256mb"},
            "network": network,
        }
    )


def reasons(response: FunctionResponse) -> dict[str, str]:
    return {item.destination: item.reason for item in response.stats.network.denied}


@pytest.mark.parametrize("runtime", SOURCES)
def test_a_function_reaches_what_is_allowed_and_nothing_else(
    *, runtime: str, runtime_class: str, invoke: Invoke, write: Write, store: Path, site: Site
) -> None:
    exact, wild = f"api.example.test:{site.https}", f"*.wild.example.test:{site.https}"
    private = f"private.example.test:{site.https}"
    # Nothing need listen there: that it is tried shows that init could listen on such a port.
    low = "api.example.test:80"
    file, source = SOURCES[runtime]
    write(f"client/{file}", source)
    write("client/ca.pem", site.ca)
    write(
        "client/function.yaml",
        f"runtime: {runtime}\ninterface: handler\nnetwork: ['{exact}', '{wild}', '{private}', '{low}']\n",
    )
    alyx_url = f"http://localhost:{site.http}/alyx"
    response = invoke(
        "client",
        {
            "ca": site.ca,
            "urls": {
                "exact": f"https://{exact}/a",
                "wildcard": f"https://a.wild.example.test:{site.https}/b",
                "callback": f"{alyx_url}/c",
                "denied": f"https://denied.example.test:{site.https}/d",
                "private": f"https://{private}/e",
                "low port": f"http://{low}/g",
                "by address": f"http://127.0.0.1:{site.https}/f",
            },
        },
        limits=limits(
            store, runtime_class, alyx_url=alyx_url,
            allow=[exact, wild, private, low], allow_private=[exact, wild, low],
        ),
    )  # fmt: skip
    assert response.success, response
    assert response.stats.runtime_class == runtime_class
    output = response.output
    assert output["exact"] == "api.example.test/a"
    assert output["wildcard"] == "a.wild.example.test/b"
    assert output["callback"] == "localhost/alyx/c"
    for name in ("denied", "private", "by address"):
        assert output[name].startswith("failed"), output

    allowed = {item.destination: item for item in response.stats.network.allowed}
    assert allowed[low].connections + allowed[low].failed
    del allowed[low]
    assert set(allowed) == {
        exact, f"a.wild.example.test:{site.https}", f"localhost:{site.http}"
    }  # fmt: skip
    assert allowed[exact].connections == 1
    assert allowed[exact].bytes_sent > 100
    assert allowed[exact].bytes_received > 100

    denied = reasons(response)
    assert denied.pop(private) == "127.0.0.1 is a loopback address (network.allow_private)"
    # By the client's own lookup, or by the proxy's that it was told of.
    (name,) = denied
    assert name in ("denied.example.test", f"denied.example.test:{site.https}")
    assert "denied.example.test" not in site.asked
    (warning,) = [entry for entry in response.logs if entry.message.startswith("network: denied")]
    assert warning.level == "warn"
    assert "denied.example.test" in warning.message


CLIENT = """
import os, socket, urllib.request

def fetch(url):
    try:
        return urllib.request.urlopen(url, timeout=20).read().decode()
    except Exception as error:
        return f"failed: {error!r}"

def handler(ctx):
    return {
        "results": [fetch(url) for url in ctx.input["urls"]],
        "alyx": fetch(ctx.alyx_url) if ctx.alyx_url else None,
        "alyx_url": ctx.alyx_url,
        "interfaces": [name for _, name in socket.if_nameindex()],
        "sockets": os.listdir("/run/alyx") if os.path.exists("/run/alyx") else [],
        "proxy": os.environ.get("HTTPS_PROXY"),
    }
"""


def test_without_destinations_a_function_reaches_alyx_and_nothing_else(
    runtime_class: str, invoke: Invoke, write: Write, store: Path, site: Site
) -> None:
    write("client/index.py", CLIENT)
    url = f"http://api.example.test:{site.http}"
    response = invoke(
        "client",
        {"urls": [url + "/", f"http://127.0.0.1:{site.https}/"]},
        limits=limits(store, runtime_class, alyx_url=f"http://127.0.0.1:{site.http}/alyx"),
    )
    assert response.success, response
    assert response.output["alyx"] == "127.0.0.1/alyx"
    assert all(result.startswith("failed") for result in response.output["results"])
    assert response.output["interfaces"] == ["lo"]
    assert response.output["proxy"] is None
    assert len(response.output["sockets"]) == 1
    assert reasons(response) == {"api.example.test": "not among the function's destinations"}
    assert site.asked == []


def test_alyx_at_an_address_has_a_name_inside(
    invoke: Invoke, write: Write, store: Path, site: Site
) -> None:
    write("client/index.py", CLIENT)
    response = invoke(
        "client", {"urls": []}, limits=limits(store, alyx_url=f"http://[::ffff:127.0.0.1]:{site.http}/x")
    )  # fmt: skip
    assert response.output["alyx_url"] == f"http://localhost:{site.http}/x"
    assert response.output["alyx"] == "localhost/x"


def test_a_name_is_looked_up_once_and_its_answer_pinned(
    invoke: Invoke, write: Write, store: Path, site: Site
) -> None:
    """A server of names that answers with another address as soon as it was asked."""
    where = f"rebind.example.test:{site.http}"
    answers = iter(["127.0.0.1", "169.254.169.254"])
    original = site.resolve

    class Rebinding(dict):
        def __contains__(self, key: object) -> bool:
            return True

        def __getitem__(self, key: str) -> str:
            return next(answers)

    site.answers = Rebinding()
    assert original is not None
    write("client/index.py", CLIENT)
    write("client/function.yaml", f"network: ['{where}']\n")
    settings = limits(store, allow=[where], allow_private=[where])
    asked = {"urls": [f"http://{where}/1", f"http://{where}/2"]}
    first = invoke("client", asked, limits=settings)
    assert first.output["results"] == ["rebind.example.test/1", "rebind.example.test/2"]
    assert site.asked == ["rebind.example.test"]
    # The control: the next container asks anew, and what it is told is refused.
    second = invoke("client", asked, limits=settings)
    assert all(result.startswith("failed") for result in second.output["results"])
    assert reasons(second) == {where: "169.254.169.254 is a metadata service's address"}


def test_caps_end_connections_and_are_listed(
    invoke: Invoke, write: Write, store: Path, site: Site
) -> None:
    where = f"api.example.test:{site.http}"
    write("client/index.py", CLIENT)
    write("client/function.yaml", f"network: ['{where}']\n")
    settings = limits(
        store, allow=[where], allow_private=[where], max_total_connections=3, max_bytes="64kb"
    )
    paths = ("/1", "/+100000", "/2", "/3")
    response = invoke(
        "client", {"urls": [f"http://{where}{path}" for path in paths]}, limits=settings
    )
    results = response.output["results"]
    assert results[0] == "api.example.test/1"
    assert results[1].startswith("failed"), "over max_bytes"
    assert results[3].startswith("failed"), "over max_total_connections"
    text = " ".join(item.reason for item in response.stats.network.denied)
    assert "network.max_bytes" in text
    assert "network.max_total_connections" in text
    assert sum(item.bytes_received for item in response.stats.network.allowed) <= 65536


def test_what_a_killed_process_left_behind_is_removed_by_the_next(
    engine: DockerEngine, store: Path
) -> None:
    """Its lock is gone with it; that of an owner who lives is not."""
    owner = Owner(store)
    owner.gateways.mkdir(parents=True)
    left = store / "gateways" / ("0" * 32)
    (left / "container").mkdir(parents=True)
    reap(engine, store)
    assert not left.exists()
    assert owner.gateways.exists()
    owner.close()
    reap(engine, store)
    assert not owner.gateways.exists()


def test_a_destination_that_the_operator_does_not_allow_is_refused(
    invoke: Invoke, write: Write, store: Path
) -> None:
    write("client/index.py", CLIENT)
    write("client/function.yaml", "network:\n  - api.example.test:443\n")
    with pytest.raises(PolicyRefusedError, match=r"function.yaml:2: network: api.example.test:443"):
        invoke("client", limits=limits(store))
