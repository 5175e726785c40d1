"""Input, caller and files from the command line; what is wrong with them is said before a start."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import click
import pytest
from sandbox_cli.options import RequestOptions
from sandbox_cli.request import read_call

from sandbox.errors import InvalidRequestError
from sandbox.models import FileUpload

Sandbox = "Callable[..., Result]"
MOST = 1000


def options(
    data: str | None = None,
    *,
    auth: str | None = None,
    files: tuple[tuple[str, Path], ...] = (),
) -> RequestOptions:
    return RequestOptions(data=data, auth=auth, files=files, timeout=None)


def test_bad_json_is_bad_usage_with_its_place(sandbox: Sandbox) -> None:
    result = sandbox("invoke", "hello", "-d", '{"name":\n  oops}')
    assert result.exit_code == 2
    assert "line 2, column 3" in result.stderr


def test_bad_json_is_a_document_with_json(sandbox: Sandbox) -> None:
    result = sandbox("invoke", "hello", "-d", "[1]", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == "INVALID_REQUEST"


def test_an_unknown_function_is_bad_usage_with_near_names(sandbox: Sandbox) -> None:
    result = sandbox("invoke", "helo")
    assert result.exit_code == 2
    assert "FUNCTION_NOT_FOUND" in result.stderr
    assert "'hello'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--timeout", "soon"], "not a duration"),
        (["--timeout", "0"], "out of range"),
        (["--file", "document"], "not FIELD=PATH"),
        (["--file", "document=/nowhere"], "not a file"),
        (["-d", "@/nowhere"], "No such file"),
        (["--auth", "{"], "--auth"),
        (["--auth", "{}"], "--auth: id"),
    ],
)
def test_bad_options_are_bad_usage(arguments: list[str], complaint: str, sandbox: Sandbox) -> None:
    result = sandbox("invoke", "hello", *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_input_is_empty_without_data() -> None:
    assert read_call("f", options(), max_bytes=MOST).input == {}


def test_input_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "input.json"
    path.write_text('{"city": "Zürich"}', encoding="utf-8")
    assert read_call("f", options(f"@{path}"), max_bytes=MOST).input == {"city": "Zürich"}


def test_a_caller_keeps_claims_of_its_own() -> None:
    call = read_call("f", options(auth='{"id": "u1", "tenant": 7}'), max_bytes=MOST)
    assert call.auth == {"id": "u1", "tenant": 7}


def test_a_file_is_uploaded_with_name_type_and_content(tmp_path: Path) -> None:
    path = tmp_path / "logo.png"
    path.write_bytes(b"\x89PNG\x00\xff")
    (upload,) = read_call("f", options(files=(("image", path),)), max_bytes=MOST).files
    assert FileUpload.model_validate(upload)
    assert upload["name"] == "image"
    assert upload["filename"] == "logo.png"
    assert upload["content_type"] == "image/png"
    assert upload["size"] == 6
    assert base64.b64decode(upload["data"]) == b"\x89PNG\x00\xff"


def test_a_file_of_no_known_type_is_bytes(tmp_path: Path) -> None:
    path = tmp_path / "unknown"
    path.write_bytes(b"")
    (upload,) = read_call("f", options(files=(("f", path),)), max_bytes=MOST).files
    assert upload["content_type"] == "application/octet-stream"


def test_what_can_never_fit_is_not_read_to_its_end() -> None:
    for endless in (options("@/dev/zero"), options(files=(("f", Path("/dev/zero")),))):
        with pytest.raises(InvalidRequestError, match="larger than a request may be"):
            read_call("f", endless, max_bytes=MOST)


def test_a_directory_as_input_is_bad_usage(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="directory"):
        read_call("f", options(f"@{tmp_path}"), max_bytes=MOST)
