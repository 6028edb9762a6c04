"""Failures whose metadata have the links to the jobs' pages, which the Dagster UI makes clickable."""

from __future__ import annotations

import dagster as dg

from dagster_kumo.api import errors
from dagster_kumo.execution.metadata import TRACKING_URL_METADATA, links


# The name that the UI shows is the one that users know and catch.
class KumoJobFailedError(errors.KumoJobFailedError, dg.Failure):
    """The `KumoJobFailedError` of a run, as a `dg.Failure`."""

    def __init__(self, error: errors.KumoJobFailedError) -> None:
        super().__init__(
            str(error),
            job_id=error.job_id,
            status=error.status,
            detail=error.detail,
            tracking_url=error.tracking_url,
        )
        self.metadata = links({TRACKING_URL_METADATA: error.tracking_url})
