"""The files of an output that Kumo stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoNotFoundError
from dagster_kumo.predictions.remote.output_urls import OutputUrls

if TYPE_CHECKING:
    from dagster_kumo.predictions.predictions import Predictions, Provenance


def read_files(
    client: KumoClient,
    urls: Callable[[], Sequence[str]],
    *,
    what: str,
    provenance: Provenance | None = None,
) -> Predictions:
    """The files behind urls, which are requested again when they expire.

    Raises:
        KumoDataError: There are no files, or they cannot be read from here.
    """
    from dagster_kumo.predictions.predictions import Predictions
    from dagster_kumo.predictions.remote.locations import files_at

    output_urls = OutputUrls(urls, what=what)
    return Predictions(files_at(output_urls, client.files, client.snowflake), provenance=provenance)


def embeddings_urls(client: KumoClient, job_id: str) -> list[str]:
    """The urls of a job's embeddings; none if Kumo keeps none, or is older than the call."""
    with suppress(KumoNotFoundError):
        return client.get_output_urls(job_id, "embeddings")
    return []
