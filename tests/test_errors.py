from __future__ import annotations

from sandbox import errors
from sandbox.errors import CODES, Code, SandboxError


def subclasses(kind: type) -> set[type]:
    below = set(kind.__subclasses__())
    return below.union(*(subclasses(item) for item in below)) if below else below


def test_every_code_has_a_meaning_a_status_and_an_exit_code() -> None:
    assert set(CODES) == set(Code)


def test_the_tree_in_the_docstring_lists_every_error() -> None:
    ours = {item for item in subclasses(SandboxError) if item.__module__ == errors.__name__}
    assert ours
    for error in ours:
        assert f"{error.__name__} " in str(errors.__doc__)
        assert str(error.code) in str(errors.__doc__)


def test_statuses_and_exit_codes_are_the_contract_s() -> None:
    assert {code: (info.http_status, info.exit_code) for code, info in CODES.items()} == {
        "FUNCTION_ERROR": (200, 1),
        "TIMEOUT": (504, 1),
        "OUT_OF_MEMORY": (502, 1),
        "OUTPUT_TOO_LARGE": (502, 1),
        "INVALID_RESPONSE": (502, 1),
        "FUNCTION_CRASHED": (502, 1),
        "INIT_FAILED": (502, 1),
        "BUILD_FAILED": (502, 1),
        "CANCELLED": (499, 1),
        "INVALID_REQUEST": (400, 2),
        "UNAUTHENTICATED": (401, 2),
        "FORBIDDEN": (403, 2),
        "FUNCTION_NOT_FOUND": (404, 2),
        "INVALID_MANIFEST": (422, 2),
        "INVALID_SETTINGS": (422, 2),
        "POLICY_REFUSED": (422, 2),
        "OVERLOADED": (429, 3),
        "RUNTIME_NOT_AVAILABLE": (503, 3),
        "ENGINE_UNAVAILABLE": (503, 3),
        "DATABASE_UNAVAILABLE": (503, 3),
        "INTERNAL": (500, 3),
    }


def test_an_error_says_what_happened_and_how_to_mend_it() -> None:
    error = errors.EngineUnavailableError("no engine answers", hint="start it")
    assert str(error) == "no engine answers (start it)"
    assert (error.code, error.http_status, error.exit_code) == ("ENGINE_UNAVAILABLE", 503, 3)
