"""Runs Alyx functions in a container of their own.

with Sandbox("functions") as sandbox:
    response = sandbox.invoke("hello", {"name": "World"})
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sandbox.config.loading import load_settings
    from sandbox.config.settings import Settings
    from sandbox.deploy.reload_events import PollingEvent, ReloadEvent
    from sandbox.errors import (
        Code,
        EngineUnavailableError,
        FunctionNotFoundError,
        InternalError,
        InvalidManifestError,
        InvalidRequestError,
        InvalidSettingsError,
        OverloadedError,
        PolicyRefusedError,
        RuntimeNotAvailableError,
        SandboxError,
    )
    from sandbox.models import (
        AuthContext,
        FileUpload,
        FunctionContext,
        FunctionError,
        FunctionRequest,
        FunctionResponse,
        LogEntry,
        Stats,
    )
    from sandbox.sandbox import Sandbox

__version__ = "0.1.0"

# Where each public name lives. Loaded on first use: the command line imports this package at every
# start, and `sandbox --help` needs none of them.
_HOMES: Final = {
    "AuthContext": "models",
    "Code": "errors",
    "EngineUnavailableError": "errors",
    "FileUpload": "models",
    "FunctionContext": "models",
    "FunctionError": "models",
    "FunctionNotFoundError": "errors",
    "FunctionRequest": "models",
    "FunctionResponse": "models",
    "InternalError": "errors",
    "InvalidManifestError": "errors",
    "InvalidRequestError": "errors",
    "InvalidSettingsError": "errors",
    "LogEntry": "models",
    "OverloadedError": "errors",
    "PolicyRefusedError": "errors",
    "PollingEvent": "deploy.reload_events",
    "ReloadEvent": "deploy.reload_events",
    "RuntimeNotAvailableError": "errors",
    "Sandbox": "sandbox",
    "SandboxError": "errors",
    "Settings": "config.settings",
    "Stats": "models",
    "load_settings": "config.loading",
}

__all__ = [
    "AuthContext",
    "Code",
    "EngineUnavailableError",
    "FileUpload",
    "FunctionContext",
    "FunctionError",
    "FunctionNotFoundError",
    "FunctionRequest",
    "FunctionResponse",
    "InternalError",
    "InvalidManifestError",
    "InvalidRequestError",
    "InvalidSettingsError",
    "LogEntry",
    "OverloadedError",
    "PolicyRefusedError",
    "PollingEvent",
    "ReloadEvent",
    "RuntimeNotAvailableError",
    "Sandbox",
    "SandboxError",
    "Settings",
    "Stats",
    "load_settings",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
