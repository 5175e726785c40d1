"""The operator's settings: where they come from, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

from sandbox.config.environment import PATH_SETTINGS
from sandbox.config.loading import load_settings, section_model
from sandbox.config.server_settings import PATH_OR_URL
from sandbox.config.settings import Settings, default_store
from sandbox.errors import InvalidSettingsError
from sandbox.functions.secrets import load_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel


def test_without_a_file_and_variables_the_defaults_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None, {"PATH": "/bin"})
    assert settings == Settings()
    assert settings.defaults.memory == 128 << 20
    assert settings.defaults.timeout == 30


def test_the_environment_is_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.yaml"
    file.write_text("limits:\n  output: 2mb\n  logs: 3mb\nruntimes: [python]\n")
    settings = load_settings(file, {"SANDBOX_LIMITS__OUTPUT": "1mb"})
    assert (settings.limits.output, settings.limits.logs) == (1 << 20, 3 << 20)
    assert settings.limits.request == Settings().limits.request
    assert settings.runtimes == ("python",)


def test_the_file_in_the_working_directory_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sandbox.yaml").write_text("concurrency: 3\n")
    monkeypatch.chdir(tmp_path)
    assert load_settings().concurrency == 3


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.yaml"
    file.write_text("store: s\nsecrets_file: x.yaml\nimages: {ca_bundle: ca.pem}\n")
    settings = load_settings(file)
    assert settings.store == tmp_path / "s"
    assert settings.secrets_file == tmp_path / "x.yaml"
    assert settings.images.ca_bundle == tmp_path / "ca.pem"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "limitss: {}\n",
            "sandbox.yaml:1:1: error: unknown field 'limitss' (did you mean 'limits'",
        ),
        ("a: 1\nlimits:\n  outptu: 1mb\n", "sandbox.yaml:3:3"),
        ("defaults: {memory: -1}\n", "out of range"),
        ("engine: {runtime_class: kata}\n", "auto, runc, crun, gvisor"),
        ("- a list\n", "a map of names to values"),
        ("a: [\n", "not valid YAML"),
        ("runtimes: [cobol]\n", "runtimes"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(text: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "sandbox.yaml"
    file.write_text(text)
    with pytest.raises(InvalidSettingsError) as wrong:
        load_settings(file)
    assert expected in str(wrong.value)
    assert wrong.value.exit_code == 2


@pytest.mark.parametrize(
    "environment",
    [
        {"SANDBOX_LIMITS__OUTPUT": "x"},
        {"SANDBOX_NOTHING": "x"},
        {"SANDBOX_RUNTIMES": "[oops"},
        {"SANDBOX_LIMITS": "x", "SANDBOX_LIMITS__OUTPUT": "1mb"},
    ],
)
def test_a_variable_that_cannot_be_used_is_an_error(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidSettingsError):
        load_settings(None, environment)


def test_a_file_that_is_named_and_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingsError):
        load_settings(tmp_path / "nothing.yaml")


def test_the_store_is_in_the_user_s_cache_directory(tmp_path: Path) -> None:
    assert default_store({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "alyx-sandbox"


def test_secrets_are_texts_as_they_are_written(tmp_path: Path) -> None:
    file = tmp_path / "secrets.yaml"
    file.write_text("A: 1.10\nB: true\nC: 'x y'\n")
    assert load_secrets(file) == {"A": "1.10", "B": "true", "C": "x y"}
    assert load_secrets(None) == {}


@pytest.mark.parametrize("text", ["- a\n", "A: [canary]\n", "A: {b: canary}\n", "A: 'canary"])
def test_a_bad_secrets_file_is_an_error_that_shows_no_value(text: str, tmp_path: Path) -> None:
    file = tmp_path / "secrets.yaml"
    file.write_text(text)
    with pytest.raises(InvalidSettingsError) as wrong:
        load_secrets(file)
    assert "canary" not in f"{wrong.value}{wrong.value.details}"


JWT = "issuer: i, audience: a"


@pytest.mark.parametrize("place", ["keys.json", "https://id.example.org/keys"])
def test_keys_of_tokens_are_in_a_file_beside_the_settings_or_at_a_url(
    place: str, tmp_path: Path
) -> None:
    file = tmp_path / "sandbox.yaml"
    file.write_text(f"server: {{jwt: {{jwks: '{place}', {JWT}}}, tokens: {{key_file: k.pem}}}}\n")
    server = load_settings(file).server
    assert server.jwt is not None
    assert server.jwt.jwks == (place if "://" in place else str(tmp_path / place))
    assert server.tokens.key_file == tmp_path / "k.pem"


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (f"jwks: 'http://id.example.org/keys', {JWT}", "a file or an https URL"),
        ("jwks: k.json, issuer: i", "jwt.audience is missing"),
        (f"jwks: k.json, {JWT}, algorithms: [HS256]", "algorithms"),
        (f"jwks: k.json, {JWT}, algorithms: [none]", "algorithms"),
        (f"jwks: k.json, {JWT}, scope: [read]", "did you mean 'scopes'"),
    ],
)
def test_a_section_for_tokens_that_cannot_be_used_is_an_error(
    section: str, expected: str, tmp_path: Path
) -> None:
    file = tmp_path / "sandbox.yaml"
    file.write_text(f"server:\n  jwt: {{{section}}}\n")
    with pytest.raises(InvalidSettingsError) as wrong:
        load_settings(file)
    assert expected in str(wrong.value)


def test_an_option_of_the_command_line_changes_no_other_setting() -> None:
    given = {
        "port": 1,
        "limits": {"body": "3mb"},
        "executions": {"log_tail": "1kb"},
        "idempotency_bytes": "2kb",
    }
    settings = Settings.model_validate({"server": given})
    changed = settings.with_server({"port": 2}).server
    assert changed == settings.server.model_copy(update={"port": 2})
    assert (changed.limits.body, changed.executions.log_tail) == (3 * 2**20, 1024)
    assert changed.idempotency_bytes == 2048
    with pytest.raises(InvalidSettingsError, match="authentication"):
        settings.with_server({"host": "0.0.0.0"})


def paths_in(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """The fields of a model and its sections that are paths, by their types."""
    for name, field in model.model_fields.items():
        section = section_model(field)
        if section is not None:
            yield from ((name, *path) for path in paths_in(section))
        elif (
            Path in (field.annotation, *get_args(field.annotation)) or PATH_OR_URL in field.metadata
        ):
            yield (name,)


def test_every_path_among_the_settings_is_known_as_one() -> None:
    assert set(PATH_SETTINGS) == set(paths_in(Settings))


def test_a_path_in_a_variable_starts_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None, {"SANDBOX_IMAGES__CA_BUNDLE": "ca.pem"})
    assert settings.images.ca_bundle == tmp_path / "ca.pem"


def test_settings_that_are_nonsense_are_refused() -> None:
    for section, key, value in (
        ("limits", "output", "-1"), ("limits", "boot", "0"), ("ceilings", "memory", "1e99"),
        ("defaults", "cpu", -1), ("defaults", "pids", 0), ("ceilings", "timeout", "nan"),
        ("engine", "runtime_class", "none"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=key):
            Settings.model_validate({section: {key: value}})
