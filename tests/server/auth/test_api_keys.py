"""API keys: what is kept of them, who is let in by one, and until when."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sandbox_cli.main import cli

from sandbox.config.server_settings import CallerLimits
from sandbox.errors import DatabaseUnavailableError, InvalidRequestError
from sandbox.executions.database import open_database
from sandbox.server.auth.api_key_verifier import ApiKeyVerifier
from sandbox.server.auth.api_keys import KeySpec, KeyStore, parse_key
from sandbox.server.auth.credentials import CredentialRefusedError
from tests.clock import NOW, Clock
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox.server.auth.callers import Caller

# Seconds within which a change has to be known; the promise is one, this machine is busy.
SOON = 20.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sa.Engine]:
    database = open_database(f"sqlite:///{tmp_path}/store/executions.db")
    yield database
    database.dispose()


@pytest.fixture
def store(database: sa.Engine, clock: Clock) -> KeyStore:
    return KeyStore(database, clock=clock)


@pytest.fixture
def verifier(store: KeyStore, clock: Clock) -> Iterator[ApiKeyVerifier]:
    verifier = ApiKeyVerifier(store, CallerLimits(), clock=clock)
    yield verifier
    verifier.close()


def verify(verifier: ApiKeyVerifier, credential: str) -> Caller:
    return asyncio.run(verifier.verify(credential))


def refused(verifier: ApiKeyVerifier, credential: str) -> str:
    with pytest.raises(CredentialRefusedError) as error:
        verify(verifier, credential)
    return str(error.value)


def is_let_in(verifier: ApiKeyVerifier, credential: str) -> bool:
    try:
        verify(verifier, credential)
    except CredentialRefusedError:
        return False
    return True


def test_a_key_lets_its_caller_in_with_what_it_was_made_for(
    store: KeyStore, verifier: ApiKeyVerifier
) -> None:
    key, text = store.create(
        KeySpec(name="mail", scopes=("invoke", "read"), functions=("mail-*",), rate=5, body=10**12)
    )
    caller = verify(verifier, text)
    assert caller.id == f"key:{key.id}"
    assert caller.scopes == {"invoke", "read"}
    assert caller.may_invoke("mail-send")
    assert not caller.may_invoke("pay")
    assert not caller.may("admin")
    assert not caller.may("impersonate")
    # A key is a program's, not a user's.
    assert caller.auth is None
    # Its own limits hold below the server's, and never above them.
    assert caller.limits == CallerLimits().model_copy(update={"rate": 5})


def test_no_secret_is_in_the_database(store: KeyStore, tmp_path: Path) -> None:
    _, text = store.create(KeySpec(name="a name"))
    secret = text.rpartition("_")[2]
    files = [file.read_bytes() for file in (tmp_path / "store").iterdir()]
    assert any(b"a name" in content for content in files)  # the control: they were looked into
    for form in (secret.encode(), bytes.fromhex(secret)):
        assert not any(form in content for content in files)


def test_a_secret_is_256_random_bits_of_its_own(store: KeyStore) -> None:
    texts = [store.create(KeySpec(name="a"))[1] for _ in range(20)]
    secrets = {text.rpartition("_")[2] for text in texts}
    assert len(secrets) == 20
    assert {len(bytes.fromhex(secret)) * 8 for secret in secrets} == {256}


def test_a_key_that_was_made_or_revoked_while_the_server_runs_is_known_soon(
    store: KeyStore, verifier: ApiKeyVerifier, tmp_path: Path
) -> None:
    _, first = store.create(KeySpec(name="first"))
    assert is_let_in(verifier, first)
    # By another process, as far as the server can see.
    other = open_database(f"sqlite:///{tmp_path}/store/executions.db")
    key, second = KeyStore(other).create(KeySpec(name="second"))
    wait_until(lambda: is_let_in(verifier, second), seconds=SOON)
    assert KeyStore(other).revoke(key.id)
    wait_until(lambda: not is_let_in(verifier, second), seconds=SOON)
    assert is_let_in(verifier, first)
    other.dispose()


def test_requests_share_a_query(
    store: KeyStore, verifier: ApiKeyVerifier, database: sa.Engine
) -> None:
    _, text = store.create(KeySpec(name="a"))
    queries = []
    sa.event.listen(database, "before_cursor_execute", lambda *a: queries.append(a[2]))

    async def many() -> float:
        began = time.monotonic()
        await asyncio.gather(*(verifier.verify(text) for _ in range(2000)))
        return time.monotonic() - began

    seconds = asyncio.run(many())
    assert 1 <= len(queries) <= 2 + seconds / 0.5


def test_an_expired_key_is_refused_at_once(
    store: KeyStore, verifier: ApiKeyVerifier, clock: Clock
) -> None:
    _, text = store.create(KeySpec(name="a", expires_at=NOW + 10))
    assert is_let_in(verifier, text)
    clock.now = NOW + 10
    assert "expired" in refused(verifier, text)


def test_a_revoked_key_stays_revoked_and_on_the_list(store: KeyStore, clock: Clock) -> None:
    key, _ = store.create(KeySpec(name="a"))
    assert store.revoke(key.id)
    clock.now += 5
    assert not store.revoke(key.id)
    assert not store.revoke("0" * 16)
    (kept,) = store.list()
    assert kept.revoked_at == NOW
    assert store.list(revoked=False) == []


def test_when_a_key_was_used_is_written_down_once_in_a_while(
    store: KeyStore, verifier: ApiKeyVerifier, clock: Clock
) -> None:
    key, text = store.create(KeySpec(name="a"))
    verify(verifier, text)
    assert store.list()[0].last_used_at is None
    clock.now = NOW + 60
    verify(verifier, text)
    wait_until(lambda: store.list()[0].last_used_at == NOW + 60, seconds=SOON)
    clock.now = NOW + 70
    verify(verifier, text)
    verifier.close()
    assert store.list()[0].last_used_at == NOW + 70
    assert store.list()[0].id == key.id


def test_nobody_is_let_in_while_the_keys_cannot_be_read(
    store: KeyStore, verifier: ApiKeyVerifier, database: sa.Engine
) -> None:
    _, text = store.create(KeySpec(name="a"))
    verify(verifier, text)
    with database.begin() as connection:
        connection.execute(sa.text("ALTER TABLE api_keys RENAME TO gone"))

    def fails() -> bool:
        try:
            verify(verifier, text)
        except DatabaseUnavailableError:
            return True
        return False

    wait_until(fails, seconds=SOON)
    with database.begin() as connection:
        connection.execute(sa.text("ALTER TABLE gone RENAME TO api_keys"))
    assert is_let_in(verifier, text)


def test_a_wrong_secret_and_an_unknown_key_are_refused_alike(
    store: KeyStore, verifier: ApiKeyVerifier
) -> None:
    key, text = store.create(KeySpec(name="a"))
    wrong = text[:-1] + ("0" if text[-1] != "0" else "1")
    unknown = f"sk_{'0' * 16}_{text.rpartition('_')[2]}"
    said = {refused(verifier, wrong), refused(verifier, unknown).replace("0" * 16, key.id)}
    assert len(said) == 1
    assert text.rpartition("_")[2] not in said.pop()
    assert is_let_in(verifier, text)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text() | st.from_regex(r"sk_[0-9a-f]{16}_[0-9a-f]{64}", fullmatch=True))
def test_no_other_text_is_a_key(verifier: ApiKeyVerifier, text: str) -> None:
    assert refused(verifier, text)
    assert refused(verifier, f"sk_{text}")


def test_a_key_s_text_is_read_back(store: KeyStore) -> None:
    key, text = store.create(KeySpec(name="a"))
    assert parse_key(text) == (key.id, text.rpartition("_")[2])
    for other in (text.upper(), f"{text} ", f"{text}\n", text[:-1], f"{text}0"):
        assert parse_key(other) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"name": "x" * 101},
        {"scopes": ()},
        {"functions": ()},
        {"functions": ("[a-z]",)},
        {"functions": ("a/b",)},
        {"functions": ("x",) * 101},
        {"rate": 0},
        {"concurrency": -1},
        {"body": 0},
        {"expires_at": NOW},
    ],
    ids=str,
)
def test_a_key_that_makes_no_sense_is_not_made(store: KeyStore, wrong: dict) -> None:
    with pytest.raises(InvalidRequestError):
        store.create(KeySpec(**({"name": "a"} | wrong)))
    assert store.list() == []


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`run("list")` is what `sandbox keys list` prints on stdout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SANDBOX_STORE", str(tmp_path / "store"))

    def run_keys(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(cli, ["keys", *arguments], prog_name="sandbox")
        assert result.exit_code == code, result.output
        return result.stdout

    return run_keys


def test_the_command_makes_a_key_shows_it_once_lists_and_revokes_it(
    run: Callable[..., str], database: sa.Engine
) -> None:
    made = json.loads(
        run("create", "mail", "--scope", "invoke", "--scope", "impersonate", "--function", "mail-*",
            "--rate", "5", "--body", "1mb", "--expires", "90d", "--json")
    )  # fmt: skip
    assert made["scopes"] == ["invoke", "impersonate"]
    assert (made["rate"], made["body"], made["concurrency"]) == (5, 1 << 20, None)
    assert 89 < (made["expires_at"] - time.time()) / 86400 <= 90
    verifier = ApiKeyVerifier(KeyStore(database), CallerLimits())
    assert verify(verifier, made["key"]).functions == ("mail-*",)
    secret = made["key"].rpartition("_")[2]
    for listing in (run("list"), run("list", "--json")):
        assert made["id"] in listing
        assert secret not in listing
    assert json.loads(run("revoke", made["id"], "--json")) == {"revoked": made["id"]}
    wait_until(lambda: not is_let_in(verifier, made["key"]), seconds=SOON)
    verifier.close()
    assert "revoked" in run("list")
    run("revoke", made["id"], code=2)


def test_without_json_the_key_is_all_that_is_on_stdout(run: Callable[..., str]) -> None:
    assert parse_key(run("create", "mail").strip())


@pytest.mark.parametrize(
    "arguments",
    [("--expires", "soon"), ("--expires", "2001-01-01"), ("--scope", "all"), ("--body", "big"),
     ("--function", "../x")],
    ids=" ".join,
)  # fmt: skip
def test_the_command_refuses_what_makes_no_sense(
    arguments: tuple[str, ...], run: Callable[..., str]
) -> None:
    run("create", "a", *arguments, code=2)


def test_nothing_of_a_secret_is_logged(
    store: KeyStore, verifier: ApiKeyVerifier, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    _, text = store.create(KeySpec(name="a"))
    verify(verifier, text)
    refused(verifier, text[:-1] + "x")
    assert text.rpartition("_")[2][:-1] not in caplog.text


@pytest.mark.parametrize(("arguments", "code"), [(("keys", "list"), 2), (("--help",), 0)])
def test_without_the_extra_the_command_says_how_to_get_it(
    arguments: tuple[str, ...], code: int
) -> None:
    program = (
        "import sys; sys.modules['sqlalchemy'] = None; sys.argv[0] = 'sandbox'\n"
        "from sandbox_cli.main import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True
    )
    assert ended.returncode == code
    assert ("pip install 'alyx-sandbox[serve]'" in ended.stderr) == bool(code)
