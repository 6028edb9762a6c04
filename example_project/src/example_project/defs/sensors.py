"""Predictions that somebody launched in Kumo's own UI, or from a notebook: each is fetched into its day."""

import dagster as dg

from dagster_kumo import build_kumo_sensor
from example_project.defs import models


@dg.definitions
def sensors() -> dg.Definitions:
    # Switched on under "Automation".
    fetch_jobs_from_outside = build_kumo_sensor(
        [*models.purchase, *models.spend], name="fetch_jobs_from_outside", fetch=True
    )
    return dg.Definitions(sensors=[fetch_jobs_from_outside])
