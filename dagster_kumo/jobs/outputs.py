"""The files of an output that is still with Kumo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dagster_kumo.api.client import KumoClient
from dagster_kumo.predictions.addresses import Addresses

if TYPE_CHECKING:
    from dagster_kumo.predictions.predictions import Predictions, Provenance


def read_files(
    client: KumoClient,
    urls: Callable[[], Sequence[str]],
    *,
    what: str,
    provenance: Provenance | None = None,
) -> Predictions:
    """Files by their addresses, which are asked for again when they expire.

    Raises:
        KumoDataError: there are no files, or they are not where they can be read from here.
    """
    from dagster_kumo.predictions.places import files_at
    from dagster_kumo.predictions.predictions import Predictions

    addresses = Addresses(urls, what=what)
    return Predictions(files_at(addresses, client.files, client.snowflake), provenance=provenance)
