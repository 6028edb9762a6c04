"""What looks at Kumo now and then: for jobs that were launched elsewhere, and for runs that wait in the queue."""

import dagster as dg

from dagster_kumo import build_kumo_hold_sensor, build_kumo_sensor
from example_project.defs import models


@dg.definitions
def sensors() -> dg.Definitions:
    # Predictions that somebody launched in Kumo's own UI, or from a notebook: each is delivered to its day.
    # Switched on under "Automation".
    kumo_outside_jobs_sensor = build_kumo_sensor(
        [*models.purchase, *models.spend], name="kumo_outside_jobs_sensor", deliver=True
    )
    return dg.Definitions(sensors=[kumo_outside_jobs_sensor, build_kumo_hold_sensor()])
