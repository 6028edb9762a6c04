"""The vendor's SDK, pointed at the stand-in.

The SDK keeps one connection for its process and polls every ten seconds, so everything happens in
one process and with jobs that take no time. It runs apart from the tests' own process, whose
logging and warnings it would change.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.scale

SCRIPT = """
import sys
import duckdb
import kumoai
import pandas as pd
from kumoai.artifact_export import OutputConfig
from kumoai.artifact_export.config import SnowflakeConnectorConfig
from kumoai.trainer import BatchPredictionJob, Trainer
from kumoapi.jobs import MetadataField, WriteMode
from dagster_kumo.local import LocalKumo

with LocalKumo(files_per_output=2) as kumo:
    kumoai.init(url=kumo.url, api_key=kumo.api_key, log_level="ERROR")

    found = kumoai.TrainingJob.search_by_tags({"use_case": "spend"})
    assert [job.id for job in found] == ["trainingjob-cdnow-spend"]
    training = kumoai.TrainingJobResult("trainingjob-cdnow-purchase")
    assert training.metrics().test_metrics[0].name == "auroc"
    assert len(training.holdout_df()) == 23570
    assert training.tracking_url == kumo.url.replace("/api", "/jobs/" + training.id)

    pquery = kumoai.PredictiveQuery.load_from_training_job(training.id)
    assert pquery.get_task_type() == "binary_classification"
    assert pquery.graph["purchases"].source_table.head(2)["customer_id"].tolist() == [1, 2]
    trainer = Trainer.load(training.id)
    assert trainer.is_trained

    anchor = pd.Timestamp.now("UTC").normalize().to_pydatetime() - pd.Timedelta(days=40)
    job = trainer.predict(
        graph=pquery.graph,
        output_config=OutputConfig(
            output_types={"predictions", "embeddings"},
            output_connector=kumoai.S3Connector(root_dir="s3://bucket/dir"),
            output_table_name="CHURN",
        ),
        num_workers=2,
        non_blocking=True,
        custom_tags={"team": "a"},
        prediction_time=anchor,
    )
    result = job.result()
    assert job.status().status == "DONE"
    progress = job.progress()
    assert progress.completed_iterations == progress.total_iterations > 0
    assert result.summary().num_entities_predicted == 23570
    assert len(result.predictions_urls()) == len(result.embeddings_urls()) == 2
    frame = result.predictions_df()
    assert len(frame) == len(result.embeddings_df()) == 23570
    assert frame["ANCHOR_TIMESTAMP"].unique().tolist() == [anchor.replace(tzinfo=None)]
    assert result.prediction_table.anchor_time == anchor
    assert len(result.prediction_table.data_df()) == 23570
    assert job.load_config().model_training_job_id == training.id
    assert not job.cancel()

    assert job.update_tags({"team": "b", "seen": "1"})
    assert job.delete_tags(["seen"])
    assert job.get_tags()["team"] == "b"
    assert [j.id for j in BatchPredictionJob.search_by_tags({"team": "b"})] == [job.id]

    written = kumo.data / "exports/s3/bucket/dir/CHURN_predictions"
    assert len(pd.read_parquet(written)) == 23570

    snowflake = kumoai.SnowflakeConnector(
        "wh", "account", "w", "db", "schema", credentials={"user": "u", "password": "p"}
    )
    assert kumoai.SnowflakeConnector.get_by_name("wh").database == "DB"
    keys = "private_key_id private_key client_id client_email token_uri auth_uri".split()
    bigquery = kumoai.BigQueryConnector("bq", "p", "d", credentials={key: "x" for key in keys})
    databricks = kumoai.DatabricksConnector(
        "dbx", "host", "cluster", "warehouse", "catalog", credentials={"token": "t"}
    )
    append = SnowflakeConnectorConfig(WriteMode.APPEND)
    for connector, table, extra in (
        (kumoai.S3Connector("s3://bucket/other"), "CHURN", {}),
        (snowflake, "CHURN", {"connector_specific_config": append}),
        (snowflake, "CHURN", {"connector_specific_config": append}),
        (bigquery, "CHURN", {"output_metadata_fields": [MetadataField.JOB_TIMESTAMP]}),
        (databricks, ("gold", "CHURN"), {}),
    ):
        config = OutputConfig({"predictions"}, connector, table, **extra)
        export = result.export(config)
        assert export.result().job_id == export.id
        assert export.status() == "DONE"
    with duckdb.connect(kumo.data / "exports/warehouses.duckdb") as tables:
        def count(name):
            return tables.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
        assert count('"snowflake_wh"."CHURN_predictions"') == 2 * 23570
        assert count('"bigquery_bq"."CHURN_predictions"') == 23570
        assert count('"databricks_dbx"."gold.CHURN_predictions"') == 23570

    table = pquery.generate_prediction_table(non_blocking=True)
    again = Trainer.load("trainingjob-cdnow-spend").predict(
        graph=pquery.graph,
        prediction_table=table.result(),
        output_config={"output_types": {"predictions"}},
        non_blocking=True,
    )
    kumo_status = [r.status for r in kumo.requests if r.status and r.status >= 500]
    assert not kumo_status
    try:
        trainer.predict(
            graph=pquery.graph,
            output_config={"output_types": {"predictions"}},
            training_job_id="trainingjob-none",
            non_blocking=True,
        )
    except RuntimeError as error:
        assert "trainingjob-none" in str(error)
    else:
        raise AssertionError("a launch with an unknown model was not refused")
    print("all of it")
"""

RBAC = """
import kumoai
from dagster_kumo.local import LocalKumo

with LocalKumo(rbac=True) as kumo:
    kumoai.init(url=kumo.url, api_key=kumo.api_key, group="Analytics", project="Churn")
    assert kumoai.current_group().id == "group-analytics"
    assert [p.name for p in kumoai.list_projects()] == ["Churn", "Spend"]
    assert kumoai.TrainingJob.search_by_tags({"use_case": "none"}) == []
    assert kumo.requests[-1].query["project_id"] == "project-churn"
    print("all of it")
"""


def run(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.endswith("all of it\n")


def test_the_sdk_does_its_work() -> None:
    run(SCRIPT)


def test_the_sdk_finds_its_group() -> None:
    run(RBAC)
