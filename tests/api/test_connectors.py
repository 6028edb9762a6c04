"""What an export asks for, held against what the official SDK would ask."""

from __future__ import annotations

import dataclasses
import json

import pytest
from kumoai import connector as sdk
from kumoai.artifact_export.config import OutputConfig, SnowflakeConnectorConfig
from kumoai.databricks import to_db_table_name
from kumoai.trainer.util import build_prediction_output_config
from kumoapi.jobs import (
    ADLSPredictionOutput,
    LocalPredictionOutput,
    PredictionOutputConfig,
)
from pydantic import TypeAdapter

from dagster_kumo import (
    ADLSConnector,
    BigQueryConnector,
    DatabricksConnector,
    GCSConnector,
    S3Connector,
    SnowflakeConnector,
)
from dagster_kumo.api.connectors import kept_by_kumo, prediction_output

FIELDS = ["ANCHOR_TIMESTAMP", "JOB_TIMESTAMP"]


def warehouse_of_the_sdk(kind: type, name: str):
    """A connector as the SDK has it, without the call that would create it in Kumo."""
    made = object.__new__(kind)
    made._name = name
    return made


def as_json(output: object) -> dict:
    return json.loads(TypeAdapter(type(output)).dump_json(output))


CASES = {
    "s3": (S3Connector("s3://b/out"), sdk.S3Connector("s3://b/out"), "CHURN"),
    "s3 with a slash": (S3Connector("s3://b/out/"), sdk.S3Connector("s3://b/out/"), "CHURN"),
    "gcs": (GCSConnector("gs://b/out"), sdk.GCSConnector("gs://b/out"), "CHURN"),
    "snowflake": (
        SnowflakeConnector("wh"),
        warehouse_of_the_sdk(sdk.SnowflakeConnector, "wh"),
        "CHURN",
    ),
    "bigquery": (
        BigQueryConnector("bq"),
        warehouse_of_the_sdk(sdk.BigQueryConnector, "bq"),
        "CHURN",
    ),
    "databricks": (
        DatabricksConnector("db"),
        warehouse_of_the_sdk(sdk.DatabricksConnector, "db"),
        ("analytics", "churn"),
    ),
}


@pytest.mark.parametrize(("ours", "theirs", "table"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("output_type", ["predictions", "embeddings"])
@pytest.mark.parametrize("fields", [[], FIELDS], ids=["plain", "with fields"])
def test_an_output_is_the_one_that_the_sdk_asks_for(ours, theirs, table, output_type, fields):
    config = OutputConfig(output_types={output_type}, output_metadata_fields=fields or None)
    asked = build_prediction_output_config(
        output_type, theirs, to_db_table_name(table), config.output_metadata_fields, config
    )
    assert prediction_output(output_type, ours, table, metadata_fields=fields) == as_json(asked)


@pytest.mark.parametrize("mode", ["OVERWRITE", "APPEND"])
@pytest.mark.parametrize("kind", ["snowflake", "bigquery"])
def test_a_write_mode_is_sent_as_the_sdk_sends_it(kind, mode):
    ours, theirs, table = CASES[kind]
    config = OutputConfig(
        output_types={"predictions"},
        connector_specific_config=SnowflakeConnectorConfig(write_mode=mode),
    )
    asked = build_prediction_output_config("predictions", theirs, table, None, config)
    assert prediction_output("predictions", ours, table, write_mode=mode) == as_json(asked)


def test_outputs_that_the_sdk_cannot_build_are_what_its_models_take():
    """The SDK has models, but no connector, for Azure and for what stays with Kumo."""
    adls = prediction_output(
        "predictions", ADLSConnector("abfss://c@a.dfs.core.windows.net/o"), "T"
    )
    kept = kept_by_kumo("embeddings")
    union = TypeAdapter(PredictionOutputConfig)
    for output, kind in ((adls, ADLSPredictionOutput), (kept, LocalPredictionOutput)):
        understood = union.validate_python(output)
        assert isinstance(understood, kind)
        assert as_json(understood) == output
        assert set(output) == {field.name for field in dataclasses.fields(kind)}
    assert adls["file_path"] == "abfss://c@a.dfs.core.windows.net/o/T_predictions"


@pytest.mark.parametrize("kind", CASES)
def test_the_name_shown_is_the_one_of_the_target(kind):
    ours, _, table = CASES[kind]
    output = prediction_output("predictions", ours, table)
    target = output.get("file_path") or output["table_name"]
    assert ours.display_name(table, "predictions") == target.replace("__kumo__", ".")


S3 = S3Connector("s3://b/out")


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("predictions", S3, "T"), {"write_mode": "APPEND"}, "S3Connector has no write mode"),
        (("predictions", S3, "T"), {"write_mode": "OVERWRITE"}, "S3Connector has no write mode"),
        (
            ("predictions", SnowflakeConnector("wh"), "T"),
            {"write_mode": "append"},
            "OVERWRITE or APPEND, not 'append'",
        ),
        (("predictions", S3, "T"), {"metadata_fields": ["ENTITY"]}, "not ENTITY"),
        (("labels", S3, "T"), {}, "predictions, embeddings, not 'labels'"),
        (("predictions", "s3://b/out", "T"), {}, "S3Connector, GCSConnector"),
        (("predictions", S3, ""), {}, "table_name is not a name"),
        (("predictions", S3, "  "), {}, "table_name is not a name"),
        (("predictions", S3, "a\nb"), {}, "table_name is not a name"),
        (("predictions", S3, ("s", "t")), {}, "is for DatabricksConnector"),
        (("predictions", DatabricksConnector("db"), "t"), {}, r"\(\"analytics\", \"churn\"\)"),
        (("predictions", DatabricksConnector("db"), ("s", "")), {}, "as a pair"),
        (("predictions", DatabricksConnector("db"), ("a", "b", "c")), {}, "as a pair"),
    ],
)
def test_what_a_connector_has_no_room_for_is_refused(arguments, options, said):
    with pytest.raises(ValueError, match=said):
        prediction_output(*arguments, **options)


@pytest.mark.parametrize(
    ("kind", "argument"),
    [
        (S3Connector, "gs://b/out"),
        (S3Connector, "/data/out"),
        (S3Connector, "s3://"),
        (GCSConnector, "s3://b/out"),
        (ADLSConnector, "https://account.blob/out"),
        (SnowflakeConnector, ""),
        (BigQueryConnector, "  "),
        (DatabricksConnector, ""),
    ],
)
def test_a_connector_that_names_nothing_is_refused_with_an_example(kind, argument):
    with pytest.raises(ValueError, match=f"{kind.__name__} needs"):
        kind(argument)


def test_an_option_without_room_is_refused_before_anything_is_sent(kumo, result):
    with pytest.raises(ValueError, match="write mode"):
        result.export("predictions", S3, "T", write_mode="APPEND")
    assert [r for r in kumo.requests if r.method == "POST"] == []
