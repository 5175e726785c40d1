"""What all suites of a run share: the engine, a store of its own, sandboxes, ways to wait."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sandbox import Sandbox, Settings
from sandbox.builds.builder import Builder
from sandbox.deploy.deployer import Deployer
from sandbox.engine.delivery import HostMounts
from sandbox.store.bundles import BundleStore
from sandbox.store.owners import LABEL_STORE, Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.series import Results
    from sandbox.deploy.deployer import Deployment
    from sandbox.engine.docker.engine import DockerEngine

FUNCTIONS: Final = Path(__file__).parent / "functions"
INPUT: Final[dict[str, Any]] = {"name": "World"}
REQUEST: Final = json.dumps({"request_id": "bench", "function": "bench", "input": INPUT})
# Longer than the time limit of one engine call, after which a hanging call is given up.
_PATIENCE: Final = 60.0
# Seconds between two checks.
_LOOK: Final = 0.01
_CALM: Final = 0.2


@dataclass
class Context:
    """One run. `rounds` is the number of latency rounds; `quick` shortens all suites.

    `runtimes` and `interfaces` select the functions whose latency is measured.
    """

    engine: DockerEngine
    store: Path
    results: Results
    rounds: int
    quick: bool
    runtimes: tuple[str, ...]
    interfaces: tuple[str, ...]
    _owner: Owner = field(init=False)

    def __post_init__(self) -> None:
        self._owner = Owner(self.store)

    def close(self) -> None:
        """Give up the claim on containers."""
        self._owner.close()

    def settings(self, **values: Any) -> Settings:
        """Settings that differ from the defaults by `values`."""
        return Settings.model_validate({"store": self.store, **values})

    @contextlib.contextmanager
    def sandbox(
        self, functions: Path = FUNCTIONS, *, warm: bool = True, **values: Any
    ) -> Iterator[Sandbox]:
        """A sandbox with these settings; when it is left, all its containers are gone."""
        with Sandbox(
            functions, settings=self.settings(**values), engine=self.engine, warm=warm
        ) as sandbox:
            yield sandbox

    def deployment(self, sandbox: Sandbox, name: str) -> Deployment:
        """The deployment that the sandbox would run, for running it in other ways."""
        store = BundleStore(self.store)
        delivery = HostMounts()
        builder = Builder(
            self.engine, sandbox.settings, store=store, owner=self._owner, delivery=delivery
        )
        deployer = Deployer(
            self.engine,
            sandbox.settings,
            store=store,
            builder=builder,
            delivery=delivery,
        )
        with contextlib.closing(builder):
            return deployer.deploy_anew(sandbox.functions[name])

    def containers(self) -> int:
        """How many containers of this run the engine holds."""
        return len(self.engine.containers({LABEL_STORE: self._owner.store_id}))

    def settle(self, *sandboxes: Sandbox, others: int = 0) -> None:
        """Wait until no container boots or is being removed.

        `others` is the number of containers that other processes keep.
        """

        def settled() -> bool:
            states = [state for item in sandboxes for state in item.pool_states().values()]
            if any(state["booting"] or state["busy"] for state in states):
                return False
            return self.containers() == others + sum(count(state["ready"]) for state in states)

        wait_for(settled)
        # Other processes' containers may still boot; their state is unknown here.
        time.sleep(_CALM if others else 0.0)

    def log(self, text: str) -> None:
        """Report progress."""
        click.echo(text, err=True)


@contextlib.contextmanager
def copies(**sources: str) -> Iterator[Path]:
    """A directory with copies of the benchmarks' functions: `new_name="original"`."""
    with tempfile.TemporaryDirectory() as directory:
        for name, source in sources.items():
            shutil.copytree(FUNCTIONS / source, Path(directory, name))
        yield Path(directory)


def call(sandbox: Sandbox, name: str) -> None:
    """Invoke, and check that it succeeded."""
    response = sandbox.invoke(name, INPUT)
    assert response.success, response.error


def ready(sandbox: Sandbox, name: str) -> int:
    """How many containers wait for a request."""
    return count(sandbox.pool_states().get(name, {}).get("ready", 0))


def count(value: object) -> int:
    """A count in a pool's state, which holds values of several kinds."""
    assert isinstance(value, int)
    return value


def wait_for(condition: Callable[[], bool]) -> None:
    """Raises TimeoutError if it does not come true."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not come")
        time.sleep(_LOOK)


def timed(action: Callable[[], object]) -> float:
    """How long it takes, in milliseconds."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000
