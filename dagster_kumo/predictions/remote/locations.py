"""Where the files of a live output can be, and which module reads them.

On SaaS, each address is a presigned url. In a customer's own cloud, it is a file or a directory in that cloud.
All other addresses are refused. Local paths above all: addresses come from a server, which must not make
this machine read its own files.
"""

from __future__ import annotations

from collections.abc import Sequence

from dagster_kumo.api.address import is_http_url
from dagster_kumo.api.errors import KumoDataError, without_query
from dagster_kumo.api.snowflake import SnowflakeAccount
from dagster_kumo.api.transport import Transport
from dagster_kumo.predictions.files import PartitionFile
from dagster_kumo.predictions.remote.bucket import open_bucket
from dagster_kumo.predictions.remote.databricks_volume import open_volume
from dagster_kumo.predictions.remote.download import RemoteFile
from dagster_kumo.predictions.remote.output_urls import OutputUrls
from dagster_kumo.predictions.remote.snowflake_stage import open_stage

_BUCKETS = ("s3://", "gs://", "abfss://")


def files_at(
    addresses: OutputUrls, transport: Transport, snowflake: SnowflakeAccount | None
) -> list[PartitionFile]:
    """The files at `addresses`, in the server's order. Those of a directory are in the order of their names.

    Raises:
        KumoDataError: An address cannot be read from here, or has no files.
    """
    files: list[PartitionFile] = []
    for index, address in enumerate(addresses.all()):
        if is_http_url(address):
            files.append(RemoteFile(addresses, index, transport))
        else:
            files += _files_in_cloud(address, addresses.what, snowflake)
    return files


def _files_in_cloud(
    address: str, what: str, snowflake: SnowflakeAccount | None
) -> Sequence[PartitionFile]:
    if address.startswith("@"):
        return open_stage(address, snowflake)
    if address.startswith("dbfs:"):
        return open_volume(address)
    if address.startswith(_BUCKETS):
        return open_bucket(address)
    raise KumoDataError(
        f"{what} is at {without_query(address).partition('?')[0]!r}, which cannot be read from here. "
        f"Supported are https://, @, dbfs:, {', '.join(_BUCKETS)}. Export it with a connector instead."
    )
