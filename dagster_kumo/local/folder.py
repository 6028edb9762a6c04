"""The data folder, which holds everything that a stand-in keeps.

```
<data>/state.json      the last day of the data and the secret that signs urls; written once
<data>/models/         fitted weights
<data>/jobs/<kind>/    one JSON file for each job
<data>/files/<job id>/ prediction files, served by presigned urls
<data>/exports/        what exports wrote: warehouses.duckdb, s3/<bucket>/..., gcs/..., adls/...
<data>/port.json       the port of the newest server, which the next one takes again
<data>/server.json     where the server of this folder answers, while there is one
<data>/server.log      what a server started by `LocalKumo.shared` printed
```
"""

from __future__ import annotations

import json
import os
import secrets
import uuid
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

from filelock import FileLock

# The key of every stand-in, in the shape of Kumo's: `<customer>:<secret>`.
API_KEY = "local-kumo:not-a-secret"


def write_json(path: Path, value: object) -> None:
    """Write `value` atomically: a reader sees either the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    part.write_text(json.dumps(value, indent=1))
    part.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file, or None if there is no such file."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return cast("dict[str, Any]", value)


class DataFolder:
    """A data folder, and the facts that are fixed when it is first used."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().resolve()
        self.path.mkdir(parents=True, exist_ok=True)
        self.models = self.path / "models"
        self.jobs = self.path / "jobs"
        self.files = self.path / "files"
        self.exports = self.path / "exports"
        state = self._state()
        self.last_day = date.fromisoformat(state["last_day"])
        self.secret = bytes.fromhex(state["secret"])
        self.created_at = datetime.fromisoformat(state["created_at"])

    @property
    def port(self) -> int:
        """The port of the newest server; 0 before there was one."""
        return (read_json(self.path / "port.json") or {}).get("port", 0)

    @port.setter
    def port(self, port: int) -> None:
        write_json(self.path / "port.json", {"port": port})

    def _state(self) -> dict[str, Any]:
        path = self.path / "state.json"
        if not path.exists():
            with FileLock(self.path / "state.lock"):  # several processes may open a new folder
                if not path.exists():
                    now = datetime.now(timezone.utc)
                    state = {
                        "last_day": (now.date() - timedelta(days=1)).isoformat(),
                        "secret": secrets.token_hex(32),
                        "created_at": now.isoformat(),
                    }
                    write_json(path, state)
        return json.loads(path.read_text())
