"""What ships in deploy/ names what there is: metrics, commands, settings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from sandbox.config.server_settings import ServerSettings
from sandbox.server.telemetry.metrics import FAMILIES, Metrics

DEPLOY = Path(__file__).parents[1] / "deploy"
NAMES = re.compile(r"\balyx_sandbox_[a-z_]+\b")


def known() -> set[str]:
    """Every name that a series can have."""
    text = Metrics().text().decode()
    names = set(re.findall(r"# TYPE (\S+)", text)) | {family.name for family in FAMILIES}
    return names | {
        f"{name}_{end}" for name in names for end in ("total", "bucket", "count", "sum")
    }


def expressions(value: Any) -> list[str]:
    if isinstance(value, dict):
        found = [value[name] for name in ("expr", "query") if isinstance(value.get(name), str)]
        return found + [item for child in value.values() for item in expressions(child)]
    return (
        [item for child in value for item in expressions(child)] if isinstance(value, list) else []
    )


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    names = set(NAMES.findall(" ".join(expressions(dashboard))))
    assert len(names) > 8
    assert names - known() == set()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_the_alerts_are_on_metrics_that_there_are() -> None:
    groups = yaml.safe_load((DEPLOY / "alert-rules.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    names = set(NAMES.findall(" ".join(rule["expr"] for rule in rules)))
    assert len(names) > 4
    assert names - known() == set()
    assert all({"alert", "expr", "labels", "annotations"} <= rule.keys() for rule in rules)


def test_a_name_that_is_none_would_be_seen() -> None:
    assert set(NAMES.findall("rate(alyx_sandbox_nothing_total[5m])")) - known()


def test_the_unit_is_sound_and_gives_time_to_drain(tmp_path: Path) -> None:
    text = (DEPLOY / "alyx-sandbox.service").read_text()
    stop = re.search(r"^TimeoutStopSec=(\d+)s$", text, re.MULTILINE)
    assert stop is not None
    assert int(stop[1]) > ServerSettings().drain + 20
    unit = tmp_path / "alyx-sandbox.service"
    program = Path(sys.executable).with_name("sandbox")
    # Of the machine that it is for there are neither the program nor the engine's unit here.
    unit.write_text(
        text.replace("/opt/alyx-sandbox/bin/sandbox", str(program)).replace(
            "Requires=docker.service\n", ""
        )
    )
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    exposure = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert exposure.returncode == 0, exposure.stdout
