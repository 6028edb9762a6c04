"""The README's code is code that runs."""

import re
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from dagster_kumo import KumoResource
from dagster_kumo.api.records import BatchPredictionRequest
from dagster_kumo.local import LocalKumo

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_definitions_of_the_readme_load() -> None:
    names: dict[str, object] = {}
    exec(BLOCKS[0], names)

    defs = names["defs"]
    assert isinstance(defs, dg.Definitions)
    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert {"churn/model", "churn/predictions", "churn/predictions_in_snowflake"} <= keys
    assert "likely_to_leave" in keys
    defs.resolve_all_job_defs()


def test_the_decorated_asset_of_the_readme_loads() -> None:
    names: dict[str, object] = {}
    exec(BLOCKS[1], names)
    churn = names["churn"]
    assert isinstance(churn, dg.AssetsDefinition)
    assert {key.path[1] for key in churn.keys} == {"predictions", "embeddings"}


def test_the_plain_python_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalKumo() as server:
        kumo = KumoResource(url=server.url, api_key=server.api_key)
        request = BatchPredictionRequest(model_training_job_id="trainingjob-cdnow-purchase")
        job_id, _ = kumo.get_client().create_prediction_job(request)
        kumo.batch_prediction_job(job_id).result()
        monkeypatch.setenv("KUMO_API_KEY", server.api_key)
        monkeypatch.setenv("KUMO_API_ENDPOINT", server.url)
        names: dict[str, object] = {}
        exec(BLOCKS[3].replace("bp-job-...", job_id), names)
        table = names["table"]
        assert isinstance(table, pa.Table)
        assert table.num_rows == 23_570


def test_the_stand_in_of_the_readme_runs() -> None:
    names: dict[str, object] = {}
    exec(BLOCKS[2], names)
    assert isinstance(names["kumo"], KumoResource)


def test_every_link_of_the_readme_leads_somewhere() -> None:
    root = Path(__file__).parents[1]
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (root / link).exists()] == []
