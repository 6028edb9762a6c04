"""A candidate: an asset whose materialization is a training job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg

from dagster_kumo import BatchPrediction, KumoClient, KumoTraining, build_kumo_assets_definitions
from dagster_kumo.local import LocalKumo
from tests.support import PURCHASE, error_of, metadata_of, resources

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
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path, **training: Any
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [candidate(**training)],
        instance=instance,
        resources=resources(kumo, tmp_path),
        raise_on_error=False,
    )


def sent(kumo: LocalKumo, path: str) -> list[Any]:
    return [r.json for r in kumo.requests if r.method == "POST" and r.path == f"/api/v1{path}"]


def test_a_candidate_is_a_training_job(
    kumo: LocalKumo, client: KumoClient, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run = train(kumo, instance, tmp_path, job_tags={"team": "growth"})

    assert run.success
    metadata = metadata_of(run, CANDIDATE)
    job = client.get_training_job(metadata["dagster-kumo/training_job_id"])
    assert job.job_status_report.status == "DONE"
    assert job.tags["team"] == "growth"
    assert job.tags["dagster.asset"] == "purchase/candidate"
    assert metadata["dagster-kumo/holdout/auroc"] > 0.8
    assert 0.8 < metadata["dagster-kumo/validation/auroc"] < 1
    assert metadata["dagster-kumo/tracking_url"].endswith(f"/jobs/{job.job_id}")
    assert metadata["dagster-kumo/duration_seconds"] >= 0
    assert metadata["dagster-kumo/plan"]["training_job"]["num_experiments"] == 1
    version = instance.get_latest_data_version_record(CANDIDATE)
    assert version is not None
    stated = version.asset_materialization
    assert stated is not None
    assert (stated.tags or {})["dagster/data_version"] == job.job_id


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
