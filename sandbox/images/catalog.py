"""Lists, requires and removes the project's images in an engine.

An image has the digest of its inputs as a label. It is up to date if this version of the project
has the same digest, so finding out needs no build.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sandbox.errors import RuntimeNotAvailableError
from sandbox.images import image_recipes as recipes
from sandbox.images.image_recipes import IMAGE_NAMES, reference

if TYPE_CHECKING:
    from sandbox.engine.base import Engine, Image

State = Literal["ready", "stale", "missing"]


@dataclass(frozen=True, kw_only=True)
class ImageStatus:
    """An image in the engine. `size` is in bytes; None and "" if it is missing."""

    name: str
    reference: str
    state: State
    version: str = ""
    size: int | None = None


def expected_inputs(name: str) -> str:
    """The digest of the inputs of the image called `name`, if it is up to date."""
    return recipes.inputs_digest(name, recipes.folder())


def require(engine: Engine, name: str) -> Image:
    """The image called `name`, up to date.

    Raises:
        RuntimeNotAvailableError: it is missing or out of date; the hint says how to build it.
    """
    image = engine.image(reference(name))
    if image is not None and up_to_date(image, name):
        return image
    problem = "is not built yet" if image is None else "is out of date"
    raise RuntimeNotAvailableError(
        f"the image {reference(name)} {problem}", hint=f"sandbox images build {name}"
    )


def status(engine: Engine) -> list[ImageStatus]:
    """The status of each image, in the order of `IMAGE_NAMES`."""
    return [image_status(engine, name) for name in IMAGE_NAMES]


def remove(engine: Engine) -> list[str]:
    """Remove all images of this project that are not in use; returns the removed tags."""
    remove_untagged(engine)
    ours = engine.images({recipes.LABEL_IMAGE: ""})
    tags = [tag for image in ours for tag in image.tags]
    return sorted(tag for tag in tags if engine.remove_image(tag))


def remove_untagged(engine: Engine) -> None:
    """Remove images without a tag: stages of builds, and replaced images."""
    for image in engine.images({recipes.LABEL_IMAGE: ""}):
        if not image.tags:
            engine.remove_image(image.id)


def up_to_date(image: Image, name: str) -> bool:
    """Whether the image has the inputs that this version of the project has for that name."""
    return image.labels.get(recipes.LABEL_INPUTS) == expected_inputs(name)


def image_status(engine: Engine, name: str) -> ImageStatus:
    """The status of the image called `name`."""
    image = engine.image(reference(name))
    if image is None:
        return ImageStatus(name=name, reference=reference(name), state="missing")
    return ImageStatus(
        name=name,
        reference=reference(name),
        state="ready" if up_to_date(image, name) else "stale",
        version=image.labels.get(recipes.LABEL_VERSION, ""),
        size=image.size,
    )
