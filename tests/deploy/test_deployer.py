"""What a function is deployed with: the operator's image, and what an earlier process found out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox import RuntimeNotAvailableError
from sandbox.testing import FakeEngine

if TYPE_CHECKING:
    from sandbox.engine.base import ContainerSpec
    from sandbox.testing import FakeContainer
    from tests.fakes import Directory


class Watched(FakeEngine):
    """Notes the image of each container."""

    def __init__(self) -> None:
        super().__init__()
        self.images_used: list[str] = []

    def create(self, spec: ContainerSpec) -> FakeContainer:
        self.images_used.append(spec.image)
        return super().create(spec)


def test_the_operator_s_own_image_is_used_and_has_to_be_there(directory: Directory) -> None:
    directory.write("f")
    engine = Watched()
    settings = {"images": {"override": {"python": "mine:1"}}}
    with directory.sandbox(engine, **settings) as sandbox:
        with pytest.raises(RuntimeNotAvailableError, match="has no image mine:1") as missing:
            sandbox.build("f")
        assert "images.override" in (missing.value.hint or "")
        engine.import_image(directory.path, tag="mine:1", labels={})
        assert sandbox.invoke("f").success
    image = engine.image("mine:1")
    assert image is not None
    assert engine.images_used == [image.id]


def test_an_image_that_is_moved_changes_nothing_until_a_reload(directory: Directory) -> None:
    directory.write("f")
    engine = FakeEngine()
    engine.import_image(directory.path, tag="mine:1", labels={})
    settings = {"images": {"override": {"python": "mine:1"}}}
    with directory.sandbox(engine, **settings) as sandbox:
        assert sandbox.invoke("f").success
        engine.import_image(directory.path, tag="mine:1", labels={})
        with pytest.raises(RuntimeNotAvailableError):  # the one by the old id is gone
            sandbox.invoke("f")
        sandbox.reload()
        assert sandbox.invoke("f").success


def test_a_function_that_was_removed_and_comes_back_is_deployed_anew(directory: Directory) -> None:
    directory.write("f")
    with directory.sandbox(FakeEngine()) as sandbox:
        first = sandbox.invoke("f").stats
        (directory.path / "f/index.py").rename(directory.path / "kept.txt")
        sandbox.reload()
        assert "f" not in sandbox.functions
        directory.write("f", files={"more.py": ""})
        sandbox.reload()
        second = sandbox.invoke("f").stats
    assert first is not None
    assert second is not None
    assert first.version != second.version
