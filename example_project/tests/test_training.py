"""The purchase model is trained again, promoted behind its gate, and rolled back, against a stand-in of its own."""

from pathlib import Path

import dagster as dg
from example_project.definitions import defs
from example_project.partitions import daily
from example_project.which_kumo import promote_first_model

from dagster_kumo import KumoIOManager, KumoResource
from dagster_kumo.local import LocalKumo

FIRST = "trainingjob-cdnow-purchase"
PREDICTIONS = dg.AssetKey(["purchase", "predictions"])
MODEL = dg.AssetKey(["purchase", "model"])


def test_a_candidate_is_promoted_predicts_and_is_rolled_back(tmp_path: Path) -> None:
    example = defs()
    store = KumoIOManager(base_path=str(tmp_path / "store"), statistics=False)
    with LocalKumo(tmp_path / "kumo") as local, dg.DagsterInstance.ephemeral() as instance:
        kumo = KumoResource(url=local.url, api_key=local.api_key, poll_interval=0.1)
        promote_first_model(kumo.get_client())
        here = dg.Definitions(
            assets=example.assets,
            asset_checks=example.asset_checks,
            jobs=example.jobs,
            resources={"kumo": kumo, "kumo_io_manager": store, "io_manager": store},
        )

        def model_in(run: dg.ExecuteInProcessResult, key: dg.AssetKey) -> str:
            (made,) = [e for e in run.get_asset_materialization_events() if e.asset_key == key]
            return str(made.materialization.metadata["dagster-kumo/training_job_id"].value)

        def promoted_by(job: str) -> str:
            run = here.resolve_job_def(job).execute_in_process(instance=instance)
            assert all(gate.passed for gate in run.get_asset_check_evaluations())
            return model_in(run, MODEL)

        def predicting() -> str:
            run = here.resolve_implicit_global_asset_job_def().execute_in_process(
                instance=instance,
                partition_key=daily.get_last_partition_key(),
                asset_selection=[PREDICTIONS],
            )
            return model_in(run, PREDICTIONS)

        candidate = promoted_by("retrain_purchase")
        assert candidate != FIRST
        assert predicting() == candidate
        promote_first_model(kumo.get_client())  # a stand-in that starts again keeps its champion
        assert promoted_by("purchase_rollback") == predicting() == FIRST
