"""The documents that the server sends and takes, as JSON Schema for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final, get_args

from sandbox.call import Trigger
from sandbox.errors import CODES, Code
from sandbox.executions.model import Status
from sandbox.models import Level

Json = dict[str, Any]

OBJECT: Final[Json] = {"type": "object"}
TEXT: Final[Json] = {"type": "string"}
_NUMBER: Final[Json] = {"type": "number"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_FLAG: Final[Json] = {"type": "boolean"}
_TIME: Final[Json] = {"type": "string", "format": "date-time"}
# What a function writes of its own accord, as it is.
_ANY: Final[Json] = {}


def ref(name: str) -> Json:
    """A reference to one of `schemas`."""
    return {"$ref": f"#/components/schemas/{name}"}


def schemas() -> Json:
    """All of them, by name."""
    return {
        "FunctionResponse": _object(
            {
                "request_id": TEXT,
                "success": _FLAG,
                "output": _ANY,
                "error": ref("Error"),
                "logs": _list(ref("LogEntry")),
                "duration_ms": _NUMBER,
                "stats": ref("Stats"),
            },
            optional=("output", "error"),
        )
        | {
            "description": "What became of an invocation: `output` if it succeeded, else `error`.",
            "oneOf": [{"required": ["output"]}, {"required": ["error"]}],
        },
        "Error": _object({"code": TEXT, "message": TEXT, "details": OBJECT})
        | {"description": "A function may have codes of its own. The others:\n\n" + _codes()},
        "LogEntry": _object(
            {
                "level": {"enum": list(get_args(Level))},
                "message": TEXT,
                "data": _or_null(OBJECT),
                "timestamp": TEXT,
            }
        ),
        "Stats": _object(
            {
                "cold": _FLAG,
                "queue_ms": _NUMBER,
                "boot_ms": _or_null(_NUMBER),
                "run_ms": _or_null(_NUMBER),
                "cpu_ms": _or_null(_NUMBER),
                "peak_memory_bytes": _or_null(_COUNT),
                "runtime_class": _or_null(TEXT),
                "version": _or_null(TEXT),
                "limits_hit": _list(
                    _object({"setting": TEXT, "limit": _NUMBER, "observed": _or_null(_NUMBER)})
                ),
                "network": _or_null(OBJECT),
            }
        ),
        "Problem": _object(
            {
                "type": TEXT,
                "title": TEXT,
                "status": {"type": "integer"},
                "detail": TEXT,
                "instance": TEXT,
                "request_id": TEXT,
                "success": {"const": False},
                "error": ref("Error"),
            }
        )
        | {"description": "RFC 9457, with the fields that a response has too."},
        "Execution": _object(
            {
                "id": TEXT,
                "function": TEXT,
                "caller": TEXT,
                "trigger": {"enum": list(get_args(Trigger))},
                "status": {"enum": list(get_args(Status))},
                "version": _or_null(TEXT),
                "code": _or_null(TEXT),
                "message": _or_null(TEXT),
                "attempts": _COUNT,
                "created_at": _TIME,
                "started_at": _or_null(_TIME),
                "ended_at": _or_null(_TIME),
                "due_at": _or_null(_TIME),
                "queue_ms": _or_null(_NUMBER),
                "boot_ms": _or_null(_NUMBER),
                "run_ms": _or_null(_NUMBER),
                "cpu_ms": _or_null(_NUMBER),
                "peak_memory_bytes": _or_null(_COUNT),
                "cold": _or_null(_FLAG),
                "input_bytes": _COUNT,
                "output_bytes": _COUNT,
                "log_tail": TEXT,
                "response": ref("FunctionResponse"),
            },
            optional=("response",),
        )
        | {"description": "`response` is kept of those that nobody waited for."},
        "Executions": _object({"executions": _list(ref("Execution")), "next": _or_null(TEXT)}),
        "Function": _object(
            {
                "name": TEXT,
                "runtime": TEXT,
                "interface": TEXT,
                "description": _or_null(TEXT),
                "sample_input": _ANY,
                "routes": _list(OBJECT),
                "version": _or_null(TEXT),
                "env": _list(TEXT),
                "manifest": OBJECT,
            },
            optional=("version", "env", "manifest"),
        ),
        "Functions": _object({"functions": _list(ref("Function")), "problems": _list(OBJECT)}),
        "Pools": _object(
            {
                "pools": {"type": "object", "additionalProperties": OBJECT},
                "running": _COUNT,
            }
        ),
        "Identity": {
            "type": "object",
            "required": ["id"],
            "properties": {
                "id": TEXT,
                "email": _or_null(TEXT),
                "role": _or_null(TEXT),
                "verified": _FLAG,
                "metadata": OBJECT,
            },
        },
        "Token": {
            "type": "object",
            "required": ["active"],
            "properties": {"active": _FLAG, "function": TEXT, "request_id": TEXT},
        },
        "Health": _object({"status": {"const": "ok"}}),
        "Readiness": _object(
            {
                "status": {"enum": ["ready", "not ready"]},
                "problems": _list(TEXT),
                "functions": _COUNT,
                "warm": _COUNT,
            }
        ),
    }


def _object(properties: Json, *, optional: tuple[str, ...] = ()) -> Json:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "required": [name for name in properties if name not in optional],
        "properties": properties,
        "additionalProperties": False,
    }


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _codes() -> str:
    return "\n".join(f"- `{code}`: {CODES[code].meaning}" for code in Code)
