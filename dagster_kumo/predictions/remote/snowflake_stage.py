"""Files on a Snowflake stage, such as `@db.schema.stage/path`, where SPCS deployments keep outputs.

The connector lists and fetches them, and decrypts them if the stage encrypts for its clients. Names come from
a server and are used in SQL, so names that could break out of a quoted string are refused.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dagster_kumo.api.errors import KumoConnectionError, KumoDataError, KumoError
from dagster_kumo.api.snowflake import SnowflakeAccount
from dagster_kumo.predictions.files import FetchedFile, data_files
from dagster_kumo.predictions.streams import Lane

if TYPE_CHECKING:
    from snowflake.connector.cursor import SnowflakeCursor

_NAME = r"""(?:[A-Za-z_][\w$]*|"[^"'\\\x00-\x1f]+")"""
_ADDRESS = re.compile(rf"""(@{_NAME}(?:\.{_NAME}){{0,2}})(?:/([^'\\\x00-\x1f\x7f]*))?""", re.ASCII)
# For a file that is encrypted for its clients, LIST states the size in whole AES blocks.
_PADDING = 16
_NO_SUCH_FILE = 253_006  # the connector's own error


def open_stage(address: str, snowflake: SnowflakeAccount | None) -> list[FetchedFile]:
    """The Parquet files at an address on a stage.

    Raises:
        KumoError: There are no Snowflake credentials.
        KumoDataError: It is not such an address, or there are no Parquet files.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or _leads_up(match[2] or ""):
        raise KumoDataError(f"{address!r} is not a path on a Snowflake stage.")
    if snowflake is None:
        raise KumoError(
            f"The files lie on a Snowflake stage, at {address}, and there are no credentials for "
            "Snowflake. Give them: KumoResource(snowflake=...), instead of the API key."
        )
    stage, path = match[1], (match[2] or "").strip("/")
    listed: dict[str, int] = {}
    with _statements(snowflake, address) as cursor:
        for name, size, *_ in cursor.execute(f"LIST '{stage}/{path}'").fetchall():  # pyright: ignore[reportOptionalMemberAccess]
            listed[_in_stage(str(name), address)] = int(str(size))
    return [
        FetchedFile(
            path=f"{stage}/{inside}",
            size=listed[inside],
            fetch=partial(_get, snowflake, f"{stage}/{inside}"),
            padding=_PADDING,
        )
        for inside in data_files(listed, at=path, address=address)
    ]


def _get(snowflake: SnowflakeAccount, address: str, to: Path, _: Lane) -> None:
    """Fetch one file. The connector cannot stop a transfer."""
    # GET writes into a folder, under the file's own name, and also fetches every file whose name
    # begins with it. So it gets an empty folder beside `to`, on the same disk.
    with tempfile.TemporaryDirectory(prefix="get-", dir=to.parent) as folder:
        into = Path(folder).as_posix().replace("'", "\\'")
        with _statements(snowflake, address) as cursor:
            cursor.execute(f"GET '{address}' 'file://{into}/'")
        got = Path(folder) / address.rpartition("/")[2]
        if not got.is_file():
            raise KumoDataError(f"{address} is not on the stage any more.")
        got.replace(to)


@contextmanager
def _statements(
    snowflake: SnowflakeAccount, address: str
) -> Generator[SnowflakeCursor, None, None]:
    with snowflake.cursor() as cursor:
        from snowflake.connector.errors import Error, ProgrammingError

        try:
            yield cursor
        except Error as error:
            if isinstance(error, ProgrammingError) or error.errno == _NO_SUCH_FILE:
                raise KumoDataError(
                    f"Snowflake does not give {address}: {error.msg}\n"
                    "Is it still there, and may the user's default role read the stage?"
                ) from None
            raise KumoConnectionError(f"{address} could not be read: {error.msg}") from None


def _in_stage(name: str, address: str) -> str:
    """The path of a file in the stage, from its name in LIST, which begins with the stage's name."""
    _, slash, inside = name.partition("/")
    plain = _ADDRESS.fullmatch(f"@stage/{inside}") is not None and not _leads_up(inside)
    if "://" in name or not slash or not plain:
        raise KumoDataError(
            f"Snowflake lists {name!r} at {address}, which is not a name on an internal stage."
        )
    return inside


def _leads_up(path: str) -> bool:
    return any(part in (".", "..") for part in path.split("/"))
