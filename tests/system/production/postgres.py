"""A PostgreSQL server of the tests' own, for a while."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DEBIAN = Path("/usr/lib/postgresql")


@contextmanager
def postgres() -> Iterator[str]:
    """A server with an empty database: its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        user = None
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = "postgres" if _exists("postgres") else "nobody"
            for path in (data.parent, data):
                shutil.chown(path, user)
        options = f"-h 127.0.0.1 -p {port} -k '' -c fsync=off -c max_connections=300"
        _run(user, "initdb", "-D", data, "-U", "dagster", "-A", "trust", "-E", "UTF8")
        _run(user, "pg_ctl", "-D", data, "-w", "-l", data / "log", "-o", options, "start")
        try:
            yield f"postgresql+psycopg2://dagster@127.0.0.1:{port}/postgres"
        finally:
            _run(user, "pg_ctl", "-D", data, "-m", "immediate", "stop")


def _exists(user: str) -> bool:
    return any(entry.pw_name == user for entry in pwd.getpwall())


def _run(user: str | None, program: str, *arguments: object) -> None:
    command = [str(_program(program)), *map(str, arguments)]
    done = subprocess.run(
        command, cwd="/", user=user, group=user, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _program(name: str) -> Path:
    found = [*sorted(_DEBIAN.glob(f"*/bin/{name}")), shutil.which(name)]
    for path in reversed([Path(one) for one in found if one]):
        return path
    raise AssertionError(f"{name} is not there: install PostgreSQL (make test-production does)")
