"""The YAML on the page of the components loads."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox

from dagster_kumo import KumoBatchPredictionComponent, KumoWorkspaceComponent
from tests.components.sandbox import keys, project
from tests.system.other_server import OtherServer, training_job

PAGE = (Path(__file__).parents[2] / "docs" / "components.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
SCAFFOLDED, WHOLE, WORKSPACE, STATE = BLOCKS


def test_the_first_block_is_what_the_scaffolder_writes() -> None:
    """But for the day, and comments."""
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.scaffold_component(KumoBatchPredictionComponent, defs_path="churn")
        text = (folder / "defs.yaml").read_text()
    written, _, _ = text.replace("sandbox", "").partition("requirements:")
    names = [line.split(":")[0] for line in SCAFFOLDED.splitlines()]
    assert [n for n in names if n.strip()] == [
        line.split(":")[0]
        for line in written.splitlines()
        if line.strip() and not line.startswith("  deps")
    ]
    with project(SCAFFOLDED) as (_, defs, _):
        assert keys(defs) == {"churn/model", "churn/predictions"}


def test_the_whole_of_one_model_loads() -> None:
    with project(WHOLE) as (_, defs, _):
        dg.Definitions.validate_loadable(defs)
        assert keys(defs) == {
            "customers",
            "warehouse/orders",
            "warehouse/churn_embeddings",
            "warehouse/schema",
            "ml/churn/model",
            "ml/churn/prediction_table",
            "ml/churn/predictions",
            "ml/churn/embeddings",
            *(
                f"ml/churn/predictions_in_{storage}"
                for storage in ("snowflake", "bigquery", "databricks", "s3", "gcs", "adls")
            ),
        }
        checks: dict[str, set[str]] = {}
        for key in defs.resolve_asset_graph().asset_check_keys:
            checks.setdefault(key.asset_key.to_user_string(), set()).add(key.name)
        of_all = {
            "entities_match_summary",
            "unique_entities",
            "scores_in_range",
            "null_fraction",
            "drift",
        }
        assert checks == {
            "ml/churn/predictions": {*of_all, "anchor_age"},
            "ml/churn/embeddings": of_all,
        }
        (schedule,) = defs.get_repository_def().schedule_defs
        assert (schedule.cron_schedule, schedule.execution_timezone) == (
            "0 6 * * *",
            "Europe/Berlin",
        )
        assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
        predictions = defs.resolve_asset_graph().get(dg.AssetKey(["ml", "churn", "predictions"]))
        assert predictions.group_name == "churn"
        assert (predictions.description or "").endswith("(predictions)")
        assert predictions.owners == ["team:data-science"]
        assert predictions.tags["domain"] == "retention"
        assert predictions.backfill_policy == dg.BackfillPolicy.single_run()
        model = dg.AssetSelection.tag("dagster-kumo/asset", "model", include_sources=True)
        condition = dg.AutomationCondition.on_missing().ignore(model)
        assert predictions.automation_condition == condition


def test_the_workspace_loads_with_what_its_refresh_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with OtherServer() as server, create_defs_folder_sandbox() as sandbox:
        monkeypatch.setenv("KUMO_API_KEY", server.api_key)
        monkeypatch.setenv("KUMO_API_ENDPOINT", server.url)
        server.query_names = {"q-1": "churn", "q-2": "spend"}
        server.training_jobs = [
            training_job(query, tags={"team": "growth"}, config={"pquery_id": query})
            for query in server.query_names
        ]
        folder = sandbox.defs_folder_path / "models"
        folder.mkdir()
        (folder / "defs.yaml").write_text(WORKSPACE)
        with sandbox.load_component_and_build_defs(folder) as (component, _):
            assert isinstance(component, KumoWorkspaceComponent)
            asyncio.run(component.refresh_state(sandbox.project_root))
        with sandbox.load_component_and_build_defs(folder) as (_, defs):
            dg.Definitions.validate_loadable(defs)
            made = ("model", "predictions", "predictions_in_snowflake")
            assert keys(defs) == {
                *(f"{name}/{asset}" for name in ("churn", "spend") for asset in made),
                *("customers", "orders"),
            }
            spec = defs.resolve_asset_graph().get(dg.AssetKey(["spend", "predictions"]))
            assert (spec.description or "").endswith("\n\nPREDICT q-2")
            assert spec.tags["query"] == "q-2"
            schedules = {schedule.name for schedule in defs.get_repository_def().schedule_defs}
            assert schedules == {"churn_schedule", "spend_schedule"}


def test_where_state_is_kept_is_said_as_for_any_component() -> None:
    with project(STATE) as (component, _, _):
        assert component.defs_state_config.refresh_if_dev
