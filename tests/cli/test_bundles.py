"""`sandbox bundles`, over the fake engine."""

from __future__ import annotations

import gc
import json
import os
from typing import TYPE_CHECKING

from sandbox import Sandbox, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from sandbox.testing import FakeEngine

    Run = Callable[..., Result]
    Play = Callable[..., FakeEngine]


def test_bundles_are_listed_and_go_when_nobody_uses_them(sandbox: Run, play: Play) -> None:
    engine = play()
    with Sandbox(
        "functions", settings=load_settings(None, os.environ), engine=engine, warm=False
    ) as functions:
        version = functions.build("hello")
        header, line = sandbox("bundles", "list").stdout.splitlines()
        assert header.split() == ["VERSION", "SIZE", "FILES", "LAST", "USED"]
        assert line.split()[0] == version[:12]
        assert "in use" in line
        assert sandbox("bundles", "prune", "--all").stdout == "removed 0 bundles\n"
    del functions  # with its leases
    gc.collect()
    (bundle,) = json.loads(sandbox("bundles", "list", "--json").stdout)
    assert (bundle["digest"], bundle["in_use"]) == (version, False)
    assert "ago" in sandbox("bundles", "list").stdout
    assert sandbox("bundles", "prune").stdout == "removed 0 bundles\n"
    assert json.loads(sandbox("bundles", "prune", "--all", "--json").stdout) == {
        "bundles": [version]
    }
