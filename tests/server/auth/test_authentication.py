"""Who is let in: what stands in the headers, who fails too often, and what a web page may not."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest
from starlette.datastructures import Headers

from sandbox.config.server_settings import ServerSettings
from sandbox.errors import ForbiddenError, OverloadedError, UnauthenticatedError
from sandbox.executions.database import open_database
from sandbox.server.auth.api_keys import KeySpec, KeyStore
from sandbox.server.auth.authentication import (
    ANONYMOUS,
    FAILURES,
    Authenticator,
    build_authenticator,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import sqlalchemy as sa

    from sandbox.server.auth.callers import Caller


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sa.Engine]:
    database = open_database(f"sqlite:///{tmp_path}/executions.db")
    yield database
    database.dispose()


@pytest.fixture
def authenticator(database: sa.Engine) -> Iterator[Authenticator]:
    authenticator = build_authenticator(ServerSettings(authentication="required"), database)
    yield authenticator
    authenticator.close()


@pytest.fixture
def key(database: sa.Engine) -> str:
    return KeyStore(database).create(KeySpec(name="a"))[1]


def ask(authenticator: Authenticator, *headers: tuple[str, str], client: str = "") -> Caller:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return asyncio.run(authenticator.authenticate(Headers(raw=raw), client=client))


@pytest.mark.parametrize(
    ("name", "form"),
    [("Authorization", "Bearer {}"), ("authorization", "bearer  {}"), ("X-API-Key", "{}")],
)
def test_a_key_comes_in_either_header(
    name: str, form: str, authenticator: Authenticator, key: str
) -> None:
    assert ask(authenticator, (name, form.format(key))).id == f"key:{key.split('_')[1]}"


WRONG = {
    "nothing": [],
    "no bearer": [("Authorization", "Basic {}")],
    "no scheme": [("Authorization", "{}")],
    "two words": [("Authorization", "Bearer {} x")],
    "empty": [("Authorization", "Bearer ")],
    "an empty key": [("X-API-Key", "")],
    "twice": [("Authorization", "Bearer {}"), ("Authorization", "Bearer {}")],
    "two kinds": [("Authorization", "Bearer {}"), ("X-API-Key", "{}")],
    "no key": [("Authorization", "Bearer x")],
    "a token, and none are accepted": [("Authorization", "Bearer a.b.c")],
    "letters that are none": [("X-API-Key", "sk_\xff\xfe")],
    "huge": [("X-API-Key", "sk_" + "0" * 100_000)],
    "another secret": [("X-API-Key", "sk_0000000000000000_" + "0" * 64)],
}


def test_all_who_are_not_let_in_are_told_the_same(
    authenticator: Authenticator, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    said = set()
    for number, headers in enumerate(WRONG.values()):
        filled = [(name, value.format(key)) for name, value in headers]
        with pytest.raises(UnauthenticatedError) as refused:
            ask(authenticator, *filled, client=f"192.0.2.{number}")
        said.add((str(refused.value), str(refused.value.details), refused.value.http_status))
    assert len(said) == 1
    # Why stands in the log, and nothing of what was shown.
    assert len(caplog.records) == len(WRONG)
    assert len({record.getMessage().partition(": ")[2] for record in caplog.records}) > 5
    assert key.rpartition("_")[2] not in caplog.text


def fail(authenticator: Authenticator, client: str) -> int:
    """The HTTP status of a failure from there."""
    try:
        ask(authenticator, ("X-API-Key", "sk_guess"), client=client)
    except (UnauthenticatedError, OverloadedError) as error:
        return error.http_status
    return 200


def test_an_address_that_fails_too_often_is_put_off_and_others_are_not(
    authenticator: Authenticator, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    statuses = [fail(authenticator, "192.0.2.1") for _ in range(3 * FAILURES.amount)]
    assert statuses[: FAILURES.amount] == [401] * FAILURES.amount
    assert statuses[-1] == 429
    # A flood of guesses is none of the log.
    assert len(caplog.records) == statuses.count(401)
    with pytest.raises(OverloadedError) as refused:
        ask(authenticator, client="192.0.2.1")
    assert refused.value.retry_after >= 1
    assert fail(authenticator, "192.0.2.2") == 401
    # Others may be behind that address.
    assert ask(authenticator, ("X-API-Key", key), client="192.0.2.1")


def test_one_subscriber_s_addresses_count_as_one(authenticator: Authenticator) -> None:
    for number in range(2 * FAILURES.amount):
        fail(authenticator, f"2001:db8::{number:x}")
    assert fail(authenticator, "2001:db8::ffff") == 429
    assert fail(authenticator, "2001:db8:0:1::1") == 401
    for _ in range(2 * FAILURES.amount):
        fail(authenticator, "::ffff:192.0.2.9")
    assert fail(authenticator, "192.0.2.9") == 429


@pytest.mark.parametrize("client", ["", "testclient", "not an address", "::1%lo"])
def test_an_address_that_is_none_does_not_get_in_the_way(
    client: str, authenticator: Authenticator
) -> None:
    assert fail(authenticator, client) == 401


@pytest.fixture
def anyone() -> Authenticator:
    """Asks nobody; pages of one origin may call."""
    return Authenticator(ServerSettings(cors=("https://app.example.org",)))


def test_without_authentication_everybody_may_do_everything(anyone: Authenticator) -> None:
    assert ask(anyone) is ANONYMOUS
    assert ask(anyone, ("X-API-Key", "sk_whatever"), ("Host", "127.0.0.1:8080")) is ANONYMOUS
    assert all(ANONYMOUS.may(scope) for scope in ("invoke", "read", "admin", "impersonate"))
    assert ANONYMOUS.may_invoke("anything")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:8080"},
        {"Host": "[::1]:8080"},
        {"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1:8080"},
        {"Host": "127.0.0.1:8080", "Origin": "https://app.example.org"},
        # A person who typed the address, and the server's own page.
        {"Host": "127.0.0.1:8080", "Sec-Fetch-Site": "none"},
        {"Host": "127.0.0.1:8080", "Sec-Fetch-Site": "same-origin"},
        {
            "Host": "127.0.0.1:8080",
            "Origin": "https://app.example.org",
            "Sec-Fetch-Site": "cross-site",
        },
    ],
    ids=str,
)
def test_this_machine_and_pages_that_are_allowed_may_call(
    headers: dict[str, str], anyone: Authenticator
) -> None:
    assert ask(anyone, *headers.items()) is ANONYMOUS


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example.org:8080"},  # a name that was made to lead to loopback
        {"Host": "127.0.0.1.evil.example.org"},
        {"Host": "localhost.evil.example.org"},
        {"Host": "[::1"},
        {"Host": "127.0.0.1:8080", "Origin": "https://evil.example.org"},
        {"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1:3000"},
        {"Host": "127.0.0.1:8080", "Origin": "null"},
        {"Host": "127.0.0.1:8080", "Origin": "http://[::1"},
        # An image, a link or a form of a page: GET, without an origin.
        {"Host": "127.0.0.1:8080", "Sec-Fetch-Site": "cross-site"},
        {"Host": "127.0.0.1:8080", "Sec-Fetch-Site": "same-site"},
        {"Host": "127.0.0.1:8080", "Sec-Fetch-Site": "anything else"},
    ],
    ids=str,
)
def test_a_page_in_a_browser_on_this_machine_may_not(
    headers: dict[str, str], anyone: Authenticator
) -> None:
    with pytest.raises(ForbiddenError):
        ask(anyone, *headers.items())
