"""The OpenAPI document is exact: whatever is sent, only what it says comes back."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from sandbox import FunctionError
from sandbox.server.http.operations import openapi_document
from tests.server.plain import Served, served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.testing import FakeContext

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def code(ctx: FakeContext) -> Any:
    if ctx.function == "echo":
        return ctx.input
    return FunctionError(code="SAD", message="it is what it is")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(
        tmp_path_factory.mktemp("server"), code=code, authentication="required", patience=2
    ) as place:
        for name in ("echo", "sad"):
            place.sandbox.write(name, "runtime: python")
        yield place


@pytest.fixture(scope="module")
def key(server: Served) -> dict[str, str]:
    return server.key("admin", "invoke", "impersonate", rate=100_000)


@pytest.fixture(scope="module")
def execution(server: Served, key: dict[str, str]) -> str:
    """One that is on record."""
    accepted = server.client.post("/api/functions/echo?wait=false", headers=key)
    return str(accepted.json()["id"])


OPERATIONS = [
    (path, method.upper())
    for path, operations in openapi_document()["paths"].items()
    for method in operations
]
# Those that can be asked for what the document does not allow.
NARROW = ("/api/functions/{name}", "/api/executions", "/api/executions/{id}")
ALLOWED, NOT_ALLOWED = schemathesis.GenerationMode


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [(*operation, ALLOWED) for operation in OPERATIONS]
    + [(*operation, NOT_ALLOWED) for operation in OPERATIONS if operation[0] in NARROW],
)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_comes_back_is_what_the_document_says(
    *,
    server: Served,
    key: dict[str, str],
    execution: str,
    path: str,
    method: str,
    mode: schemathesis.GenerationMode,
    data: st.DataObject,
) -> None:
    """For what the document allows and for what it does not; for names that are there and others."""
    document = schemathesis.openapi.from_dict(server.client.get("/openapi.json").json())
    operation = document[path][method]
    case = data.draw(operation.as_strategy(generation_mode=mode))
    known = {"name": "echo", "function": "sad", "id": execution}
    for name in known.keys() & case.path_parameters.keys():
        if data.draw(st.booleans()):
            case.path_parameters[name] = known[name]
    case.call_and_validate(
        base_url=str(server.client.base_url), headers=key, checks=CHECKS, timeout=60
    )


def test_what_the_document_does_not_say_is_found(server: Served, key: dict[str, str]) -> None:
    """The control: the same check, with a status less."""
    less = deepcopy(openapi_document())
    del less["paths"]["/api/functions"]["get"]["responses"]["200"]
    operation = schemathesis.openapi.from_dict(less)["/api/functions"]["GET"]
    with pytest.raises((FailureGroup, AssertionError), match="(?i)undocumented"):
        operation.Case().call_and_validate(
            base_url=str(server.client.base_url), headers=key, checks=CHECKS
        )


def test_a_server_that_lets_everybody_in_says_so() -> None:
    open_to_all = openapi_document(authentication=False)
    assert "security" not in open_to_all
    answers = {
        path: operation["responses"].keys()
        for path, operations in open_to_all["paths"].items()
        for operation in operations.values()
    }
    asking = {path for path, statuses in answers.items() if "401" in statuses}
    assert asking == {path for path in answers if path.startswith("/api/webhooks/")}
    assert "401" in openapi_document()["paths"]["/api/functions"]["get"]["responses"]
