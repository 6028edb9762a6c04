"""A candidate: an asset whose materialization is a training job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import pytest

from dagster_kumo import (
    BatchPrediction,
    KumoClient,
    KumoTraining,
    KumoTrainingRunConfig,
    TrainingJob,
    build_kumo_assets_definitions,
)
from dagster_kumo.local import LocalKumo
from tests.support import (
    DAYS,
    PURCHASE,
    day,
    error_of,
    metadata_of,
    purchase_assets,
    resources,
)

CANDIDATE = dg.AssetKey(["purchase", "candidate"])
QUERY = "pquery-cdnow-purchase"


def candidate(**training: Any) -> dg.AssetsDefinition:
    if "like" not in training:
        training.setdefault("query", QUERY)
    assets = build_kumo_assets_definitions(
        name="purchase",
        prediction=BatchPrediction(training_job_id=PURCHASE),
        training=KumoTraining(**training),
        deps=["purchases"],
    )
    assert assets.candidate is not None
    return assets.candidate


def train(
    kumo: LocalKumo,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    *,
    config: KumoTrainingRunConfig | None = None,
    **training: Any,
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [candidate(**training)],
        instance=instance,
        resources=resources(kumo, tmp_path),
        run_config=dg.RunConfig(ops={"purchase__candidate": config} if config else {}),
        raise_on_error=False,
    )


def sent(kumo: LocalKumo, path: str) -> list[Any]:
    """The bodies that were posted to a path."""
    return [r.json for r in kumo.requests if r.method == "POST" and r.path == f"/api/v1{path}"]


def lines_of(instance: dg.DagsterInstance, run: dg.ExecuteInProcessResult) -> list[str]:
    return [e.user_message for e in instance.all_logs(run.run_id) if not e.is_dagster_event]


def test_a_candidate_is_a_training_job(
    kumo: LocalKumo, client: KumoClient, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run = train(kumo, instance, tmp_path, job_tags={"team": "growth"})

    assert run.success
    metadata = metadata_of(run, CANDIDATE)
    job_id = metadata["dagster-kumo/training_job_id"]
    job = client.get_training_job(job_id)
    assert job.job_status_report.status == "DONE"
    assert (job.tags["team"], job.tags["dagster.asset"]) == ("growth", "purchase/candidate")
    assert metadata["dagster-kumo/holdout/auroc"] > 0.8
    assert 0.8 < metadata["dagster-kumo/validation/auroc"] < 1
    assert metadata["dagster-kumo/tracking_url"].endswith(f"/jobs/{job_id}")
    assert metadata["dagster-kumo/duration_seconds"] >= 0
    assert metadata["dagster-kumo/plan"]["training_job"]["num_experiments"] == 1
    (made,) = run.get_asset_materialization_events()
    assert (made.materialization.tags or {})["dagster/data_version"] == job_id
    stored = instance.get_run_by_id(run.run_id)
    assert stored is not None
    assert stored.tags["dagster/kumo_training_job.purchase__candidate"] == job_id


def test_a_candidate_predicts_for_the_newest_days(
    kumo: LocalKumo, client: KumoClient, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """It has learnt from later data than the model before, so that earlier days would be its own past."""
    metadata = metadata_of(train(kumo, instance, tmp_path), CANDIDATE)
    candidate = client.get_training_job(metadata["dagster-kumo/training_job_id"])
    holdout = TrainingJob(candidate.job_id, client).result().holdout().to_pandas()

    def predict(days_ago: int) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [purchase_assets(training_job_id=candidate.job_id)],
            instance=instance,
            resources=resources(kumo, tmp_path),
            partition_key=day(days_ago),
            raise_on_error=False,
        )

    assert len(holdout) == 23570
    assert predict(3).success
    assert "would know its own future" in error_of(predict(50))[1]


def test_the_tables_are_read_again_first_if_that_is_asked_for(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    for _ in range(2):  # a materialization on purpose trains again
        assert train(kumo, instance, tmp_path).success
    assert len(sent(kumo, "/graphsnapshots")) == 2
    assert [body["graph_snapshot_id"][:6] for body in sent(kumo, "/training_jobs")] == [
        "graph-"
    ] * 2

    kumo.clear_requests()
    assert train(kumo, instance, tmp_path, refresh_snapshot=False).success
    assert sent(kumo, "/graphsnapshots") == []
    assert "graph_snapshot_id" not in sent(kumo, "/training_jobs")[0]


@pytest.mark.parametrize("api", ["2", "3"])
def test_a_job_is_trained_again_by_its_own_plan(
    api: Literal["2", "3"], instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Fields that are not known here go with it. Those that 3.0 refuses are left out there."""
    training_job = {"num_experiments": 1, "enable_baselines": False, "newest_field": {"a": [1]}}
    with LocalKumo(api=api) as kumo:
        first = train(
            kumo,
            instance,
            tmp_path,
            model_plan={"training_job": training_job, "newest_section": {"b": None}},
            job_tags={"use_case": "again"},
        )
        again = train(kumo, instance, tmp_path, like={"use_case": "again"}, warm_start=True)
        earlier, later = sent(kumo, "/training_jobs")

    assert first.success
    assert again.success
    assert later["model_plan"]["training_job"]["newest_field"] == {"a": [1]}
    assert later["model_plan"]["newest_section"] == {"b": None}
    assert later["pquery_id"] == QUERY
    job_id = metadata_of(first, CANDIDATE)["dagster-kumo/training_job_id"]
    assert later["warm_start_job_id"] == job_id
    plans = (body["model_plan"]["training_job"] for body in (earlier, later))
    assert ["enable_baselines" in plan for plan in plans] == [api == "2"] * 2


def test_one_run_trains_in_another_way(
    kumo: LocalKumo, client: KumoClient, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    plan = {"training_job": {"num_experiments": 1}, "optimization": {"max_epochs": 2}}
    usual: dict[str, Any] = {"query": "cdnow_band", "model_plan": plan, "refresh_snapshot": False}
    ways = [
        KumoTrainingRunConfig(run_mode="debug"),
        KumoTrainingRunConfig(like=PURCHASE, warm_start=True),
        KumoTrainingRunConfig(like=PURCHASE, run_mode="debug"),
    ]
    for way in ways:
        assert train(kumo, instance, tmp_path, config=way, **usual).success

    suggested, again, both = sent(kumo, "/training_jobs")
    queries = [body["pquery_id"] for body in (suggested, again, both)]
    assert queries == ["cdnow_band", QUERY, QUERY]
    assert suggested["model_plan"]["optimization"]["max_epochs"] == 1
    assert again["model_plan"] == TrainingJob(PURCHASE, client).result().model_plan
    assert (again["warm_start_job_id"], "warm_start_job_id" in both) == (PURCHASE, False)
    assert both["model_plan"] == {**suggested["model_plan"], **both["model_plan"]}


@pytest.mark.parametrize("query", [QUERY, "cdnow_purchase"])
def test_a_job_that_was_trained_elsewhere_becomes_the_candidate(
    query: str, kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    delivered = KumoTrainingRunConfig(deliver_job=PURCHASE)
    run = train(kumo, instance, tmp_path, config=delivered, query=query)

    assert run.success
    metadata = metadata_of(run, CANDIDATE)
    assert metadata["dagster-kumo/training_job_id"] == PURCHASE
    assert metadata["dagster-kumo/holdout/auroc"] == pytest.approx(0.786, abs=0.001)
    assert metadata["dagster-kumo/tracking_url"].endswith(PURCHASE)
    (made,) = run.get_asset_materialization_events()
    assert (made.materialization.tags or {})["dagster/data_version"] == PURCHASE
    assert sent(kumo, "/training_jobs") == sent(kumo, "/graphsnapshots") == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"run_mode": "quick"}, "run_mode is one of 'fast'"),
        ({"warm_start": True}, "name it with like="),
        ({"like": " "}, "like is empty in the run configuration"),
        ({"deliver_job": PURCHASE, "run_mode": "fast"}, "so run_mode cannot change it"),
        ({"deliver_job": f"{PURCHASE}-failed"}, "is FAILED"),
        (
            {"deliver_job": "trainingjob-cdnow-spend"},
            "was trained for the query pquery-cdnow-spend, and candidates are trained for pquery-cdnow-purchase",
        ),
    ],
)
def test_a_run_that_asks_for_what_cannot_be_launches_nothing(
    config: Any, said: str, kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run = train(kumo, instance, tmp_path, config=KumoTrainingRunConfig(**config))

    assert said in error_of(run)[1]
    assert sent(kumo, "/training_jobs") == sent(kumo, "/graphsnapshots") == []


def test_the_server_suggests_a_plan_and_its_trials_are_logged(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    with LocalKumo(run_seconds=2.5) as kumo:
        run = train(kumo, instance, tmp_path, query="cdnow_purchase", run_mode="normal")
        (suggested,) = sent(kumo, "/predictive_queries/model_plan")

    assert run.success
    assert suggested["run_mode"] == "normal"
    assert suggested["query_string"].startswith("PREDICT COUNT(purchases.*, 0, 30, days) > 0")
    lines = lines_of(instance, run)
    assert any("1 of 2 trials done (the last one: auroc 0.8" in line for line in lines), lines
    assert "which trains for the query cdnow_purchase: http" in lines[0]


def test_a_launch_whose_answer_is_lost_is_made_once(
    kumo: LocalKumo, client: KumoClient, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    kumo.faults.lose_answer(path="/training_jobs$", method="POST")
    kumo.faults.ignore_tag_filters()
    run = train(kumo, instance, tmp_path, job_tags={"test": "lost"})

    assert run.success
    launched = [job for job in client.list_training_jobs() if job.tags.get("test") == "lost"]
    job_id = metadata_of(run, CANDIDATE)["dagster-kumo/training_job_id"]
    assert [job.job_id for job in launched] == [job_id]


def test_a_training_that_fails_says_why_and_the_next_attempt_trains_anew(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    kumo.faults.fail_job("No rows were left after the split.", path="/training_jobs")
    retried = dg.RetryPolicy(max_retries=1)
    run = train(kumo, instance, tmp_path, retry_policy=retried)

    assert run.success
    assert len(sent(kumo, "/training_jobs")) == len(sent(kumo, "/graphsnapshots")) == 2
    said = "Job failed: No rows were left after the split."
    assert any(said in line for line in lines_of(instance, run))


def test_a_snapshot_is_taken_once_for_a_launch(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """The launch is refused, so the snapshot of the first attempt is as fresh for the second."""
    kumo.faults.answer(422, path="/training_jobs$", method="POST")
    run = train(kumo, instance, tmp_path, retry_policy=dg.RetryPolicy(max_retries=1))

    assert run.success
    assert len(sent(kumo, "/training_jobs")) == 2
    assert len(sent(kumo, "/graphsnapshots")) == 1


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"query": "pquery-none"}, "There is no predictive query pquery-none in this deployment"),
        ({"like": "trainingjob-none"}, "There is no training job trainingjob-none"),
        ({"like": "trainingjob-cdnow-purchase-failed"}, "is FAILED"),
        ({"like": {"use_case": "none"}}, "No training job with the tags use_case=none is DONE"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_launched(
    training: Any, said: str, kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run = train(kumo, instance, tmp_path, **training)
    assert said in error_of(run)[1]
    assert sent(kumo, "/training_jobs") == sent(kumo, "/graphsnapshots") == []


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({}, "give query= or like=, one of the two"),
        ({"query": "a", "like": "b"}, "give query= or like=, one of the two"),
        ({"query": "a", "warm_start": True}, "name it with like="),
        ({"query": "a", "model_plan": {}, "run_mode": "fast"}, "give model_plan= or run_mode="),
        ({"query": "a", "run_mode": "quick"}, "run_mode is one of 'fast'"),
        ({"query": "a", "job_tags": {"dagster.a": "b"}}, "cannot be a tag of a Kumo job"),
    ],
)
def test_a_training_that_cannot_be_is_refused_with_the_way_out(training: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        KumoTraining(**training)


@pytest.mark.parametrize(
    "training",
    [
        KumoTraining(query=QUERY),
        KumoTraining(query=QUERY, refresh_snapshot=False, run_mode="fast", max_per_week=2),
        KumoTraining(like={"a": "b"}, warm_start=True, model_plan={"c": {}}, job_tags={"d": "e"}),
    ],
)
def test_the_definition_states_what_is_trained(training: KumoTraining) -> None:
    """A run that is held takes it from there."""
    assets = build_kumo_assets_definitions(
        name="purchase", prediction=BatchPrediction(training_job_id=PURCHASE), training=training
    )
    assert assets.candidate is not None
    (spec,) = assets.candidate.specs
    assert KumoTraining(**spec.metadata["dagster-kumo/training"].value) == training


def test_a_candidate_has_options_of_its_own() -> None:
    condition = dg.AutomationCondition.on_cron("0 5 * * 1")
    made = build_kumo_assets_definitions(
        name="purchase",
        prediction=BatchPrediction(training_job_id=PURCHASE),
        training=KumoTraining(query=QUERY, pool="kumo_training", automation_condition=condition),
        deps=["purchases"],
        partitions_def=DAYS,
        pool="kumo",
        retry_policy=dg.RetryPolicy(max_retries=2),
    )
    assert made.candidate is not None
    assert made.candidate in made
    assert made.candidate.op.pool == "kumo_training"
    assert made.predictions.op.pool == "kumo"
    assert made.candidate.op.retry_policy == dg.RetryPolicy(max_retries=2)
    (spec,) = made.candidate.specs
    assert spec.automation_condition == condition
    assert {dep.asset_key for dep in spec.deps} == {dg.AssetKey("purchases")}
    assert made.candidate.partitions_def is None
    assert "for the query pquery-cdnow-purchase" in (spec.description or "")


def test_no_candidate_is_trained_beside_another_or_more_often_than_allowed(
    kumo: LocalKumo, client: KumoClient, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """What costs money is not launched twice; each attempt of a launch belongs to that launch."""
    before = len(sent(kumo, "/training_jobs"))
    limited = {"query": QUERY, "job_tags": {"team": "limited"}}
    assert train(kumo, instance, tmp_path, **limited).success
    refused = train(kumo, instance, tmp_path, **limited, max_per_week=1)

    name, said = error_of(refused)
    assert name == "KumoError"
    assert "in the last seven days, and max_per_week is 1. Nothing was launched." in said

    # The newest one goes on, as far as the list says.
    newest = client.list_training_jobs({"dagster.asset": "purchase/candidate"}, limit=1)[0]
    body = [
        {
            "job_id": newest.job_id,
            "job_status_report": {"status": "RUNNING"},
            "tags": {**newest.tags, "dagster.launch_key": "another"},
        }
    ]
    kumo.faults.answer(200, path="/training_jobs$", method="GET", body=body, times=None)
    beside = train(kumo, instance, tmp_path, **limited)

    assert "is being trained already, by the training job" in error_of(beside)[1]
    assert len(sent(kumo, "/training_jobs")) == before + 1
