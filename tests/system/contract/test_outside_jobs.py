"""A job that the SDK launches shows up in Dagster: once, on the partition that it predicted for."""

from __future__ import annotations

import datetime as dt
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import BatchPredictionJob, KumoClient, KumoResource, build_kumo_sensor
from dagster_kumo.local import LocalKumo
from tests.support import PURCHASE, day, purchase_assets
from tests.system.contract.sdk import Sdk


@pytest.mark.parametrize(
    "said_by",
    [
        "prediction table",
        pytest.param("launch", marks=pytest.mark.younger("prediction_time in a launch")),
    ],
)
def test_a_job_of_the_sdk_shows_up_once(
    said_by: str, sdk: Sdk, ours: KumoClient, both_ask: LocalKumo
) -> None:
    sensor = build_kumo_sensor([purchase_assets()], lookback=dt.timedelta(0))
    kumo = KumoResource(url=both_ask.url, api_key=both_ask.api_key)
    instance = dg.DagsterInstance.ephemeral()

    def tick(cursor: str | None) -> Any:
        return sensor.evaluate_tick(
            dg.build_sensor_context(instance=instance, cursor=cursor, resources={"kumo": kumo})
        )

    cursor = tick(None).cursor
    time = dt.datetime.fromisoformat(day(4)).replace(tzinfo=dt.timezone.utc)
    if said_by == "launch":
        when = {"prediction_time": time.isoformat()}
    else:
        plan = {"anchor_time": int(time.timestamp()) * 10**9}
        when = {"table_job_id": ours.create_prediction_table_job("pquery-cdnow-purchase", plan)}
    job_id = sdk("launch", {"output_types": ["predictions"]}, training_job_id=PURCHASE, **when)
    BatchPredictionJob(job_id, ours).result(poll_interval=0.05)

    first = tick(cursor)
    (event,) = first.asset_events
    assert event.partition == day(5)
    assert event.metadata["dagster-kumo/job_id"].value == job_id
    assert event.metadata["dagster-kumo/num_entities_predicted"].value == 23_570
    assert tick(first.cursor).asset_events == []
