"""Reads the operator's secrets, the only values that `${NAME}` in a manifest can have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox.config.field_types import REFERENCE
from sandbox.documents.yaml_reader import load
from sandbox.errors import InvalidSettingsError, PolicyRefusedError
from sandbox.functions.manifest import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sandbox.functions.function import Function


def load_secrets(path: Path | None) -> Mapping[str, str]:
    """The secrets file: a YAML map of names to texts. No file, no secrets.

    Raises:
        InvalidSettingsError: it cannot be read, or is not such a map. Never shows a value.
    """
    if path is None:
        return {}
    # The operator's file is often a link to a mounted secret.
    node, problems = load(path, str(path), follow_links=True)
    if node is None or problems:
        raise InvalidSettingsError(
            f"the secrets file has problems: {problems[0]}",
            details={"problems": [str(problem) for problem in problems]},
        )
    if node.value is None:
        return {}
    if not isinstance(node.value, dict):
        raise InvalidSettingsError(f"{path}: the secrets file is a map of names to texts")
    secrets = {}
    for name, child in node.children.items():
        if child.text is None:
            raise InvalidSettingsError(f"{path}:{child.line}: {name}: a secret is a text")
        # As written: 1.10 is not 1.1, and true is not True.
        secrets[str(name)] = child.text
    return secrets


def resolve_env(function: Function, secrets: Mapping[str, str]) -> dict[str, str]:
    """The function's environment with every `${NAME}` replaced.

    Raises:
        PolicyRefusedError: the operator has no secret of a name in it.
    """
    resolved = {}
    for name, text in function.manifest.env.items():
        try:
            resolved[name] = resolve(text, secrets)
        except KeyError as missing:
            raise PolicyRefusedError(
                f"{function.where('env', name)}: env.{name} needs the secret {missing.args[0]}, "
                "which is not given here",
                hint="add it to the file that `secrets_file` in the settings names",
            ) from None
    return resolved


def used_secrets(function: Function, secrets: Mapping[str, str]) -> dict[str, str]:
    """The secrets in the function's environment, by name.

    `sandbox.protocol.redaction` keeps their values out of logs.
    """
    return {
        match[1]: secrets[match[1]]
        for text in function.manifest.env.values()
        for match in REFERENCE.finditer(text)
        if match[1] in secrets
    }
