"""Where the engine is, by the settings and by Docker's variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandbox.config.settings import EngineSettings
from sandbox.engine.docker.endpoint import Endpoint, Tls, find_endpoint
from sandbox.errors import InvalidSettingsError

DOCKERS = Tls(ca=Path("/c/ca.pem"), cert=Path("/c/cert.pem"), key=Path("/c/key.pem"))


def endpoint(settings: dict[str, Any], **environment: str) -> Endpoint:
    return find_endpoint(EngineSettings.model_validate(settings), environment)


def test_without_a_word_it_is_the_local_socket() -> None:
    assert endpoint({}).url == "unix:///var/run/docker.sock"
    assert endpoint({}).local


def test_the_settings_come_before_dockers_variables() -> None:
    assert endpoint({}, DOCKER_HOST="unix:///a").path == "/a"
    assert endpoint({"host": "unix:///b"}, DOCKER_HOST="unix:///a").path == "/b"


def test_dockers_certificates_count_for_the_settings_host_too() -> None:
    found = endpoint({"host": "tcp://h:1"}, DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH="/c")
    assert found == Endpoint(host="h", port=1, tls=DOCKERS)
    own = endpoint({"host": "tcp://h", "tls": {"ca": "/x"}}, DOCKER_CERT_PATH="/c")
    assert own == Endpoint(host="h", port=2376, tls=Tls(ca=Path("/x")))


def test_certificates_without_verification_are_used_unverified_as_docker_does() -> None:
    found = endpoint({"host": "tcp://h"}, DOCKER_CERT_PATH="/c")
    assert found.tls is not None
    assert not found.tls.verify


def test_tcp_without_tls_has_to_be_asked_for() -> None:
    with pytest.raises(InvalidSettingsError, match="without TLS"):
        endpoint({}, DOCKER_HOST="tcp://127.0.0.1:2375")
    asked = endpoint({"plaintext": True}, DOCKER_HOST="tcp://127.0.0.1")
    assert (asked.url, asked.tls, asked.local) == ("tcp://127.0.0.1:2375", None, False)


def test_an_ipv6_address_keeps_its_brackets() -> None:
    assert endpoint({"host": "https://[::1]:5"}).url == "tcp://[::1]:5"


@pytest.mark.parametrize("url", ["ssh://me@host", "tcp://", "unix://", "tcp://h:x", "nonsense"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettingsError, match="no address of an engine"):
        endpoint({"host": url})
