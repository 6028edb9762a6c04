"""The data and the models: real, moved by whole days, and honest in time."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from dagster_kumo.local import load_transactions
from dagster_kumo.local.folder import DataFolder
from dagster_kumo.local.model import model as m
from dagster_kumo.local.model.data import FIRST_DAY, NUM_DAYS, Calendar, Purchases, purchases
from dagster_kumo.local.model.tasks import CURRENT, EARLIER, NEWEST, Recipe


def test_the_whole_data_set_is_there():
    frame = load_transactions()
    assert list(frame.columns) == ["customer_id", "date", "number_of_cds", "dollar_value"]
    assert len(frame) == 69_659
    assert frame["customer_id"].nunique() == 23_570
    assert round(frame["dollar_value"].sum(), 2) == 2_500_315.63
    yesterday = datetime.now(timezone.utc).date() - timedelta(days=1)
    assert frame["date"].max().date() == yesterday
    assert (frame["date"].max() - frame["date"].min()).days == NUM_DAYS - 1
    # Purchases keep their distances: the first customer bought on the first day.
    assert (yesterday - timedelta(days=NUM_DAYS - 1)) == frame["date"][0].date()
    assert FIRST_DAY.isoformat() == "1997-01-01"


def test_a_folder_keeps_its_last_day(tmp_path):
    folder = DataFolder(tmp_path)
    state = json.loads((tmp_path / "state.json").read_text())
    state["last_day"] = "2025-01-31"
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert load_transactions(tmp_path)["date"].max().isoformat() == "2025-01-31T00:00:00"
    assert DataFolder(tmp_path).secret == folder.secret


def test_features_see_nothing_from_the_anchor_on(monkeypatch):
    """Whatever happens on the anchor's day or later, the features stay as they are."""
    day = 400
    entities = m.entities_at(day)
    before = m.features_at(day, entities)
    rows = purchases()
    keep = rows.day < day
    cut = Purchases(rows.customer[keep], rows.day[keep], rows.cds[keep], rows.cents[keep])
    monkeypatch.setattr(m, "purchases", lambda: cut)
    assert np.array_equal(m.features_at(day, entities), before)


def test_splits_do_not_overlap():
    for split in (CURRENT, EARLIER, NEWEST):
        days = [*split.train, split.validation, split.holdout, split.cutoff]
        assert (np.diff(days) >= 30).all()
    assert NUM_DAYS - CURRENT.cutoff >= 200


def test_metrics_are_what_the_model_does(tmp_path):
    from sklearn.metrics import roc_auc_score

    model = m.load_model("binary_classification", Recipe(CURRENT), tmp_path)
    entities = m.entities_at(CURRENT.holdout)
    rows = purchases()
    month = (rows.day >= CURRENT.holdout) & (rows.day < CURRENT.holdout + 30)
    bought = np.isin(entities, rows.customer[month])
    guess = model.predict(m.features_at(CURRENT.holdout, entities))
    auroc = roc_auc_score(bought, guess)
    assert auroc == pytest.approx(model.metrics["test_metrics"]["auroc"])
    assert auroc > 0.75
    spend = m.load_model("regression", Recipe(CURRENT), tmp_path).metrics["test_metrics"]
    dollars = np.bincount(rows.customer[month], rows.cents[month] / 100, minlength=23_571)[1:]
    assert spend["rmse"] < dollars.std()


def test_models_are_kept_and_read_without_fitting(tmp_path, monkeypatch):
    monkeypatch.setattr(m, "_models", {})
    fitted = m.load_model("regression", Recipe(CURRENT), tmp_path)

    def refuse(*_):
        raise AssertionError("fitted again")

    monkeypatch.setattr(m, "_models", {})
    monkeypatch.setattr(m, "_fit", refuse)
    read = m.load_model("regression", Recipe(CURRENT), tmp_path)
    features = m.features_at(500, m.entities_at(500))
    assert np.array_equal(read.predict(features), fitted.predict(features))
    assert np.array_equal(read.embed(features), fitted.embed(features))
    assert read.metrics == fitted.metrics


def test_importing_it_is_cheap_and_loads_neither_sdk_nor_server():
    code = (
        "import sys; import dagster_kumo.local;"
        "heavy = {'sklearn', 'duckdb', 'starlette', 'uvicorn', 'pyarrow', 'kumoai', 'kumoapi'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_the_calendar():
    calendar = Calendar(datetime(2025, 6, 30).date())
    assert calendar.latest == datetime(2025, 6, 30, tzinfo=timezone.utc)
    assert calendar.day(calendar.latest) == NUM_DAYS - 1
    assert calendar.at(calendar.day(calendar.latest)) == calendar.latest
