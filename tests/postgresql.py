"""A PostgreSQL of the tests' own: on a Unix socket in a temporary directory, no port, no password."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def _program(name: str) -> str:
    """Debian keeps the server's programs off the path. `scripts/test-tools` installs them."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")) or [shutil.which(name)]
    assert found[-1], f"{name} is missing: run scripts/test-tools"
    return str(found[-1])


class PostgreSQL:
    """A server that can be stopped and started; `url` makes an empty database."""

    def __init__(self, directory: Path, user: str) -> None:
        self._directory = directory
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def start(self) -> None:
        # No fsync: nothing here outlives the tests.
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=60"]
        self._process = subprocess.Popen(
            [_program("postgres"), "-D", "data", "-k", str(self._directory), *options],
            cwd=self._directory,
            user=self._user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, "PostgreSQL did not start"
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(3)  # SIGQUIT: at once
            self._process.wait()
            self._process = None

    def url(self) -> str:
        import psycopg

        self._databases += 1
        name = f"test{self._databases}"
        with psycopg.connect(self._connection("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://{self._user}@/{name}?host={self._directory}"

    def _connection(self, database: str) -> str:
        return f"host={self._directory} user={self._user} dbname={database}"

    def _answers(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self._connection("postgres")).close()
            return True
        return False


@contextlib.contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A server, which is gone with all its files afterwards. It refuses to run as root."""
    own = pwd.getpwuid(os.getuid())
    user = "postgres" if own.pw_uid == 0 else own.pw_name
    # Not in pytest's directory, which no other user may enter; short, for the socket's path.
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        shutil.chown(directory, user)
        subprocess.run(
            [_program("initdb"), "-D", "data", "-A", "trust", "--no-sync", "-E", "UTF8"],
            cwd=directory,
            user=user,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        server = PostgreSQL(directory, user)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)
