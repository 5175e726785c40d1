"""What a service shares with the one before it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.server.service import Service
from sandbox.testing import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.fakes import Directory

    Build = Callable[..., Service]


@pytest.fixture
def build(directory: Directory) -> Iterator[Build]:
    services: list[Service] = []

    def make(before: Service | None = None, **server: Any) -> Service:
        settings = directory.settings(server=server)
        engine = FakeEngine()
        services.append(
            Service.build(settings, directory.path, reserved=(), before=before, engine=engine)
        )
        return services[-1]

    yield make
    for service in services:
        service.drain(0)


def test_figures_go_on(build: Build) -> None:
    first = build()
    assert build(first).metrics is first.metrics


def test_callers_keep_what_they_have_used_of_their_limits_unless_those_change(build: Build) -> None:
    first = build()
    assert build(first).limiter is first.limiter
    assert build(first, limits={"rate": 3}).limiter is not first.limiter


def test_internal_tokens_stay_valid_unless_another_key_signs(build: Build, tmp_path: Path) -> None:
    first = build()
    assert build(first).tokens is first.tokens
    assert build(first, tokens={"grace": "1s"}).tokens is not first.tokens


def test_one_that_is_hurried_waits_for_nothing(build: Build) -> None:
    service = build()
    service.start()
    assert service.in_flight.enter()  # a request that never ends
    service.hurry()
    began = time.monotonic()
    service.drain(60)
    assert time.monotonic() - began < 30


def test_its_state_is_told(build: Build) -> None:
    gauges = build().gauges()
    assert (gauges.running, gauges.queued, gauges.tokens, gauges.unrecorded) == (0, 0, 0, 0)
