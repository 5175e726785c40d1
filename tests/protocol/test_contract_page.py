"""docs/contract.md quotes what the codec really does."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from sandbox.config.settings import Settings
from sandbox.engine.base import Chunk
from sandbox.errors import CODES
from sandbox.models import FileUpload, FunctionContext, FunctionRequest, Stats
from sandbox.protocol.input import file_upload
from sandbox.protocol.request import encode_request, parse_auth
from sandbox.protocol.response import Parsed, StdioCollector
from sandbox.units import MIB

PAGE = (Path(__file__).parents[2] / "docs" / "contract.md").read_text()
REQUEST, FILE, SUCCESS, FAILURE = re.findall(
    r"^```json\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE
)


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables below a heading, without their first rows."""
    section = PAGE.split(f"\n{heading}\n")[1].split("\n#")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for table in re.findall(r"^\|[-|]+\|\n((?:\|.*\n)+)", section, re.MULTILINE)
        for line in table.splitlines()
    ]


def parse(stdout: bytes) -> Parsed:
    collector = StdioCollector(max_output=MIB, max_logs=MIB, now=lambda: "NOW")
    collector.feed(Chunk("stdout", stdout))
    return collector.finish()


def test_the_request_is_what_a_function_reads() -> None:
    shown = json.loads(REQUEST)
    context = FunctionContext(**shown["context"] | {"auth": parse_auth(shown["context"]["auth"])})
    request = FunctionRequest(**shown | {"context": context})
    assert json.loads(encode_request(request, max_bytes=MIB)) == json.loads(REQUEST)


def test_the_file_is_what_an_upload_becomes() -> None:
    shown = FileUpload.model_validate_json(FILE)
    content = base64.b64decode(shown.data)
    assert shown.model_dump() == file_upload(
        name=shown.name,
        filename=shown.filename,
        content_type=shown.content_type,
        content=content,
    )


@pytest.mark.parametrize("document", [SUCCESS, FAILURE])
@pytest.mark.parametrize("before", ["", "a log line\n"])
def test_the_responses_are_read(document: str, before: str) -> None:
    expected = json.loads(document)
    text = json.dumps(expected) if before else document
    parsed = parse((before + text).encode())
    assert parsed.well_formed
    assert parsed.output == expected.get("output")
    assert (parsed.error.to_dict() if parsed.error else None) == expected.get("error")
    logs = [entry.to_dict() for entry in parsed.logs if entry.message != before.strip()]
    assert logs == expected.get("logs", [])


def test_the_script_in_python_answers(tmp_path: Path) -> None:
    script = tmp_path / "index.py"
    script.write_text(re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)[0])
    result = subprocess.run(
        [sys.executable, script], input=REQUEST.encode(), capture_output=True, check=True
    )
    assert parse(result.stdout).output == {"message": "Hello, World!"}


def test_every_code_is_listed_with_its_statuses() -> None:
    listed = {row[0].strip("`"): row[2:] for row in rows("## Error codes") if len(row) == 4}
    assert listed == {
        code: [str(info.http_status), str(info.exit_code.value)] for code, info in CODES.items()
    }


def test_every_field_of_stats_is_listed() -> None:
    assert [row[0].strip("`") for row in rows("## Stats")] == [
        field.name for field in fields(Stats)
    ]


def test_the_limits_are_those_of_the_settings() -> None:
    settings = Settings().model_dump()
    settings["defaults"] |= {f"limits.{name}": value for name, value in settings["limits"].items()}
    for limit, default, setting, _ in rows("## Limits"):
        name = setting.removeprefix("operator, ").strip("`")
        number, _, unit = default.partition(" ")
        scale = MIB if unit == "MiB" else 1
        assert settings["defaults"][name] == int(number) * scale, limit
