"""The connectors of a project (3.0): which one a request means, and how a file is named to it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from urllib.parse import quote, urlsplit

from dagster_kumo.api.connectors import SCHEMA_SEPARATOR
from dagster_kumo.api.errors import KumoError
from dagster_kumo.api.records import Record

_PART = "{PARTITION}"  # Kumo's own placeholder in a path; see `connectors`
_STORAGES = {"s3": "S3", "gs": "GCS", "gcs": "GCS", "abfss": "ADLS", "abfs": "ADLS"}
_SCHEMES = {"S3": "s3", "GCS": "gs", "ADLS": "abfss"}
_PLAIN_IN_URLS = "/-._~!$&'()*+,;=:@"
_NOT_IN_PATHS = re.compile(r"[?#\\]|%[\da-fA-F]{2}")


def storage_of(url: str) -> str | None:
    """The storage of a file, as the API calls it; None if it is not in a bucket."""
    return _STORAGES.get(urlsplit(url).scheme)


def same_name(one: str, other: str) -> bool:
    """Whether two names are equal, as the SDK of 3.0 compares them."""

    def plain(name: str) -> str:
        return unicodedata.normalize("NFKC", name.strip()).casefold()

    return plain(one) == plain(other)


class _Target(Record):
    """The folder of a bucket that a connector is limited to. It has a limit in the mode `rooted` only."""

    mode: str = ""
    bucket: str = ""
    storage_account: str = ""
    filesystem: str = ""
    endpoint_suffix: str = "dfs.core.windows.net"
    prefix: str = ""


class _Config(Record):
    type: str = ""
    target: _Target = _Target()
    # Where the tables of a warehouse are; a bucket has none of these.
    database: str | None = None
    catalog: str | None = None
    project_id: str | None = None
    schema_name: str | None = None
    dataset_id: str | None = None


class ProjectConnector(Record):
    """A connector of a project (3.0)."""

    id: str
    name: str
    config: _Config = _Config()

    @property
    def storage(self) -> str:
        """The storage that it connects to, such as `SNOWFLAKE`."""
        return self.config.type.upper()

    @property
    def root(self) -> str | None:
        """The folder that it is limited to, as a url; None if it has no limit."""
        target = self.config.target
        if target.mode != "rooted":
            return None
        bucket = target.bucket
        if self.storage == "ADLS":
            bucket = f"{target.filesystem}@{target.storage_account}.{target.endpoint_suffix}"
        return f"{_SCHEMES.get(self.storage)}://{bucket}/{target.prefix}".rstrip("/")

    @property
    def described(self) -> str:
        return self.name if self.root is None else f"{self.name} ({self.root})"

    def full_name(self, table_name: str) -> str:
        """A table's name from the top of the warehouse: `database.schema.table`."""
        config = self.config
        top = config.database or config.catalog or config.project_id
        schema = config.schema_name or config.dataset_id
        name = table_name.replace(SCHEMA_SEPARATOR, ".", 1).split(".")
        # A name that brings its own schema replaces the connector's.
        above = [part for part in (top, schema) if part][: max(0, 3 - len(name))]
        return ".".join([*above, *name])

    def reaches(self, url: str) -> bool:
        """Whether it reaches a file."""
        return self.root is None or _canonical_scheme(url).startswith(f"{self.root}/")

    def place_of(self, url: str) -> str:
        """The name of a file in a request with this connector: a path below its root, or a full url.

        Raises:
            KumoError: It cannot be named.
        """
        url = _canonical_scheme(url)
        start, _, path = url.partition("://")
        bucket, _, path = path.partition("/")
        parts = path.removesuffix("/").split("/")
        if any(part in ("", ".", "..") for part in parts) or _NOT_IN_PATHS.search(path):
            raise KumoError(
                f"{url} cannot be named to the connector {self.name}: a path has no empty part, no part "
                "`.` or `..`, no `?`, `#` or backslash, and is not percent-encoded."
            )
        if self.root is not None:
            return url.removeprefix(f"{self.root}/")
        if _PART in path:
            raise KumoError(
                f"{_PART} in {url} needs a connector with a root, for the connector {self.name} takes "
                "full urls, which cannot hold it. Name another by connector_id, or leave it out."
            )
        return f"{start}://{bucket}/{quote(path, safe=_PLAIN_IN_URLS)}"


def find_connector(
    connectors: Sequence[ProjectConnector], storage: str, wanted: str | None, url: str | None
) -> ProjectConnector:
    """The connector to a storage, such as `SNOWFLAKE`, that a request means.

    It is the one with the `wanted` name or id, or the one with the longest root that covers `url`.

    Raises:
        KumoError: There is none, or more than one.
    """
    there = [one for one in connectors if one.storage == storage]
    if wanted is not None:
        asked = f"called {wanted!r}"
        found = [one for one in there if one.id == wanted]
        found = found or [one for one in there if same_name(one.name, wanted)]
    else:
        asked = f"that reaches {url}"
        found = [one for one in there if one.reaches(url or "")]
        longest = max((len(one.root or "") for one in found), default=0)
        found = [one for one in found if len(one.root or "") == longest]
    if not found:
        names = ", ".join(one.described for one in there) or "none"
        raise KumoError(
            f"The project has no connector to {storage} {asked}; there are: {names}.\n"
            "Make one in Kumo, or name another."
        )
    if len(found) > 1:
        ids = ", ".join(f"{one.name} ({one.id})" for one in found)
        raise KumoError(
            f"The project has more than one connector to {storage} {asked}: {ids}.\n"
            "Name one, for a bucket by connector_id."
        )
    if url is not None and not found[0].reaches(url):
        raise KumoError(f"The connector {found[0].described} does not reach {url}.")
    return found[0]


def _canonical_scheme(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    storage = _STORAGES.get(scheme)
    return f"{_SCHEMES[storage]}{mark}{rest}" if storage else url
