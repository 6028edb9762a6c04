"""Which data counts as a partition's, on a server that does not know `prediction_time`.

It predicts for the latest time in its data, and nothing but the data says for when.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import (
    BatchPrediction,
    KumoIOManager,
    KumoResource,
    build_kumo_assets_definitions,
    kumo_assets,
)
from tests.components.sandbox import batch_prediction, project
from tests.support import error_of
from tests.system.other_server import OtherServer

KEY = "2025-12-31"
START, END = "2025-12-31T00:00:00+00:00", "2026-01-01T00:00:00+00:00"
DAYS: dict[str, Any] = {"start_date": "2025-01-01", "end_date": "2027-01-01"}
HOURS: dict[str, Any] = {"start_date": "2025-01-01-00:00", "end_date": "2027-01-01-00:00"}


@pytest.fixture
def server() -> Iterator[OtherServer]:
    with OtherServer() as server:
        yield server


def predict(
    server: OtherServer,
    store: Path,
    *,
    data_for: datetime,
    key: str = KEY,
    partitions_def: dg.PartitionsDefinition | None = None,
    **options: Any,
) -> dg.ExecuteInProcessResult:
    """Materialize a partition, for which the server has data of the time `data_for`."""
    server.only_time = data_for

    @kumo_assets(
        name="churn",
        prediction=BatchPrediction(training_job_id="trainingjob-1", **options),
        partitions_def=partitions_def or dg.DailyPartitionsDefinition(**DAYS),
    )
    def churn(context: dg.AssetExecutionContext, kumo: KumoResource):
        yield from kumo.predict(context)

    kumo = KumoResource(url=server.url, api_key=server.api_key)
    return dg.materialize(
        [churn],
        resources={"kumo": kumo, "kumo_io_manager": KumoIOManager(base_path=str(store))},
        partition_key=key,
        raise_on_error=False,
    )


def at(anchor: str, **offset: float) -> datetime:
    return datetime.fromisoformat(anchor) + timedelta(**offset)


def check_refused(run: dg.ExecuteInProcessResult, store: Path) -> None:
    found_class, message = error_of(run)
    assert found_class == "KumoDataError"
    assert "but its data is for" in message
    assert not list(store.rglob("*.parquet"))


@pytest.mark.parametrize("later", [{"seconds": 2}, {"hours": 14}, {"hours": 24}], ids=str)
@pytest.mark.parametrize(("anchor", "time"), [("end", END), ("start", START)])
def test_data_for_a_time_after_the_anchor_knows_the_future_and_is_refused(
    anchor: str, time: str, later: dict[str, float], server: OtherServer, tmp_path: Path
) -> None:
    run = predict(server, tmp_path, data_for=at(time, **later), anchor=anchor)

    check_refused(run, tmp_path)


@pytest.mark.parametrize("offset", [{"hours": -24}, {"hours": -10}, {}, {"seconds": 1}], ids=str)
@pytest.mark.parametrize(("anchor", "time"), [("end", END), ("start", START)])
def test_data_for_a_time_up_to_a_window_before_the_anchor_is_the_partitions(
    anchor: str, time: str, offset: dict[str, float], server: OtherServer, tmp_path: Path
) -> None:
    assert predict(server, tmp_path, data_for=at(time, **offset), anchor=anchor).success


@pytest.mark.parametrize(("anchor", "time"), [("end", END), ("start", START)])
def test_data_for_a_time_more_than_a_window_before_the_anchor_is_refused(
    anchor: str, time: str, server: OtherServer, tmp_path: Path
) -> None:
    run = predict(server, tmp_path, data_for=at(time, hours=-24, seconds=-1), anchor=anchor)

    check_refused(run, tmp_path)


BERLIN: dict[str, Any] = {"timezone": "Europe/Berlin"}
BY_DAY = dg.DailyPartitionsDefinition(**DAYS, **BERLIN)
BY_HOUR = dg.HourlyPartitionsDefinition(**HOURS, **BERLIN)
# Partition, the end of its window, how many hours it really lasts.
CLOCK_CHANGES: list[tuple[dg.PartitionsDefinition, str, str, float]] = [
    (BY_DAY, "2025-10-26", "2025-10-26T23:00:00+00:00", 25),
    (BY_DAY, "2026-03-29", "2026-03-29T22:00:00+00:00", 23),
    (BY_HOUR, "2026-03-29-01:00", "2026-03-29T01:00:00+00:00", 1),
    (BY_HOUR, "2026-10-25-02:00", "2026-10-25T01:00:00+00:00", 1),
]


@pytest.mark.parametrize(("partitions_def", "key", "end", "hours"), CLOCK_CHANGES)
def test_a_window_in_which_the_clocks_change_is_as_long_as_it_really_is(
    partitions_def: dg.PartitionsDefinition,
    key: str,
    end: str,
    hours: float,
    server: OtherServer,
    tmp_path: Path,
) -> None:
    within, before = at(end, hours=-hours, minutes=5), at(end, hours=-hours, minutes=-5)
    given: dict[str, Any] = {"key": key, "partitions_def": partitions_def}

    check_refused(predict(server, tmp_path, data_for=before, **given), tmp_path)
    assert predict(server, tmp_path, data_for=within, **given).success


@pytest.mark.parametrize("fan_out", [False, True])
@pytest.mark.parametrize("written", ["Python", "YAML"])
def test_the_factory_and_yaml_take_the_same_data_with_and_without_fan_out(
    written: str, fan_out: bool, server: OtherServer, tmp_path: Path
) -> None:
    partitions_def, key, end, hours = CLOCK_CHANGES[0]
    given = {
        "kumo": KumoResource(url=server.url, api_key=server.api_key),
        "kumo_io_manager": KumoIOManager(base_path=str(tmp_path)),
    }

    def check(defs: dg.Definitions) -> None:
        job = defs.resolve_implicit_global_asset_job_def()
        for minutes, taken in {1: False, -hours * 60 - 5: False, -hours * 60 + 5: True}.items():
            server.only_time = at(end, minutes=minutes)
            run = job.execute_in_process(partition_key=key, raise_on_error=False)
            assert run.success is taken
            # A fan-out leaves files for another attempt. They are not in force without a manifest.
            assert bool(list(tmp_path.rglob("manifest.json"))) is taken
            if not taken:
                found_class, message = error_of(run)
                assert found_class == "KumoDataError"
                assert "but its data is for" in message

    if written == "Python":
        made = build_kumo_assets_definitions(
            name="churn",
            prediction=BatchPrediction(training_job_id="trainingjob-1"),
            partitions_def=partitions_def,
            fan_out=fan_out,
        )
        check(dg.Definitions(assets=made, resources=given))
    else:
        yaml = f"""
        fan_out: {str(fan_out).lower()}
        partitions_def: {{type: daily, start_date: 2025-01-01, timezone: Europe/Berlin}}
        """
        with project(batch_prediction(yaml), resources=given) as (_, defs, _):
            check(defs)
