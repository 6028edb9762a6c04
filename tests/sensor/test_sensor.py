"""The sensor for jobs from outside Dagster: what it records, on which partition, and only once."""

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from dagster_kumo import (
    BatchPrediction,
    BatchPredictionJob,
    KumoAPIError,
    KumoAuthenticationError,
    KumoClient,
    KumoResource,
    build_kumo_assets_definitions,
    build_kumo_sensor,
)
from dagster_kumo.api.connectors import kept_by_kumo
from dagster_kumo.api.records import OUTPUT_TYPES, BatchPredictionRequest
from dagster_kumo.local import LocalKumo
from tests.support import (
    DAYS,
    EMBEDDINGS,
    PREDICTIONS,
    PURCHASE,
    day,
    error_of,
    metadata_of,
    purchase_assets,
    resources,
)

DELIVER_JOB = "dagster-kumo/deliver_job"
BOTH = [kept_by_kumo(output_type) for output_type in OUTPUT_TYPES]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """One for each test: what was recorded in another one must not count."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


class Watch:
    """A sensor, tick by tick as the daemon has it: what it records, and its cursor, are kept."""

    def __init__(
        self,
        kumo: LocalKumo,
        instance: dg.DagsterInstance,
        assets: list[Any] | None = None,
        **options: Any,
    ) -> None:
        self.kumo = kumo
        self.instance = instance
        self.assets = assets or [purchase_assets()]
        self.client = KumoClient(kumo.url, kumo.api_key)
        self.cursor: str | None = None
        # What other tests launched before is not looked at.
        options = {"lookback": dt.timedelta(0), **options}
        self.sensor = build_kumo_sensor(self.assets, **options)
        self.resource = KumoResource(url=kumo.url, api_key=kumo.api_key)
        self.definitions = dg.Definitions(
            assets=self.assets,
            sensors=[self.sensor],
            resources={"kumo": self.resource, "kumo_io_manager": dg.mem_io_manager},
        )
        self.tick()

    def launch(self, model: str = PURCHASE, *, wait: bool = True, **request: Any) -> str:
        """Launch a job as somebody does who knows nothing of Dagster."""
        job_id, _ = self.client.create_prediction_job(
            BatchPredictionRequest(model_training_job_id=model, **request)
        )
        if wait:
            BatchPredictionJob(job_id, self.client).result(poll_interval=0.02)
        return job_id

    def tick(self, *, keep_cursor: bool = True) -> Any:
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            resources={"kumo": self.resource},
            definitions=self.definitions,
        )
        result = self.sensor.evaluate_tick(context)
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        if keep_cursor:
            self.cursor = result.cursor
        return result

    def recorded(self, key: dg.AssetKey = PREDICTIONS) -> list[tuple[str | None, str]]:
        """The partitions of an asset that have been materialized, with the job of each, in turn."""
        records = self.instance.fetch_materializations(key, limit=100).records
        events = [record.asset_materialization for record in reversed(records)]
        return [(e.partition, e.metadata["dagster-kumo/job_id"].value) for e in events if e]


def at(days_ago: int, **more: Any) -> dt.datetime:
    """The start of a day of `DAYS`."""
    start = dt.datetime.fromisoformat(day(days_ago)).replace(tzinfo=dt.timezone.utc)
    return start + dt.timedelta(**more)


# What is recorded


def test_a_job_shows_up_once_on_its_partition(
    kumo: LocalKumo, instance: dg.DagsterInstance
) -> None:
    watch = Watch(kumo, instance)
    job_id = watch.launch(prediction_time=at(4))

    watch.tick()
    watch.tick()

    assert watch.recorded() == [(day(5), job_id)]
    (record,) = instance.fetch_materializations(PREDICTIONS, limit=10).records
    event = record.asset_materialization
    assert event is not None
    shown = {name: value.value for name, value in event.metadata.items()}
    seconds = shown.pop("dagster-kumo/duration_seconds")
    assert shown.pop("dagster-kumo/job_seconds") == seconds > 0
    assert shown == {
        "dagster-kumo/job_id": job_id,
        "dagster-kumo/tracking_url": f"{kumo.url.removesuffix('/api')}/jobs/{job_id}",
        "dagster-kumo/num_entities_predicted": 23_570,
        "dagster-kumo/training_job_id": PURCHASE,
        "dagster-kumo/prediction_time": at(4).timestamp(),
    }
    assert event.tags is not None
    assert event.tags["dagster/data_version"] == job_id


@pytest.mark.parametrize(("anchor", "partition"), [("end", day(6)), ("start", day(5))])
def test_the_partition_is_the_one_whose_anchor_time_it_is(
    anchor: Any, partition: str, kumo: LocalKumo, instance: dg.DagsterInstance
) -> None:
    prediction = BatchPrediction(training_job_id=PURCHASE, anchor=anchor)
    watch = Watch(kumo, instance, [purchase_assets(prediction=prediction)])
    job_id = watch.launch(prediction_time=at(5))
    watch.tick()
    assert watch.recorded() == [(partition, job_id)]


def test_days_that_end_elsewhere_in_the_world_are_found(
    kumo: LocalKumo, instance: dg.DagsterInstance
) -> None:
    days = dg.DailyPartitionsDefinition(start_date=day(60), timezone="Asia/Tokyo")
    watch = Watch(kumo, instance, [purchase_assets(partitions_def=days)])
    job_id = watch.launch(prediction_time=at(5, hours=15))
    watch.tick()
    assert watch.recorded() == [(day(5), job_id)]


def test_a_job_that_names_no_time_has_that_of_its_prediction_table(
    kumo: LocalKumo, instance: dg.DagsterInstance
) -> None:
    watch = Watch(kumo, instance)
    kumo.faults.ignore_prediction_time()
    nanoseconds = int(at(7).timestamp()) * 10**9
    table = watch.client.create_prediction_table_job(
        "pquery-cdnow-purchase", {"anchor_time": nanoseconds}
    )
    job_id = watch.launch(pred_table_job_id=table)
    watch.tick()
    assert watch.recorded() == [(day(8), job_id)]


def test_embeddings_are_recorded_only_where_the_job_has_them(
    kumo: LocalKumo, instance: dg.DagsterInstance
) -> None:
    watch = Watch(kumo, instance, [purchase_assets(outputs=("predictions", "embeddings"))])
    without = watch.launch(prediction_time=at(5))
    both = watch.launch(prediction_time=at(4), outputs=BOTH)
    kumo.faults.answer(404, path="get_embedding_df_urls")  # a server older than the call
    not_kept = watch.launch(prediction_time=at(3), outputs=BOTH)
    watch.tick()
    asked = [r.path for r in kumo.requests if "embedding" in r.path]
    assert len(asked) == 2  # the job without was not asked about
    assert watch.recorded() == [(day(6), without), (day(5), both), (day(4), not_kept)]
    assert len(watch.recorded(EMBEDDINGS)) == 1


def test_assets_without_partitions_take_every_job(
    kumo: LocalKumo, instance: dg.DagsterInstance
) -> None:
    watch = Watch(kumo, instance, [purchase_assets(partitions_def=None)])
    jobs = [watch.launch(), watch.launch(prediction_time=at(5, hours=3))]
    watch.tick()
    assert watch.recorded() == [(None, job_id) for job_id in jobs]


def test_a_model_is_known_by_its_tags_too(kumo: LocalKumo, instance: dg.DagsterInstance) -> None:
    by_tags = BatchPrediction(training_job_tags={"use_case": "purchase"})
    watch = Watch(kumo, instance, [purchase_assets(prediction=by_tags)])
    newest = watch.launch(prediction_time=at(5))
    older = watch.launch("trainingjob-cdnow-purchase-old", prediction_time=at(4))
    watch.launch("trainingjob-cdnow-spend", prediction_time=at(3))
    watch.tick()
    assert watch.recorded() == [(day(6), newest), (day(5), older)]


def test_the_list_that_the_factory_returns_can_be_given(
    kumo: LocalKumo, instance: dg.DagsterInstance
) -> None:
    made = build_kumo_assets_definitions(
        name="purchase",
        prediction=BatchPrediction(training_job_id=PURCHASE),
        partitions_def=DAYS,
    )
    watch = Watch(kumo, instance, made)
    job_id = watch.launch(prediction_time=at(5))
    watch.tick()
    assert watch.recorded() == [(day(6), job_id)]


# What is not


def test_a_job_that_dagster_launched_is_never_recorded(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assets = purchase_assets()
    watch = Watch(kumo, instance, [assets])
    before_all = watch.cursor
    where = resources(kumo, tmp_path)
    dg.materialize([assets], instance=instance, resources=where, partition_key=day(5))
    before = watch.recorded()
    result = watch.tick()
    assert result.skip_message.startswith("No prediction job of these models")
    assert watch.recorded() == before
    # Nor by another Dagster, which has no record of it.
    with dg.DagsterInstance.ephemeral() as elsewhere:
        watch.instance, watch.cursor = elsewhere, before_all
        assert watch.tick().asset_events == []
        from_outside = watch.launch(prediction_time=at(5))
        assert len(watch.tick().asset_events) == 1
        assert watch.recorded() == [(day(6), from_outside)]


def test_a_job_that_a_materialization_names_is_not_recorded_again(
    kumo: LocalKumo, instance: dg.DagsterInstance
) -> None:
    watch = Watch(kumo, instance)
    job_id = watch.launch(prediction_time=at(5))
    metadata = {"dagster-kumo/job_id": job_id}
    instance.report_runless_asset_event(
        dg.AssetMaterialization(PREDICTIONS, partition=day(6), metadata=metadata)
    )
    watch.tick()
    assert watch.recorded() == [(day(6), job_id)]


def test_nothing_is_recorded_twice_when_the_daemon_ends_before_the_cursor_is_kept(
    kumo: LocalKumo, instance: dg.DagsterInstance
) -> None:
    watch = Watch(kumo, instance, [purchase_assets(partitions_def=None)])
    jobs = [watch.launch() for _ in range(3)]
    watch.tick(keep_cursor=False)
    watch.tick()
    assert watch.recorded() == [(None, job_id) for job_id in jobs]


def test_jobs_that_failed_are_no_predictions(kumo: LocalKumo, instance: dg.DagsterInstance) -> None:
    watch = Watch(kumo, instance)
    kumo.faults.fail_job()
    job_id = watch.launch(prediction_time=at(5), wait=False)
    BatchPredictionJob(job_id, watch.client).wait(poll_interval=0.02)
    watch.tick()
    assert watch.recorded() == []
    assert watch.cursor is not None
    assert json.loads(watch.cursor)["waiting"] == []


@pytest.mark.parametrize(
    ("request_fields", "why"),
    [
        ({"prediction_time": at(5, hours=2)}, "no partition ends there"),
        ({"prediction_time": at(80)}, "no partition ends there"),
        ({"prediction_time": at(-1)}, "no partition ends there"),
    ],
    ids=["between two partitions", "before the first", "after the last"],
)
def test_a_job_that_falls_on_no_partition_is_told_of_once(
    request_fields: dict[str, Any],
    why: str,
    kumo: LocalKumo,
    instance: dg.DagsterInstance,
    capfd: pytest.CaptureFixture[str],
) -> None:
    watch = Watch(kumo, instance)
    job_id = watch.launch(**request_fields)
    capfd.readouterr()
    watch.tick()
    told = capfd.readouterr().err
    assert f"Prediction job {job_id} does not fit purchase/predictions" in told
    assert why in told
    watch.tick()
    assert job_id not in capfd.readouterr().err
    assert watch.recorded() == []


def test_a_job_for_entities_of_its_own_is_not_that_of_the_assets(
    kumo: LocalKumo, instance: dg.DagsterInstance
) -> None:
    watch = Watch(kumo, instance, [purchase_assets(partitions_def=None)])
    table = kumo.data / "exports/s3/bucket/ten"
    table.mkdir(parents=True)
    pd.DataFrame({"ENTITY": range(1, 11)}).to_parquet(table / "part.parquet")
    watch.launch(pred_table_path="s3://bucket/ten")
    watch.tick()
    assert watch.recorded() == []


# When Kumo fails


def test_a_tick_that_cannot_read_the_list_fails_and_the_next_one_goes_on(
    kumo: LocalKumo, instance: dg.DagsterInstance
) -> None:
    watch = Watch(kumo, instance)
    job_id = watch.launch(prediction_time=at(5))
    kumo.faults.answer(503, path="/prediction_jobs$", body={"detail": f"no {kumo.api_key}"})
    with pytest.raises(KumoAPIError, match="503") as failure:
        watch.tick()
    assert kumo.api_key not in str(failure.value)
    watch.tick()
    assert watch.recorded() == [(day(6), job_id)]


def test_a_refused_key_fails_the_tick(kumo: LocalKumo, instance: dg.DagsterInstance) -> None:
    watch = Watch(kumo, instance)
    watch.resource = KumoResource(url=kumo.url, api_key="acme:wrong-secret")
    with pytest.raises(KumoAuthenticationError) as failure:
        watch.tick()
    assert "wrong-secret" not in str(failure.value)


def test_a_fault_amid_a_tick_loses_no_job(kumo: LocalKumo, instance: dg.DagsterInstance) -> None:
    watch = Watch(kumo, instance)
    kumo.faults.ignore_prediction_time()  # so that each job's table must be asked
    tables = [
        watch.client.create_prediction_table_job(
            "pquery-cdnow-purchase", {"anchor_time": int(at(ago).timestamp()) * 10**9}
        )
        for ago in (6, 5, 4)
    ]
    jobs = [watch.launch(pred_table_job_id=table) for table in tables]
    kumo.faults.answer(500, path=f"{tables[1]}/get_anchor_time", times=2)

    first = watch.tick()
    assert watch.recorded() == [(day(7), jobs[0])]
    assert f"{tables[1]}/get_anchor_time answered 500" in first.skip_message
    watch.tick()  # the job that cannot be read does not hold up the one after it
    assert watch.recorded() == [(day(7), jobs[0]), (day(5), jobs[2])]
    watch.tick()
    assert watch.recorded()[2:] == [(day(6), jobs[1])]
    assert len(watch.tick().asset_events) == 0


# Fetching


def deliver(
    watch: Watch, tmp_path: Path, partition_key: str | None, job_id: str, **options: Any
) -> dg.ExecuteInProcessResult:
    """A run as the sensor requests it."""
    return dg.materialize(
        watch.assets,
        instance=watch.instance,
        resources=resources(watch.kumo, tmp_path),
        partition_key=partition_key,
        tags={DELIVER_JOB: job_id},
        raise_on_error=False,
        **options,
    )


def test_a_run_can_be_requested_that_brings_the_data(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assets = purchase_assets(outputs=("predictions", "embeddings"))
    watch = Watch(kumo, instance, [assets], deliver=True)
    before_all = watch.cursor
    job_id = watch.launch(prediction_time=at(5))
    launched = len(kumo.jobs)

    (request,) = watch.tick().run_requests
    assert request.partition_key == day(6)
    assert request.asset_selection == [PREDICTIONS]  # the job has no embeddings
    assert request.run_key.startswith(job_id)
    run = deliver(watch, tmp_path, request.partition_key, job_id, selection=[PREDICTIONS])

    assert run.success
    assert len(kumo.jobs) == launched
    assert metadata_of(run, PREDICTIONS)["dagster-kumo/job_id"] == job_id
    assert metadata_of(run, PREDICTIONS)["dagster/row_count"] == 23_570
    assert list((tmp_path / "purchase/predictions" / day(6)).rglob("*.parquet"))
    assert watch.tick().run_requests == []
    watch.cursor = before_all
    assert watch.tick().run_requests == []


def test_assets_that_generate_their_table_deliver_a_job_with_its_own(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    generating = BatchPrediction(training_job_id=PURCHASE, prediction_table="generate")
    watch = Watch(kumo, instance, [purchase_assets(prediction=generating)], deliver=True)
    kumo.faults.ignore_prediction_time()
    table = watch.client.create_prediction_table_job(
        "pquery-cdnow-purchase", {"anchor_time": int(at(5).timestamp()) * 10**9}
    )
    job_id = watch.launch(pred_table_job_id=table)
    (request,) = watch.tick().run_requests
    run = deliver(watch, tmp_path, request.partition_key, job_id, selection=[PREDICTIONS])
    metadata = metadata_of(run, PREDICTIONS)
    assert metadata["dagster-kumo/prediction_table_job_id"] == table
    assert metadata["dagster-kumo/prediction_time"] == at(5).timestamp()


@pytest.mark.parametrize(
    ("request_fields", "error", "words"),
    [
        ({"prediction_time": at(4)}, "KumoDataError", f"and not for {day(5)} 00:00 UTC"),
        ({"model": "trainingjob-cdnow-spend"}, "KumoModelError", "which is not that of purchase"),
        ({"pred_table_path": "s3://bucket/none"}, "KumoDataError", "another prediction table"),
    ],
    ids=["time", "model", "entities"],
)
def test_a_job_that_is_not_the_partitions_is_not_delivered(
    request_fields: dict[str, Any],
    error: str,
    words: str,
    kumo: LocalKumo,
    instance: dg.DagsterInstance,
    tmp_path: Path,
) -> None:
    watch = Watch(kumo, instance)
    if "pred_table_path" in request_fields:
        table = kumo.data / "exports/s3/bucket/none"
        table.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"ENTITY": range(1, 11)}).to_parquet(table / "part.parquet")
    job_id = watch.launch(**request_fields)
    run = deliver(watch, tmp_path, day(6), job_id)
    found, said = error_of(run)
    assert found == error
    assert words in said
    assert not (tmp_path / "purchase").exists()


def test_a_job_that_is_not_done_is_not_delivered(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    watch = Watch(kumo, instance)
    kumo.faults.fail_job("A column is missing.")
    job_id = watch.launch(prediction_time=at(5), wait=False)
    BatchPredictionJob(job_id, watch.client).wait(poll_interval=0.02)
    found, said = error_of(deliver(watch, tmp_path, day(6), job_id))
    assert found == "KumoJobFailedError"
    assert "A column is missing." in said


# Definitions


def test_the_sensor_is_as_its_options_say() -> None:
    sensor = build_kumo_sensor(
        [purchase_assets()],
        name="from_outside",
        minimum_interval_seconds=120,
        default_status=dg.DefaultSensorStatus.RUNNING,
        resource_key="warehouse_kumo",
        tags={"team": "growth"},
    )
    assert sensor.name == "from_outside"
    assert sensor.minimum_interval_seconds == 120
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert sensor.required_resource_keys == {"warehouse_kumo"}
    assert sensor.tags["team"] == "growth"
    assert "purchase/predictions" in (sensor.description or "")


def test_one_definition_is_taken_and_so_are_lists_in_a_list() -> None:
    purchase = purchase_assets()
    spend = build_kumo_assets_definitions(
        name="spend", prediction=BatchPrediction(training_job_id="trainingjob-cdnow-spend")
    )
    given: list[Any] = [purchase, [purchase, spend], (spend, [purchase]), spend]
    for assets in given:
        names = build_kumo_sensor(assets).description or ""
        assert ("purchase/predictions" in names) is (assets is not spend)
        assert ("spend/predictions" in names) is (assets is not purchase)


def test_assets_of_no_model_are_refused() -> None:
    with pytest.raises(ValueError, match="given no outputs of a model"):
        build_kumo_sensor([dg.AssetSpec("table")])
    refused: list[Any] = [PREDICTIONS, "purchase/predictions", dg.AssetSpec("table"), None, []]
    for given in refused:
        with pytest.raises(ValueError, match="Pass what build_kumo_assets_definitions returned"):
            build_kumo_sensor(given)
    with pytest.raises(ValueError, match="max_calls_per_tick is 10 or more"):
        build_kumo_sensor([purchase_assets()], max_calls_per_tick=1)
