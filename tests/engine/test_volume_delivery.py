"""Files in volumes of an engine elsewhere: filled once, kept while they are used, then removed."""

from __future__ import annotations

import contextlib
import gc
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import EngineUnavailableError, PolicyRefusedError
from sandbox.engine.base import VolumeMount
from sandbox.engine.delivery import delivery_of
from sandbox.engine.volume_delivery import LABEL_CONTENT
from sandbox.store.bundles import BundleStore
from sandbox.store.owners import LABEL_OWNER, LABEL_STORE, Owner, store_id
from sandbox.testing import FakeEngine
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sandbox.engine.base import ContainerSpec
    from tests.fakes import Directory


class Elsewhere(FakeEngine):
    """An engine on another machine, which remembers what was mounted and which volumes it filled."""

    def __init__(self) -> None:
        super().__init__(local=False)
        self.specs: list[ContainerSpec] = []
        self.filled: dict[str, set[str]] = {}
        self.broken = False

    def create(self, spec: ContainerSpec) -> Any:
        self.specs.append(spec)
        return super().create(spec)

    def fill_volume(
        self, name: str, archive: Path, *, image: str, labels: Mapping[str, str]
    ) -> None:
        if self.broken:
            raise OSError("no space left on device")
        with tarfile.open(archive) as opened:
            self.filled[name] = {member.name for member in opened if member.isfile()}
        super().fill_volume(name, archive, image=image, labels=labels)


@pytest.fixture
def engine() -> Elsewhere:
    return Elsewhere()


def test_all_that_is_mounted_is_in_a_volume(directory: Directory, engine: Elsewhere) -> None:
    directory.write("f", files={"more.py": "more"})
    with directory.sandbox(engine) as sandbox:
        assert sandbox.invoke("f").success
    (spec,) = engine.specs
    assert spec.mounts
    assert all(isinstance(mount, VolumeMount) for mount in spec.mounts)
    bundle = next(mount for mount in spec.mounts if mount.target == "/function")
    assert isinstance(bundle, VolumeMount)
    assert {path.removeprefix("./") for path in engine.filled[bundle.volume]} == {
        "index.py",
        "more.py",
    }


def test_a_volume_is_filled_once_whoever_starts_at_the_same_time(
    directory: Directory, engine: Elsewhere
) -> None:
    directory.write("f")
    barrier = threading.Barrier(3)

    def start(_: int) -> bool:
        with directory.sandbox(engine) as sandbox:
            barrier.wait()
            success = sandbox.invoke("f").success
            barrier.wait()
            sandbox.close()
            barrier.wait()
            return success

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(start, range(3)))
    assert len(engine.filled) == len(engine.volumes({})) == 2  # the bundle, and /etc/hosts


def test_one_that_the_engine_lost_or_made_anew_is_filled_again(
    directory: Directory, engine: Elsewhere
) -> None:
    directory.write("f")
    with directory.sandbox(engine) as sandbox:
        sandbox.invoke("f")
    lost, made_anew = engine.volumes({})
    for volume in (lost, made_anew):
        assert engine.remove_volume(volume.name)
    engine.create_volume(made_anew.name, labels={})  # as an engine does when it is mounted
    with directory.sandbox(engine) as sandbox:
        assert sandbox.invoke("f").success
    assert len(engine.filled) == 4


def test_one_that_cannot_be_filled_is_removed(directory: Directory, engine: Elsewhere) -> None:
    directory.write("f")
    engine.broken = True
    with directory.sandbox(engine) as sandbox:
        with pytest.raises(EngineUnavailableError, match="no space left"):
            sandbox.invoke("f")
        assert engine.volumes({}) == []
        engine.broken = False
        assert sandbox.invoke("f").success


def test_volumes_go_with_their_bundles_and_never_while_they_are_used(
    directory: Directory, engine: Elsewhere
) -> None:
    directory.write("f")
    store = directory.store
    bundles = BundleStore(store)
    settings = directory.settings()
    with contextlib.closing(Owner(store)) as owner:
        delivery = delivery_of(engine, settings.engine, bundles=bundles, store=store, owner=owner)
        dead = owner.labels("x") | {LABEL_OWNER: "dead"}
        abandoned = engine.create_volume("abandoned", labels=dead)
        filling = engine.create_volume("filling", labels=owner.labels("x"))
        foreign = engine.create_volume("foreign", labels={LABEL_STORE: "another"})
        with directory.sandbox(engine) as sandbox:
            assert sandbox.invoke("f").success
            bundles.prune(older_than=0.0)
            delivery.prune()
            # The sandbox's own reaper may have been faster.
            wait_until(lambda: engine.volume(abandoned.name) is None)
            assert sandbox.invoke("f").success
        del sandbox  # with its leases
        gc.collect()
        mine = {LABEL_STORE: store_id(store), LABEL_CONTENT: ""}
        assert len(engine.volumes(mine)) == 2
        bundles.prune(older_than=0.0)
        delivery.prune()
        assert engine.volumes({}) == [filling, foreign]


def test_what_leads_out_is_refused_with_a_hint(directory: Directory, engine: Elsewhere) -> None:
    directory.write("f")
    directory.write("asks", 'network: ["example.org:443"]\n')
    with directory.sandbox(engine, network={"allow": ["example.org:443"]}) as sandbox:
        with pytest.raises(PolicyRefusedError, match="the engine is on another machine") as refused:
            sandbox.invoke("asks")
        assert "run the server beside the engine" in (refused.value.hint or "")
        assert sandbox.invoke("f").success
    with directory.sandbox(engine, alyx_url="http://alyx.example.org:8090") as sandbox:
        with pytest.raises(PolicyRefusedError, match="alyx_url"):
            sandbox.invoke("f")


def test_builds_get_no_way_out_either(directory: Directory, engine: Elsewhere) -> None:
    directory.write("f", files={"requirements.txt": "six"})
    registries = {"pip": "https://pip.example/simple"}
    with directory.sandbox(engine, build={"registries": registries}) as sandbox:
        with pytest.raises(PolicyRefusedError, match="the engine is on another") as refused:
            sandbox.build("f")
        assert "build.network" in (refused.value.hint or "")


def test_an_engine_here_can_be_told_to_take_volumes_and_the_other_way_round(
    directory: Directory,
) -> None:
    directory.write("f")
    for local, delivery, volumes in ((True, "volume", 2), (False, "mount", 0), (True, "auto", 0)):
        engine = FakeEngine(local=local)
        with directory.sandbox(engine, engine={"delivery": delivery}) as sandbox:
            assert sandbox.invoke("f").success
        assert len(engine.volumes({})) == volumes
