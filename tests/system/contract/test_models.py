"""Every request that the project can send is one that the vendor's models take, and say the same."""

from __future__ import annotations

import json
import re
import string
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from dagster_kumo import (
    ADLSConnector,
    BatchPrediction,
    BatchPredictionJobResult,
    BigQueryConnector,
    DatabricksConnector,
    GCSConnector,
    KumoAPIError,
    KumoClient,
    KumoError,
    S3Connector,
    SnowflakeConnector,
)
from dagster_kumo.api.connectors import prediction_output
from dagster_kumo.local import LocalKumo
from tests.system.contract.conftest import ANSWERS
from tests.system.contract.sdk import Sdk

fixtures_may_last = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

words = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=20)
texts = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=20).filter(str.strip)
tags = st.dictionaries(words.filter(lambda w: not w.startswith("dagster.")), texts, max_size=3)
maybe = st.none() | words
times = st.none() | st.datetimes(
    datetime(1971, 1, 1),
    datetime(2200, 1, 1),
    timezones=st.sampled_from(
        [timezone.utc, timezone(timedelta(hours=-9)), timezone(timedelta(hours=5, minutes=45))]
    ),
)
tables = st.sampled_from(
    [{}, {"prediction_table_job_id": "gen-1"}, {"prediction_table_path": "s3://bucket/t/"}]
)


@st.composite
def predictions(draw: st.DrawFn, outputs: tuple[str, ...]) -> BatchPrediction:
    return BatchPrediction(
        training_job_id=draw(words),
        outputs=outputs,  # type: ignore[arg-type]
        binary_classification_threshold=draw(st.none() | st.floats(0, 1)),
        num_classes_to_return=draw(st.none() | st.integers(1, 10_000)),
        num_workers=draw(st.integers(1, 4)),
        graph_snapshot_id=draw(maybe),
        job_tags=draw(tags),
        **draw(tables),
    )


@pytest.mark.parametrize(
    "outputs",
    [
        ("predictions",),
        pytest.param(
            ("predictions", "embeddings"), marks=pytest.mark.younger("outputs that stay with Kumo")
        ),
    ],
    ids="-".join,
)
@fixtures_may_last
@given(data=st.data())
def test_a_launch(
    sdk: Sdk, ours: KumoClient, outputs: tuple[str, ...], data: st.DataObject
) -> None:
    prediction = data.draw(predictions(outputs))
    time = data.draw(times)
    request = prediction.request(
        training_job_id=prediction.training_job_id or "",
        outputs=prediction.outputs,
        prediction_time=time,
    )
    sent = ours.generation.launch(request)
    read = sdk("parse", "jobs.BatchPredictionRequest", json.dumps(sent))
    assert without(sent, "prediction_time") == common(read, without(sent, "prediction_time"))
    if time is not None and read.get("prediction_time") and "prediction_time" in sent:
        assert datetime.fromisoformat(read["prediction_time"].replace("Z", "+00:00")) == time


def without(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name}


def common(read: Any, sent: Any) -> Any:
    """What was read, as far as it was sent; and what was sent and an older model does not know."""
    if isinstance(sent, dict) and isinstance(read, dict):
        return {key: common(read[key], sent[key]) if key in read else sent[key] for key in sent}
    if isinstance(sent, list) and isinstance(read, list) and len(sent) == len(read):
        return [common(a, b) for a, b in zip(read, sent, strict=True)]
    return read


THERE_IN_3: dict[str, Any] = {
    "s3": S3Connector("s3://bucket/out"),
    "gcs": GCSConnector("gcs://bucket/out"),
    "adls": ADLSConnector("abfss://con@account.dfs.core.windows.net/out"),
    "snowflake": SnowflakeConnector("warehouse"),
    "bigquery": BigQueryConnector("analytics"),
    "databricks": DatabricksConnector("lakehouse"),
}
"""Connectors that the project has: 3.0 looks them up."""


connectors = {
    "s3": st.builds(S3Connector, words.map("s3://{}/out/".format), connector_id=maybe),
    "gcs": st.builds(GCSConnector, words.map("gs://{}".format), connector_id=maybe),
    "adls": st.builds(
        ADLSConnector, words.map("abfss://c@{}.dfs.core.windows.net/o".format), connector_id=maybe
    ),
    "snowflake": st.builds(SnowflakeConnector, texts),
    "bigquery": st.builds(BigQueryConnector, texts),
    "databricks": st.builds(DatabricksConnector, texts),
}
YOUNGER_KINDS = {"gcs": "GCS as a target", "adls": "ADLS as a target"}
KINDS = [
    pytest.param(kind, marks=pytest.mark.younger(YOUNGER_KINDS[kind]))
    if kind in YOUNGER_KINDS
    else kind
    for kind in connectors
]


@st.composite
def outputs_to(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """What a user may say of an export to a kind of storage."""
    # Other names are refused: they could end a statement, or lead out of a folder.
    name = texts.filter(lambda text: not re.search(r"[;'\"`\\]|^/|^\.{1,2}$|\.{1,2}/", text))
    table = draw(st.tuples(name, name) if kind == "databricks" else name)
    modes = st.sampled_from([None, "OVERWRITE", "APPEND"])
    return {
        "output_type": draw(st.sampled_from(["predictions", "embeddings"])),
        "connector": draw(connectors[kind]),
        "table_name": table,
        "write_mode": draw(modes) if kind in ("snowflake", "bigquery") else None,
        "metadata_fields": draw(
            st.lists(st.sampled_from(["ANCHOR_TIMESTAMP", "JOB_TIMESTAMP"]), unique=True)
        ),
    }


@pytest.mark.parametrize("kind", KINDS)
@settings(fixtures_may_last, max_examples=15)
@given(data=st.data())
def test_an_export(
    sdk: Sdk, ours: KumoClient, both_ask: LocalKumo, kind: str, data: st.DataObject
) -> None:
    options = data.draw(outputs_to(kind))
    is_3 = ours.generation.version == "3.0"
    both_ask.faults.clear()
    both_ask.faults.answer(200, body=ANSWERS["/artifact"], path="/artifact$", method="POST")
    try:
        BatchPredictionJobResult("bp-job-1", ours).export(
            options["output_type"],
            THERE_IN_3[kind] if is_3 else options["connector"],
            options["table_name"],
            metadata_fields=options["metadata_fields"],
            write_mode=options["write_mode"],
        )
    except KumoAPIError:
        raise
    except KumoError:  # a path that 3.0 cannot take, refused before it is sent
        assert is_3
        reject()
    sent = [r for r in both_ask.requests if r.path.endswith("/artifact")][-1].json
    read = sdk("parse", "jobs.ArtifactExportRequest", json.dumps(sent))["prediction_output"]
    asked = sent["prediction_output"]
    assert {name: read[name] for name in asked if name in read} == {
        name: value for name, value in asked.items() if name in read
    }
    if kind in ("s3", "gcs", "adls") and not is_3:
        assert asked.get("connector_id") == options["connector"].connector_id
    assert read["artifact_type"] == options["output_type"].upper()
    assert read["extra_fields"] == options["metadata_fields"]


@pytest.mark.parametrize("kind", KINDS)
@settings(fixtures_may_last, max_examples=25)
@given(data=st.data())
def test_a_launch_that_exports(sdk: Sdk, ours: KumoClient, kind: str, data: st.DataObject) -> None:
    options = data.draw(outputs_to(kind))
    is_3 = ours.generation.version == "3.0"
    output = prediction_output(
        options["output_type"],
        THERE_IN_3[kind] if is_3 else options["connector"],
        options["table_name"],
        metadata_fields=options["metadata_fields"],
        write_mode=options["write_mode"],
    )
    prediction = BatchPrediction(training_job_id="trainingjob-1")
    request = prediction.request(
        training_job_id="trainingjob-1", outputs=["predictions"], prediction_time=None
    ).model_copy(update={"outputs": [output]})
    try:
        sent = ours.generation.launch(request)
    except KumoError:  # a path that 3.0 cannot take
        assert is_3
        reject()
    read = sdk("parse", "jobs.BatchPredictionRequest", json.dumps(sent))
    assert sent["outputs"] == common(read["outputs"], sent["outputs"])


unsaid = st.just("???")
plans = st.fixed_dictionaries(
    {},
    optional={
        "anchor_time": st.integers(0, 2**62) | st.just("inferred"),
        "forecast_length": st.integers(1, 400) | unsaid,
        "lag_timesteps": st.integers(1, 400) | unsaid,
        "year_over_year": st.booleans() | unsaid,
    },
)


@settings(fixtures_may_last, max_examples=15)
@given(plan=plans, job_tags=tags, snapshot=maybe)
def test_a_prediction_table(
    sdk: Sdk,
    ours: KumoClient,
    both_ask: LocalKumo,
    plan: dict[str, Any],
    job_tags: dict[str, str],
    snapshot: str | None,
) -> None:
    both_ask.faults.answer(200, body={"id": "gen-1"}, path="/genpredtable_jobs$", method="POST")
    ours.create_prediction_table_job(
        "pquery-1", plan, job_tags=job_tags, graph_snapshot_id=snapshot
    )
    sent = [r for r in both_ask.requests if r.path.endswith("/genpredtable_jobs")][-1].json
    read = sdk("parse", "jobs.GeneratePredictionTableRequest", json.dumps(sent))
    assert {name: read["plan"][name] for name in plan} == plan
    for name in ("job_tags", "pquery_id", "graph_snapshot_id"):
        assert read[name] == sent[name]
