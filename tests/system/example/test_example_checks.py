"""The example's checks are in the way of a call list by scores that have moved."""

from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from example_project.definitions import defs
from example_project.partitions import daily
from example_project.which_kumo import promote_first_model

from dagster_kumo import KumoIOManager, KumoResource
from dagster_kumo.local import LocalKumo

PREDICTIONS = dg.AssetKey(["purchase", "predictions"])
DOWNSTREAM = [dg.AssetKey(["purchase", "predictions_in_snowflake"]), dg.AssetKey("call_list")]


@pytest.mark.usefixtures("nothing_promoted")
def test_scores_that_have_moved_a_lot_are_not_exported_and_nobody_is_called(
    kumo: LocalKumo, tmp_path: Path
) -> None:
    before, today = daily.get_partition_keys()[-2:]
    store = KumoIOManager(base_path=str(tmp_path))
    scores = np.linspace(0, 1, 1000)

    @dg.asset(key=PREDICTIONS, partitions_def=daily, io_manager_key="kumo_io_manager")
    def another_day() -> pd.DataFrame:
        return pd.DataFrame({"ENTITY": range(1000), "True_PROB": scores})

    dg.materialize([another_day], resources={"kumo_io_manager": store}, partition_key=before)
    example = defs()
    resource = KumoResource(url=kumo.url, api_key=kumo.api_key, poll_interval=0.1)
    promote_first_model(resource.get_client())
    here = dg.Definitions(
        assets=example.assets,
        asset_checks=example.asset_checks,
        resources={"kumo": resource, "kumo_io_manager": store, "io_manager": store},
    )
    run = here.resolve_implicit_global_asset_job_def().execute_in_process(
        partition_key=today, asset_selection=[PREDICTIONS, *DOWNSTREAM], raise_on_error=False
    )

    made = [event.asset_key for event in run.get_asset_materialization_events()]
    assert PREDICTIONS in made
    assert not set(DOWNSTREAM) & set(made)
    failed = [e for e in run.get_asset_check_evaluations() if not e.passed]
    assert [(e.check_name, e.severity) for e in failed] == [("drift", dg.AssetCheckSeverity.ERROR)]
    assert f"against {before}" in (failed[0].description or "")
