"""Nothing is launched twice because Kumo shows a job late, or has lost its tags."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import (
    BatchPrediction,
    KumoClient,
    KumoIOManager,
    KumoResource,
    SnowflakeConnector,
    build_kumo_export_asset,
    kumo_assets,
)
from dagster_kumo.local import LocalKumo
from tests.sensor.hold.queued_runs import HOLD, QueuedRuns
from tests.support import (
    DAYS,
    EMBEDDINGS,
    PREDICTIONS,
    PURCHASE,
    day,
    error_of,
    predict_all,
    purchase_assets,
    resources,
)

POST_JOB = {"method": "POST", "path": "/prediction_jobs$"}
POST_TABLE = {"method": "POST", "path": "/genpredtable_jobs$"}
LATE = 1.5  # seconds; a job of the stand-in is done in less
DAY = day(5)
EXPORT = dg.AssetKey(["purchase", "predictions_in_snowflake"])

Materialize = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def materialize(kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path) -> Materialize:
    def materialize(
        *assets: dg.AssetsDefinition,
        settling: float = 10.0,
        retries: int = 2,
        **options: Any,
    ) -> dg.ExecuteInProcessResult:
        resource = KumoResource(
            url=kumo.url,
            api_key=kumo.api_key,
            request_max_retries=retries,
            poll_interval=0.1,
            launch_settling_time=settling,
        )
        options = {"partition_key": DAY, "raise_on_error": False, **options}
        store = KumoIOManager(base_path=str(tmp_path), statistics=False, kumo=resource)
        return dg.materialize(
            list(assets),
            instance=instance,
            resources={"kumo": resource, "kumo_io_manager": store},
            **options,
        )

    return materialize


@pytest.fixture(autouse=True)
def launched_before(kumo: LocalKumo) -> int:
    if not kumo.jobs:
        predict_all(kumo)  # the stand-in's first job takes seconds, in which delays would be over
    return len(kumo.jobs)


@pytest.fixture
def launched(kumo: LocalKumo, launched_before: int) -> Callable[[], list[dict[str, Any]]]:
    """The prediction jobs that the test has launched."""
    return lambda: kumo.jobs[launched_before:]


def with_table(**options: Any) -> dg.AssetsDefinition:
    prediction = BatchPrediction(training_job_id=PURCHASE, prediction_table="generate")
    return purchase_assets(prediction=prediction, **options)


def export(**options: Any) -> dg.AssetsDefinition:
    return build_kumo_export_asset(
        name="purchase",
        predictions=PREDICTIONS,
        connector=SnowflakeConnector("wh"),
        table_name=options.pop("table_name", "EVIDENCE"),
        partitions_def=purchase_assets().partitions_def,
        **options,
    )


def tables(kumo: LocalKumo) -> list[str]:
    """The tables that runs have launched since the last fixture."""
    return [r.path for r in kumo.requests if r.method == "POST" and "genpredtable" in r.path]


def lines(instance: dg.DagsterInstance, run: dg.ExecuteInProcessResult) -> Sequence[str]:
    return [e.user_message for e in instance.all_logs(run.run_id) if not e.is_dagster_event]


# A list that is late ########################################################################


@pytest.mark.parametrize("status", [None, 502])
def test_a_launch_without_an_answer_is_looked_for_until_it_is_listed(
    status: int | None, kumo: LocalKumo, materialize: Materialize, launched: Any
) -> None:
    kumo.faults.list_late(LATE)
    kumo.faults.lose_answer(status, **POST_JOB)

    assert materialize(purchase_assets()).success
    assert len(launched()) == 1


def test_so_is_the_launch_of_a_table(kumo: LocalKumo, materialize: Materialize) -> None:
    kumo.faults.list_late(LATE)
    kumo.faults.lose_answer(502, **POST_TABLE)

    assert materialize(with_table()).success
    assert len(tables(kumo)) == 1


def test_an_attempt_that_sees_nothing_looks_until_the_job_of_the_one_before_is_listed(
    kumo: LocalKumo, materialize: Materialize, instance: dg.DagsterInstance, launched: Any
) -> None:
    kumo.faults.list_late(6)
    kumo.faults.lose_answer(**POST_JOB)

    # The first attempt gives up before the list shows its job.
    retried = purchase_assets(retry_policy=dg.RetryPolicy(max_retries=1))
    run = materialize(retried, settling=4, retries=0)

    assert run.success
    assert len(launched()) == 1
    said = lines(instance, run)
    assert any("looking for it a little longer" in line for line in said)
    assert any(line.startswith("Attached to prediction job") for line in said)


def test_a_first_launch_does_not_wait(kumo: LocalKumo, materialize: Materialize) -> None:
    kumo.faults.list_late(60)

    assert materialize(purchase_assets(), settling=60).success
    calls = [r.method for r in kumo.requests if r.path.endswith("/prediction_jobs")]
    assert calls == ["GET", "POST", "GET"]


def test_a_launch_that_was_refused_for_the_moment_is_not_looked_for_long(
    kumo: LocalKumo, materialize: Materialize
) -> None:
    kumo.faults.answer(429, **POST_JOB)

    assert materialize(purchase_assets(), settling=60).success
    calls = [r.method for r in kumo.requests if r.path.endswith("/prediction_jobs")]
    assert calls == ["GET", "POST", "GET", "POST", "GET"]


# A job that is not to be seen yet ###########################################################


def test_a_new_job_may_be_unknown_for_a_while(
    kumo: LocalKumo, materialize: Materialize, launched: Any
) -> None:
    kumo.faults.show_late(LATE, path="/prediction_jobs/")

    assert materialize(purchase_assets()).success
    assert len(launched()) == 1


def test_so_may_a_new_table(kumo: LocalKumo, materialize: Materialize) -> None:
    kumo.faults.show_late(LATE, path="/genpredtable_jobs/")

    assert materialize(with_table()).success
    assert len(tables(kumo)) == 1


def test_so_may_a_new_export(kumo: LocalKumo, materialize: Materialize) -> None:
    assert materialize(purchase_assets()).success
    kumo.faults.show_late(LATE, path="/artifact/")
    before = len(kumo.exports)

    assert materialize(export(write_mode="APPEND", table_name="LATE")).success
    assert len(kumo.exports) == before + 1


def test_a_job_that_stays_unknown_is_an_error_that_names_it(
    kumo: LocalKumo, materialize: Materialize, launched: Any
) -> None:
    kumo.faults.show_late(60, path="/prediction_jobs/")

    run = materialize(purchase_assets(), settling=0.2)

    found, message = error_of(run)
    assert found == "KumoNotFoundError"
    assert launched()[0]["job_id"] in message


# Tags that are lost #########################################################################


def test_a_job_that_lost_its_tags_is_found_by_the_note_of_the_attempt_before(
    kumo: LocalKumo, materialize: Materialize, instance: dg.DagsterInstance, launched: Any
) -> None:
    kumo.faults.forget_tags()
    kumo.faults.answer(404, path="^/files/.*part-00000", times=3)

    run = materialize(purchase_assets(retry_policy=dg.RetryPolicy(max_retries=1)))

    assert run.success
    (job,) = launched()
    assert f"Attached to prediction job {job['job_id']}" in "\n".join(lines(instance, run))


def test_a_tag_of_the_run_that_another_process_has_overwritten_is_set_again_at_the_end(
    materialize: Materialize, instance: dg.DagsterInstance, launched: Any
) -> None:
    """The job is done before the tags are looked at again in the meantime."""
    tag = "dagster/kumo_job.purchase__predictions"

    @kumo_assets(
        name="purchase", prediction=BatchPrediction(training_job_id=PURCHASE), partitions_def=DAYS
    )
    def purchase(context: dg.AssetExecutionContext, kumo: KumoResource):
        for result in kumo.predict(context):
            context.instance.add_run_tags(context.run.run_id, {tag: "overwritten"})
            yield result

    run = materialize(purchase)

    (job,) = launched()
    stored = instance.get_run_by_id(run.run_id)
    assert stored is not None
    assert stored.tags[tag] == job["job_id"]


def test_so_is_one_whose_tags_were_changed(
    kumo: LocalKumo, materialize: Materialize, launched: Any
) -> None:
    kumo.faults.answer(404, path="^/files/.*part-00000", times=3)
    tags = {"dagster/backfill": "changed"}
    assert not materialize(purchase_assets(), tags=tags).success
    client = KumoClient(kumo.url, kumo.api_key)
    client.update_prediction_job_tags(launched()[0]["job_id"], {"dagster.launch_key": "another"})

    assert materialize(purchase_assets(), tags=again(tags)).success
    assert len(launched()) == 1


def test_so_is_a_table(kumo: LocalKumo, materialize: Materialize, launched: Any) -> None:
    kumo.faults.forget_tags()
    kumo.faults.answer(404, path="^/files/bp-job.*part-00000", times=3)

    assert materialize(with_table(retry_policy=dg.RetryPolicy(max_retries=1))).success
    assert len(tables(kumo)) == len(launched()) == 1


def test_so_is_an_export_that_appends(kumo: LocalKumo, materialize: Materialize) -> None:
    assert materialize(purchase_assets()).success
    before = len(kumo.exports)
    kumo.faults.answer(500, path="/artifact/", times=3)  # the first attempt loses sight of it
    kumo.faults.answer(200, method="PATCH", path="/tags$", body={"resource_updated": False}, times=None)  # fmt: skip

    retried = export(
        write_mode="APPEND", table_name="LOST_TAG", retry_policy=dg.RetryPolicy(max_retries=1)
    )
    assert materialize(retried).success
    assert len(kumo.exports) == before + 1


def test_an_announced_export_is_left_to_a_person_though_its_mark_is_gone(
    kumo: LocalKumo, materialize: Materialize
) -> None:
    assert materialize(purchase_assets()).success
    before = len(kumo.exports)
    kumo.faults.answer(200, method="PATCH", path="/tags$", body={"resource_updated": False}, times=None)  # fmt: skip
    kumo.faults.lose_answer(method="POST", path="/artifact$")
    tags = {"dagster/backfill": "announced"}
    appended = export(write_mode="APPEND", table_name="ANNOUNCED")

    assert not materialize(appended, tags=tags).success
    run = materialize(appended, tags=again(tags))

    assert "Check whether the rows are in ANNOUNCED_predictions" in error_of(run)[1]
    assert len(kumo.exports) == before + 1


def test_a_noted_job_that_is_gone_is_launched_again(
    kumo: LocalKumo, materialize: Materialize, launched: Any
) -> None:
    kumo.faults.forget_tags()
    kumo.faults.answer(404, path="^/files/.*part-00000", times=3)
    tags = {"dagster/backfill": "gone"}
    assert not materialize(purchase_assets(), tags=tags).success
    gone = launched()[0]["job_id"]
    kumo.faults.answer(404, path=f"/prediction_jobs/{gone}", times=None)

    assert materialize(purchase_assets(), settling=0.3, tags=again(tags)).success
    assert len(launched()) == 2


# Backfills ##################################################################################


def again(tags: dict[str, str]) -> dict[str, str]:
    """The tags of a backfill that executes one again, as Dagster's web server sets them."""
    first = tags["dagster/backfill"]
    return {
        "dagster/backfill": f"{first}-again",
        "dagster/parent_backfill_id": first,
        "dagster/root_backfill_id": tags.get("dagster/root_backfill_id", first),
    }


def test_a_backfill_executed_again_is_the_same_launch_and_a_new_one_is_not(
    kumo: LocalKumo, materialize: Materialize, launched: Any
) -> None:
    kumo.faults.answer(404, path="^/files/.*part-00000", times=3)
    tags = {"dagster/backfill": "first"}
    assert not materialize(purchase_assets(), tags=tags).success

    assert materialize(purchase_assets(), tags=again(tags)).success
    assert len(launched()) == 1

    assert materialize(purchase_assets(), tags={"dagster/backfill": "second"}).success
    assert len(launched()) == 2


def test_a_backfill_executed_again_takes_what_the_first_one_has_delivered_meanwhile(
    materialize: Materialize, launched: Any
) -> None:
    """A run of a cancelled backfill may be retried. What it delivers then, Dagster asks for again."""
    tags = {"dagster/backfill": "cancelled"}
    assert materialize(purchase_assets(), tags=tags).success

    assert materialize(purchase_assets(), tags=again(tags)).success
    assert materialize(purchase_assets(), tags=again(again(tags))).success
    assert len(launched()) == 1


def test_so_it_does_with_what_a_run_of_the_first_one_has_delivered_after_its_end(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path, launched: Any
) -> None:
    """Dagster takes the tags of the backfill from a run that is re-executed then."""
    runs = QueuedRuns(
        [purchase_assets()], instance=instance, url=kumo.url, api_key=kumo.api_key, store=tmp_path
    )
    kumo.faults.answer(404, path="^/files/.*part-00000", times=3)
    backfill = {"dagster/backfill": "ended"}
    failed = runs.add(DAY, {**backfill, HOLD: "released"})
    assert not runs.execute(failed).is_success
    later = runs.add(DAY, {HOLD: "released"}, parent_run_id=failed, root_run_id=failed)
    assert runs.execute(later).is_success

    assert runs.execute(runs.add(DAY, {**again(backfill), HOLD: "released"})).is_success
    assert len(launched()) == 1


@pytest.mark.parametrize("strategy", ["dagster/is_resume_retry", "dagster/is_asset_resume_retry"])
def test_a_retry_takes_what_the_run_before_has_delivered_after_the_retry_was_launched(
    strategy: str, kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path, launched: Any
) -> None:
    """A worker that Dagster takes for dead may end its step all the same."""
    runs = QueuedRuns(
        [purchase_assets()], instance=instance, url=kumo.url, api_key=kumo.api_key, store=tmp_path
    )
    first = runs.add(DAY, {HOLD: "released"})
    retries = [first]
    for _ in range(2):
        tags = {HOLD: "released", strategy: "true"}
        retries.append(runs.add(DAY, tags, parent_run_id=retries[-1], root_run_id=first))

    assert runs.execute(first).is_success
    assert runs.execute(retries[-1]).is_success
    assert len(launched()) == 1


def test_an_output_that_is_missing_alone_is_taken_from_the_job_of_both(
    kumo: LocalKumo, materialize: Materialize, launched: Any
) -> None:
    """A backfill executed again asks only for what was not materialized."""
    both = purchase_assets(outputs=("predictions", "embeddings"))
    kumo.faults.answer(404, path="^/files/.*/predictions/.*part-00000", times=3)
    tags = {"dagster/backfill": "both"}
    run = materialize(both, tags=tags, selection=[EMBEDDINGS, PREDICTIONS])
    assert not run.success

    assert materialize(both, tags=again(tags), selection=[PREDICTIONS]).success
    assert len(launched()) == 1


# What a run notes ###########################################################################


def test_a_run_over_many_partitions_has_one_tag_and_each_job_is_noted_at_its_asset(
    materialize: Materialize, instance: dg.DagsterInstance, launched: Any
) -> None:
    days = [day(n) for n in range(16, 4, -1)]
    assets = purchase_assets(backfill_policy=dg.BackfillPolicy.single_run())
    run = materialize(
        assets,
        partition_key=None,
        tags={
            "dagster/asset_partition_range_start": days[0],
            "dagster/asset_partition_range_end": days[-1],
        },
    )

    assert run.success
    ids = {job["tags"]["dagster.partition"]: job["job_id"] for job in launched()}
    assert sorted(ids) == days
    stored = instance.get_run_by_id(run.run_id)
    assert stored is not None
    tags = {k: v for k, v in stored.tags.items() if "kumo" in k}
    assert tags.pop("dagster/kumo_job.purchase__predictions") in ids.values()
    # The list of runs shows no tag of the namespace dagster/ before somebody asks for all.
    assert tags == {}
    for partition, job_id in ids.items():
        (record,) = instance.fetch_observations(
            dg.AssetRecordsFilter(PREDICTIONS, asset_partitions=[partition]), limit=1
        ).records
        noted = record.event_log_entry.asset_observation
        assert noted is not None
        assert noted.metadata["dagster-kumo/job_id"].value == job_id
        assert noted.metadata["dagster-kumo/run"].value == run.run_id


def test_a_note_asks_for_nothing_downstream(
    kumo: LocalKumo, materialize: Materialize, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    kumo.faults.answer(404, path="^/files/.*part-00000", times=3)
    assets = purchase_assets()

    @dg.asset(
        deps=[PREDICTIONS],
        partitions_def=assets.partitions_def,
        automation_condition=dg.AutomationCondition.any_deps_updated(),
    )
    def downstream() -> None: ...

    defs = dg.Definitions([assets, downstream], resources=resources(kumo, tmp_path))
    # Past the first look, at which everything is new.
    cursor = dg.evaluate_automation_conditions(defs, instance).cursor
    assert not materialize(assets, partition_key=day(20)).success

    noted = dg.AssetRecordsFilter(PREDICTIONS, asset_partitions=[day(20)])
    assert len(instance.fetch_observations(noted, limit=10).records) == 1
    asked = dg.evaluate_automation_conditions(defs, instance, cursor=cursor)
    assert asked.total_requested == 0

    assert materialize(assets, partition_key=day(20)).success
    asked = dg.evaluate_automation_conditions(defs, instance, cursor=asked.cursor)
    assert asked.total_requested == 1
