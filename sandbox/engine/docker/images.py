"""Images in the Docker engine: look up, build, import."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import docker.errors

from sandbox.engine.base import Image, ImageBuildError
from sandbox.engine.docker.errors import gone_after

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from docker.api import APIClient

# The time between two lines of output: a step may be silent for long.
_BUILD_TIMEOUT: Final = 900
# The tag of an image without a tag, in the engine's lists.
_UNTAGGED: Final = "<none>:<none>"
# The classic builder colours the stderr of a step.
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
# The end of a build's output tells why it failed.
_LOG_LINES: Final = 40


class DockerImages:
    """The image part of `DockerEngine`. Raises the SDK's errors."""

    def __init__(self, client: APIClient) -> None:
        self._client = client

    def image(self, reference: str) -> Image | None:
        try:
            found = self._client.inspect_image(reference)
        except docker.errors.ImageNotFound:
            return None
        return _image(found, (found.get("Config") or {}).get("Labels"))

    def images(self, labels: Mapping[str, str]) -> list[Image]:
        wanted = [f"{name}={value}" if value else name for name, value in labels.items()]
        return [
            _image(found, found.get("Labels"))
            for found in self._client.images(filters={"label": wanted})
        ]

    def build_image(
        self, context: Path, *, tag: str, build_args: Mapping[str, str], labels: Mapping[str, str]
    ) -> Iterator[str]:
        """Build the Dockerfile in `context`; yields the lines of its output.

        Raises:
            ImageBuildError: a step of the Dockerfile failed.
        """
        last_lines: deque[str] = deque(maxlen=_LOG_LINES)
        try:
            events = self._client.build(
                path=str(context),
                tag=tag,
                buildargs=dict(build_args),
                labels=dict(labels),
                rm=True,
                forcerm=True,
                decode=True,
                timeout=_BUILD_TIMEOUT,
            )
            for event in events:
                if "error" in event:
                    raise _failure(tag, event["error"], last_lines)
                for line in _COLOUR.sub("", event.get("stream", "")).splitlines():
                    if line.strip():
                        last_lines.append(line)
                        yield line
        except docker.errors.APIError as error:
            if error.is_server_error():
                raise
            # The Dockerfile was refused before its first step.
            raise _failure(tag, error.explanation or str(error), last_lines) from error

    def import_image(self, archive: Path, *, tag: str, labels: Mapping[str, str]) -> None:
        repository, _, version = tag.partition(":")
        self._client.import_image(
            src=str(archive),
            repository=repository,
            tag=version or "latest",
            changes=[f'LABEL "{name}"="{value}"' for name, value in labels.items()],
        )

    def remove_image(self, name: str) -> bool:
        return gone_after(lambda: self._client.remove_image(name))


def _image(found: Mapping[str, Any], labels: Mapping[str, str] | None) -> Image:
    return Image(
        id=found["Id"],
        tags=tuple(tag for tag in found.get("RepoTags") or () if tag != _UNTAGGED),
        labels=dict(labels or {}),
        size=found["Size"],
    )


def _failure(tag: str, reason: str, last_lines: deque[str]) -> ImageBuildError:
    log = "\n".join(last_lines)
    return ImageBuildError(
        f"the image {tag} could not be built: {reason.strip()}", details={"log": log}
    )
