"""Predictions that somebody launched in Kumo's own UI, or from a notebook: each is delivered to its day."""

import dagster as dg

from dagster_kumo import build_kumo_sensor
from example_project.defs import models


@dg.definitions
def sensors() -> dg.Definitions:
    # Switched on under "Automation".
    deliver_jobs_from_outside = build_kumo_sensor(
        [*models.purchase, *models.spend], name="deliver_jobs_from_outside", deliver=True
    )
    return dg.Definitions(sensors=[deliver_jobs_from_outside])
