"""`KumoWorkspaceComponent`: the models that a refresh finds, and definitions without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox
from dagster.components.testing.utils import DefsFolderSandbox

from dagster_kumo import KumoError
from dagster_kumo.execution.metadata import BATCH_PREDICTION, TRAINING
from tests.components.sandbox import keys, workspace
from tests.support import files_below
from tests.system.other_server import OtherServer
from tests.system.other_server import training_job as any_training_job

CONNECTION = """\
kumo:
  api_key: "{{ env.KUMO_API_KEY }}"
  url: "{{ env.KUMO_API_ENDPOINT }}"
  request_max_retries: 0
io_manager:
  base_path: "{{ env.STORE }}"
"""


def training_job(job_id: str, query: str = "churn", **fields: Any) -> dict[str, Any]:
    """A training job of a query."""
    return any_training_job(job_id, config={"pquery_id": query}, **fields)


class Workspace:
    """A project with one workspace in it."""

    def __init__(self, sandbox: DefsFolderSandbox, attributes: str) -> None:
        self._sandbox = sandbox
        self.folder = sandbox.defs_folder_path / "models"
        self.folder.mkdir()
        self.says(attributes)

    def says(self, attributes: str) -> None:
        (self.folder / "defs.yaml").write_text(workspace(CONNECTION + attributes))

    def refresh(self) -> None:
        with self._sandbox.load_component_and_build_defs(self.folder) as (component, _):
            asyncio.run(component.refresh_state(self._sandbox.project_root))  # type: ignore[attr-defined]

    def definitions(self) -> dg.Definitions:
        with self._sandbox.load_component_and_build_defs(self.folder) as (_, defs):
            return defs

    def state(self) -> str:
        (path,) = self._sandbox.defs_folder_path.glob(".local_defs_state/*/state")
        return path.read_text()

    def training_jobs(self) -> dict[str, str]:
        """The training job that predicts, by the name of the model."""
        return {
            key.path[0]: self.definitions()
            .resolve_assets_def(key)
            .metadata_by_key[key][BATCH_PREDICTION]
            .value["training_job_id"]
            for key in self.definitions().resolve_asset_graph().materializable_asset_keys
        }


@pytest.fixture
def workspaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DefsFolderSandbox]:
    monkeypatch.setenv("STORE", str(tmp_path / "store"))
    with create_defs_folder_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtherServer]:
    """A server whose training jobs are the test's."""
    with OtherServer() as server:
        monkeypatch.setenv("KUMO_API_KEY", server.api_key)
        monkeypatch.setenv("KUMO_API_ENDPOINT", server.url)
        server.query_names = {"churn": "Churn in 30 days", "churn-2": "Churn, in 30 days?"}
        yield server


def test_what_a_refresh_found_loads_and_predicts(
    other: OtherServer,
    workspaces: DefsFolderSandbox,
    instance: dg.DagsterInstance,
    tmp_path: Path,
) -> None:
    other.training_jobs = [training_job("one"), training_job("two", "churn-2")]
    attributes = """
models: {query_name: Churn in 30 days}
assets:
  partitions_def: {type: daily, start_date: 2026-01-01}
  prediction: {num_workers: 2}
"""
    shop = Workspace(workspaces, attributes)
    shop.refresh()
    other.requests.clear()

    defs = shop.definitions()

    assert not other.requests
    assert keys(defs) == {"Churn_in_30_days/model", "Churn_in_30_days/predictions"}
    run = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, partition_key="2026-02-01"
    )
    assert run.success
    (launch,) = other.launches
    assert launch["model_training_job_id"] == "one"
    assert launch["predict_options"]["num_workers"] == 2
    assert any(file.endswith(".parquet") for file in files_below(tmp_path / "store"))
    assert other.api_key not in shop.state()


def test_before_a_refresh_there_is_nothing_and_it_is_said_why(
    workspaces: DefsFolderSandbox, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Workspace(workspaces, "models: {tags: {team: nobody_else}}")  # said once in a process

    for _ in range(2):  # as Dagster does
        assert not keys(shop.definitions())

    said = caplog.text
    assert said.count("No models known yet (team=nobody_else)") == 1
    assert "dg utils refresh-defs-state" in said


def test_definitions_load_with_the_network_gone(
    other: OtherServer, workspaces: DefsFolderSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.training_jobs = [training_job("one")]
    shop = Workspace(workspaces, "")
    shop.refresh()
    before = keys(shop.definitions())

    other.stop()
    monkeypatch.delenv("KUMO_API_KEY")

    assert (
        keys(shop.definitions())
        == before
        == {
            "Churn_in_30_days/model",
            "Churn_in_30_days/predictions",
        }
    )


def test_a_refresh_takes_the_newest_model_of_each_query(
    other: OtherServer, workspaces: DefsFolderSandbox
) -> None:
    shop = Workspace(workspaces, "models: {tags: {team: growth}}")
    mine = {"team": "growth"}
    other.training_jobs = [training_job("old", tags=mine, created_at="2026-02-01T00:00:00")]
    shop.refresh()
    (name,) = shop.training_jobs()

    other.training_jobs += [
        training_job("new", tags=mine, created_at="2026-03-01T00:00:00"),
        training_job("failed", tags=mine, created_at="2026-04-01T00:00:00", status="FAILED"),
        training_job("of-others", tags={}, created_at="2026-05-01T00:00:00"),
    ]

    assert shop.training_jobs() == {name: "old"}  # which a refresh alone changes
    shop.refresh()
    assert shop.training_jobs() == {name: "new"}


def test_models_are_selected_by_their_ids(
    other: OtherServer, workspaces: DefsFolderSandbox
) -> None:
    other.training_jobs = [
        training_job("chosen", created_at="2026-02-01T00:00:00"),
        training_job("newer", created_at="2026-03-01T00:00:00"),
    ]
    shop = Workspace(workspaces, "models: {ids: [chosen]}")
    shop.refresh()
    assert list(shop.training_jobs().values()) == ["chosen"]


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("none", "No trained model is selected by all: of 0 training jobs"),
        ("two of a name", r"Churn in 30 days \(churn\) and Churn, in 30 days\? \(churn-2\) would"),
        ("no answer", "Cannot reach|refused|connect"),
    ],
)
def test_a_refresh_that_fails_leaves_what_was_known(
    trouble: str, said: str, other: OtherServer, workspaces: DefsFolderSandbox
) -> None:
    other.training_jobs = [training_job("one")]
    shop = Workspace(workspaces, "")
    shop.refresh()
    before = shop.state()
    if trouble == "none":
        other.training_jobs = []
    elif trouble == "two of a name":
        other.training_jobs = [training_job("one"), training_job("two", "churn-2")]
    else:
        other.stop()

    with pytest.raises(KumoError, match=said):
        shop.refresh()

    assert shop.state() == before
    assert set(shop.training_jobs().values()) == {"one"}


def test_templates_know_the_model(other: OtherServer, workspaces: DefsFolderSandbox) -> None:
    other.training_jobs = [training_job("one", tags={"use_case": "churn", "team": "growth"})]
    attributes = """
models: {tags: {use_case: churn}}
assets:
  prediction:
    training_job_tags: {team: "{{ model.tags.team }}"}
  deps: "{{ model.tables }}"
  exports:
    - connector: {type: s3, root_dir: s3://bucket/out}
      table_name: "{{ model.query_id }}"
  group_name: "{{ model.name }}"
"""
    shop = Workspace(workspaces, attributes)
    shop.refresh()

    graph = shop.definitions().resolve_asset_graph()

    made = {"model", "predictions", "predictions_in_s3"}
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {
        *(f"Churn_in_30_days/{asset}" for asset in made),
        "customers",
        "orders",
    }
    predictions = graph.get(dg.AssetKey(["Churn_in_30_days", "predictions"]))
    assert predictions.group_name == "Churn_in_30_days"
    assert predictions.metadata[BATCH_PREDICTION].value == {
        "training_job_tags": {"team": "growth"},
        "outputs": ["predictions"],
    }
    export = graph.get(dg.AssetKey(["Churn_in_30_days", "predictions_in_s3"]))
    assert export.metadata["dagster/uri"] == "s3://bucket/out/churn_predictions"


def test_each_model_is_trained_again_for_its_query(
    other: OtherServer, workspaces: DefsFolderSandbox
) -> None:
    other.training_jobs = [training_job("one")]
    shop = Workspace(workspaces, "assets: {training: {run_mode: best, pool: kumo_training}}")
    shop.refresh()

    graph = shop.definitions().resolve_asset_graph()

    candidate = graph.get(dg.AssetKey(["Churn_in_30_days", "candidate"]))
    assert candidate.metadata[TRAINING].value == {"query": "churn", "run_mode": "best"}


def test_each_selection_has_a_state_of_its_own(workspaces: DefsFolderSandbox) -> None:
    shop = Workspace(workspaces, "")
    found = set()
    for models in ("{tags: {a: b}}", "{tags: {a: c}}", "{query_name: q}", "{}"):
        shop.says(f"models: {models}")
        with workspaces.load_component_and_build_defs(shop.folder) as (component, _):
            config = component.defs_state_config  # type: ignore[attr-defined]
            found.add(config.key)
            assert not config.refresh_if_dev
    assert len(found) == 4


def test_the_state_is_text_that_a_person_can_read(
    other: OtherServer, workspaces: DefsFolderSandbox
) -> None:
    other.training_jobs = [training_job("one")]
    shop = Workspace(workspaces, "")
    shop.refresh()

    assert json.loads(shop.state()) == [
        {
            "name": "Churn_in_30_days",
            "training_job_id": "one",
            "query_id": "churn",
            "query_name": "Churn in 30 days",
            "query": "PREDICT churn",
            "tables": ["customers", "orders"],
            "tags": {},
        }
    ]
