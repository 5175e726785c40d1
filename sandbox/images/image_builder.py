"""Builds the project's images that are not up to date, each after the images that it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from sandbox.engine.base import ImageBuildError
from sandbox.errors import RuntimeNotAvailableError
from sandbox.images import image_recipes as recipes
from sandbox.images.catalog import image_status, remove_untagged, up_to_date
from sandbox.images.image_recipes import IMAGE_NAMES, RECIPES, reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from sandbox.engine.base import Engine

_FIRST: Final = ("toolbox", "base")
_ARCHITECTURES: Final = ("x86_64", "amd64")
_PROXY_VARIABLES: Final = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_HOST_CA_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS, the BSDs
)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One event of a build.

    `text` is a line of output for `output`, else empty. `built` has `seconds` and `size` (bytes),
    and `current`, for an image that needs no build, has `size`.
    """

    image: str
    event: Literal["building", "output", "built", "current"]
    text: str = ""
    seconds: float = 0.0
    size: int = 0


def build(  # noqa: PLR0913
    engine: Engine,
    names: Sequence[str] = (),
    *,
    base: str | None = None,
    ca_bundle: Path | None = None,
    force: bool = False,
    environment: Mapping[str, str] = os.environ,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> None:
    """Build the images called `names`, or all, and the images they need, if they are not current.

    `base` is a Debian image to build from; without one, `mmdebstrap` makes it. `ca_bundle` (PEM)
    is trusted while building and never left in an image; without one, the host's is used. `force`
    also builds current images, with Debian's latest updates. `environment` names the proxies.
    Several threads call `on_progress`, one at a time.

    Raises:
        RuntimeNotAvailableError: no such image, or not for this machine's architecture.
        ImageBuildError: a step failed; `details.log` holds the end of its output.
    """
    for name in names:
        if name not in IMAGE_NAMES:
            raise RuntimeNotAvailableError(
                f"there is no image called {name}", hint=f"there are {', '.join(IMAGE_NAMES)}"
            )
    architecture = engine.info().architecture
    if architecture not in _ARCHITECTURES:
        raise RuntimeNotAvailableError(
            f"the images are for amd64, and this engine runs on {architecture}",
            hint="point DOCKER_HOST to an engine on an amd64 machine",
        )
    builder = _Builder(
        engine,
        ca_bundle=ca_bundle or host_ca_bundle(environment),
        proxies=_proxies(environment),
        on_progress=on_progress,
    )
    builder.build(names or IMAGE_NAMES, base=base, force=force)
    # Only now: after a failure, the next attempt begins with them.
    remove_untagged(engine)


class _Builder:
    def __init__(
        self,
        engine: Engine,
        *,
        ca_bundle: Path,
        proxies: dict[str, str],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._engine = engine
        self._ca_bundle = ca_bundle
        self._proxies = proxies
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._root = recipes.folder()

    def build(self, names: Sequence[str], *, base: str | None, force: bool) -> None:
        stale = {name for name in names if force or not self._current(name, base)}
        needed = {needed for name in stale for needed in RECIPES[name].needs}
        stale |= {name for name in needed if force or not self._current(name, base)}
        refresh = str(int(time.time())) if force else ""

        def take_turn(name: str) -> None:
            if name in stale:
                self._build(name, base=base, refresh=refresh)
            elif name in names:
                size = image_status(self._engine, name).size or 0
                self._tell(Progress(image=name, event="current", size=size))

        # First the images that most others need; then two at a time: one fetches while one
        # computes.
        for name in _FIRST:
            take_turn(name)
        turns: dict[str, Future[None]] = {}

        def take_turn_after(name: str) -> None:
            for needed in RECIPES[name].needs:
                if needed in turns:  # it was submitted before, so this wait ends
                    turns[needed].result()
            take_turn(name)

        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="image") as pool:
            for name in RECIPES:
                if name not in _FIRST:
                    turns[name] = pool.submit(take_turn_after, name)
        for turn in turns.values():
            turn.result()

    def _tell(self, progress: Progress) -> None:
        with self._lock:
            self._on_progress(progress)

    def _current(self, name: str, base: str | None) -> bool:
        image = self._engine.image(reference(name))
        return (
            image is not None
            and up_to_date(image, name)
            and base in (None, image.labels.get(recipes.LABEL_BASE))
        )

    def _build(self, name: str, *, base: str | None, refresh: str) -> None:
        started = time.monotonic()
        self._tell(Progress(image=name, event="building"))
        build_args = recipes.build_args(name, self._root)
        if name == "toolbox":
            base = base or self._debian(build_args["SUITE"])
            build_args |= {"BASE": base, "REFRESH": refresh}
        else:
            toolbox = self._engine.image(reference("toolbox"))
            base = toolbox.labels[recipes.LABEL_BASE] if toolbox else ""
        with tempfile.TemporaryDirectory(prefix="alyx-sandbox-") as directory:
            context = Path(directory)
            recipes.write_context(name, self._root, context, ca_bundle=self._ca_bundle)
            for line in self._engine.build_image(
                context,
                tag=reference(name),
                build_args=build_args | self._proxies,
                labels=recipes.labels(name, self._root, base=base),
            ):
                self._tell(Progress(image=name, event="output", text=line))
        seconds = time.monotonic() - started
        size = image_status(self._engine, name).size or 0
        self._tell(Progress(image=name, event="built", seconds=seconds, size=size))

    def _debian(self, suite: str) -> str:
        """The tag of a minimal Debian, made on this machine and kept for later builds."""
        tag = f"alyx-sandbox/debian:{suite}"
        if self._engine.image(tag) is not None:
            return tag
        hint = (
            "install mmdebstrap (it runs as root), or name a Debian image to build from: "
            f"sandbox images build --base debian:{suite}-slim"
        )
        if shutil.which("mmdebstrap") is None:
            raise ImageBuildError("there is no mmdebstrap to make a Debian with", hint=hint)
        with tempfile.TemporaryDirectory(prefix="alyx-sandbox-") as directory:
            archive = Path(directory) / "debian.tar"
            log = []
            try:
                for line in _output_of(["mmdebstrap", "--variant=apt", suite, str(archive)]):
                    log.append(line)
                    self._tell(Progress(image="toolbox", event="output", text=line))
            except subprocess.CalledProcessError as error:
                raise ImageBuildError(
                    "mmdebstrap failed", hint=hint, details={"log": "\n".join(log[-40:])}
                ) from error
            self._engine.import_image(
                archive,
                tag=tag,
                labels={recipes.LABEL_IMAGE: "debian", recipes.LABEL_VERSION: suite},
            )
        return tag


def host_ca_bundle(environment: Mapping[str, str]) -> Path:
    """The CA certificates (PEM) that this machine trusts. Raises ImageBuildError without any."""
    for candidate in (environment.get("SSL_CERT_FILE"), *_HOST_CA_BUNDLES):
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    raise ImageBuildError(
        "no CA certificates were found on this machine",
        hint="install ca-certificates, or set `images.ca_bundle` in the settings",
    )


def _proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Build arguments for proxies. Docker does not keep them in the image's history."""
    names = (*_PROXY_VARIABLES, *(name.upper() for name in _PROXY_VARIABLES))
    return {name: environment[name] for name in names if environment.get(name)}


def _output_of(command: list[str]) -> Iterator[str]:
    """The lines of a command's output. Raises CalledProcessError at the end if it failed."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        for line in process.stdout:
            yield line.rstrip("\n")
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
