"""An engine that is not as it should be: the control of what looks at containers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.engine.base import Container, ContainerSpec
    from sandbox.engine.docker.engine import DockerEngine


class Weakened:
    """A real engine that gives containers more than they were to get."""

    def __init__(self, engine: DockerEngine, **changes: Any) -> None:
        self._engine = engine
        self._changes = changes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def create(self, spec: ContainerSpec) -> Container:
        return self._engine.create(dataclasses.replace(spec, **self._changes))
