"""What the operator's settings make of the destinations that a manifest asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from sandbox.config.settings import Settings
from sandbox.errors import PolicyRefusedError
from sandbox.functions.discovery import discover
from sandbox.gateway.allocation import Attachment
from sandbox.policy.container_spec import Launch, function_spec
from sandbox.policy.limits import effective_policy
from sandbox.policy.network import MOST_DESTINATIONS

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.config.destinations import NetworkPolicy
    from sandbox.functions.function import Function


def function(directory: Path, *network: str) -> Function:
    (directory / "f").mkdir()
    (directory / "f/index.py").write_text("def handler(ctx): ...\n")
    lines = "".join(f"  - '{item}'\n" for item in network)
    (directory / "f/function.yaml").write_text(f"network:\n{lines}" if lines else "network: none\n")
    return discover(directory).functions[0]


def allowed(directory: Path, *network: str, alyx_url: str = "", **settings: Any) -> NetworkPolicy:
    chosen = Settings.model_validate({"network": settings, "alyx_url": alyx_url})
    return effective_policy(function(directory, *network), chosen).network


def test_by_default_nothing_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(PolicyRefusedError) as error:
        allowed(tmp_path, "api.example.org:443")
    assert "/f/function.yaml:2: network: api.example.org:443 is not allowed" in error.value.message
    assert "network.allow " in (error.value.hint or "")


def test_what_the_operators_patterns_cover_is_allowed(tmp_path: Path) -> None:
    asked = ("api.example.org:443", "*.a.example.org:443", "db.corp:5432", "API.example.org:443")
    network = allowed(tmp_path, *asked, allow=["*.example.org:443", "db.corp:5432"])
    assert [str(item) for item in network.destinations] == [
        "api.example.org:443", "*.a.example.org:443", "db.corp:5432"
    ]  # fmt: skip
    assert network.callback is None


@pytest.mark.parametrize("asked", ["api.example.org:80", "example.org:443", "*.org.example:443"])
def test_what_they_do_not_cover_is_refused_with_its_line(tmp_path: Path, asked: str) -> None:
    with pytest.raises(PolicyRefusedError, match=r"function.yaml:3: network: "):
        allowed(tmp_path, "api.example.org:443", asked, allow=["*.example.org:443"])


@pytest.mark.parametrize("asked", ["10.0.0.1:80", "localhost:80", "[::1]:80", "a.localhost:80"])
def test_what_is_plainly_private_is_refused_unless_the_operator_opens_it(
    tmp_path: Path, asked: str
) -> None:
    with pytest.raises(PolicyRefusedError) as error:
        allowed(tmp_path, asked, allow=[asked])
    assert "network.allow_private" in (error.value.hint or "")
    (tmp_path / "control").mkdir()
    assert allowed(tmp_path / "control", asked, allow=[asked], allow_private=[asked]).destinations


def test_a_metadata_service_is_refused_whatever_the_settings(tmp_path: Path) -> None:
    asked = "169.254.169.254:80"
    with pytest.raises(PolicyRefusedError, match="metadata") as error:
        allowed(tmp_path, asked, allow=[asked], allow_private=[asked])
    assert error.value.hint == "no setting allows it"


def test_there_is_a_most_of_destinations(tmp_path: Path) -> None:
    asked = [f"h{number}.example.org:443" for number in range(MOST_DESTINATIONS + 1)]
    with pytest.raises(PolicyRefusedError, match="65 network destinations are too many"):
        allowed(tmp_path, *asked, allow=["*.example.org:443"])


def test_every_function_reaches_alyx(tmp_path: Path) -> None:
    callback = allowed(tmp_path, alyx_url="http://10.0.0.7:8090").callback
    assert callback is not None
    assert callback.url == "http://alyx.internal:8090"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": {"allow_private": ["db.corp:5432"]}}, "allow does not cover it"),
        ({"network": {"allow": ["*:443"]}}, "is no host"),
        ({"network": {"max_connections": 0}}, "greater than or equal to 1"),
        ({"alyx_url": "localhost:8090"}, "write a URL with a host"),
        ({"alyx_url": "http://exa mple:8090"}, "is no host"),
        ({"alyx_url": "http://alyx:99999"}, "ort"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings.model_validate(settings)


def test_the_containers_network_mode_is_none_whatever_is_allowed(tmp_path: Path) -> None:
    found = function(tmp_path, "api.example.org:443")
    settings = Settings.model_validate({"network": {"allow": ["api.example.org:443"]}})
    attachment = Attachment(arguments=("--dns",), env={"HTTPS_PROXY": "http://127.0.1.1:3128"})
    launch = Launch(image="i", runtime_class="runc", labels={}, network=attachment)
    spec = function_spec(found, effective_policy(found, settings), launch, bundle=tmp_path)
    assert spec.network == "none"
    assert "--dns" in spec.command
    assert spec.env["HTTPS_PROXY"] == "http://127.0.1.1:3128"
