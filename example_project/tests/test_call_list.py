"""A day of the shop, against a stand-in of its own: nothing of the project's data is touched."""

from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from example_project.defs import call_list, models, source_tables
from example_project.which_kumo import promote_first_model

from dagster_kumo import KumoIOManager, KumoResource
from dagster_kumo.local import LocalKumo


def test_the_biggest_spenders_are_called_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_list, "CALL_LISTS", tmp_path)
    monkeypatch.setattr(source_tables, "STAND_IN", tmp_path / "kumo")
    day = str(date.today() - timedelta(days=3))
    with LocalKumo(tmp_path / "kumo") as kumo:
        connection = KumoResource(url=kumo.url, api_key=kumo.api_key)
        promote_first_model(connection.get_client())
        store = KumoIOManager(base_path=str(tmp_path / "store"))
        run = dg.materialize(
            [
                source_tables.purchases,
                models.purchase.predictions,
                models.spend.predictions,
                call_list.call_list,
            ],
            resources={"kumo": connection, "kumo_io_manager": store, "io_manager": store},
            partition_key=day,
        )
    assert run.success
    calls = pd.read_csv(tmp_path / f"{day}.csv")
    assert 0 < len(calls) <= call_list.LENGTH
    assert calls["expected_spend"].is_monotonic_decreasing
    assert (calls["probability"] >= 0.2).all()
