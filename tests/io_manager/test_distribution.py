"""What the metadata shows of scores and classes: picture, words, and how far they have moved."""

import base64
import io
import re
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from dagster_kumo import BatchPrediction, KumoIOManager
from dagster_kumo.io_manager.distribution import (
    chart_of,
    distribution_as_picture,
    distribution_as_text,
)
from dagster_kumo.io_manager.figure import MAX_PICTURE_BYTES
from dagster_kumo.local import LocalKumo
from dagster_kumo.predictions.statistics.summary import OutputSummary
from tests.support import DAYS, PREDICTIONS, PURCHASE, day, metadata_of, purchase_assets, resources

random = np.random.default_rng(5)
SCORES = random.beta(1, 8, 20_000)
LIGHT, DARK = (255, 255, 255), (17, 19, 24)  # the grounds of Dagit's two themes


def summary(**columns: Any) -> OutputSummary:
    table = pa.table({"ENTITY": range(len(next(iter(columns.values())))), **columns})
    found = OutputSummary(table.schema)
    for batch in table.to_batches():
        found.update(batch)
    return found


def binary() -> OutputSummary:
    return summary(TARGET_PRED=SCORES > 0.3, False_PROB=1 - SCORES, True_PROB=SCORES)


def of_classes(names: list[str], entities: int) -> OutputSummary:
    scores = random.dirichlet(np.linspace(0.1, 2, len(names)), entities)
    return summary(
        ENTITY=np.repeat(np.arange(entities), len(names)),
        CLASS=np.tile(names, entities),
        SCORE=scores.ravel(),
    )


KINDS = {
    "binary": binary(),
    "regression": summary(TARGET_PRED=random.lognormal(3, 2, 20_000)),
    "multiclass": of_classes(["0", "1", "2", "3+"], 5000),
    "thirty classes": of_classes([f"item {n}" for n in range(30)], 500),
    "link prediction": of_classes(
        [f"{n} ` $\\frac$ an item with quite a long name" for n in range(900)], 10
    ),
    "classes alone": summary(TARGET_PRED=random.choice(["gold", "silver"], 20_000)),
    "all the same": summary(TARGET_PRED=[3.0] * 100),
    "one row": summary(TARGET_PRED=[True], True_PROB=[0.83]),
    "amounts below zero": summary(TARGET_PRED=random.normal(-3, 20, 20_000)),
    "whole numbers": summary(TARGET_PRED=random.poisson(1.5, 20_000)),
    "very rare": summary(TARGET_PRED=SCORES > 2, True_PROB=random.beta(0.2, 3000, 20_000)),
    "frequent": summary(TARGET_PRED=SCORES > 0, True_PROB=1 - SCORES / 4),
    "embeddings": summary(EMBEDDING=list(random.normal(0, 1, (1000, 16)))),
}


def text_of(found: OutputSummary, *, threshold: float | None = None) -> str:
    chart = chart_of(found, threshold=threshold)
    assert chart is not None
    return distribution_as_text(chart)


def picture_of(found: OutputSummary, *, threshold: float | None = None) -> str | None:
    chart = chart_of(found, threshold=threshold)
    assert chart is not None
    return distribution_as_picture(chart)


def png_of(picture: str | None) -> bytes:
    assert picture is not None
    head, _, data = picture.partition("(data:image/png;base64,")
    assert head.startswith("![")
    return base64.b64decode(data.removesuffix(")"))


def luminance(color: tuple[int, int, int]) -> float:
    shares = [c / 255 for c in color]
    r, g, b = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_small_enough_for_an_event_log(kind: str) -> None:
    png = png_of(picture_of(KINDS[kind], threshold=0.3))
    assert len(png) <= MAX_PICTURE_BYTES == 40_000
    width, height = Image.open(io.BytesIO(png)).size
    assert max(width, height) <= 1000


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_can_be_read_on_a_light_and_on_a_dark_ground(kind: str) -> None:
    image = Image.open(io.BytesIO(png_of(picture_of(KINDS[kind], threshold=0.3))))
    pixels = np.asarray(image.convert("RGBA")).reshape(-1, 4)
    drawn = pixels[pixels[:, 3] == 255][:, :3]
    assert 0.01 < len(drawn) / len(pixels) < 0.9  # the ground itself is left to the page
    for color in np.unique(drawn, axis=0):
        assert contrast(tuple(color.tolist()), LIGHT) >= 3, color
        assert contrast(tuple(color.tolist()), DARK) >= 3, color


def colors(picture: str | None) -> set[tuple[int, ...]]:
    image = Image.open(io.BytesIO(png_of(picture))).convert("RGBA")
    return {tuple(p) for p in np.unique(np.asarray(image).reshape(-1, 4), axis=0).tolist()}


def test_the_threshold_is_marked_where_it_is_known() -> None:
    mark = (0xD9, 0x77, 0x06, 255)
    assert mark in colors(picture_of(binary(), threshold=0.3))
    assert mark not in colors(picture_of(binary()))
    assert mark not in colors(picture_of(KINDS["regression"], threshold=0.3))
    assert "at or above the threshold 0.3" in text_of(binary(), threshold=0.3)
    assert "threshold" not in text_of(binary())


def test_the_words_say_where_the_scores_are_and_how_many_get_a_yes() -> None:
    text = text_of(binary(), threshold=0.3)
    yes = int((SCORES > 0.3).sum())
    assert f"{yes:,} of 20,000 ({yes / 200:.1f} %) at or above the threshold 0.3" in text
    assert f"{yes:,} of 20,000 ({yes / 200:.1f} %) get a yes" in text_of(binary())
    low, median, high = np.quantile(SCORES, [0.05, 0.5, 0.95])
    assert f"median {median:.2g}, 90 % between {low:.2g} and {high:.2g}" in text


def shares_of(found: OutputSummary, *, threshold: float | None = None) -> dict[str, float]:
    chart = chart_of(found, threshold=threshold)
    assert chart is not None
    return {bar.label: bar.share for bar in chart.bars}


def test_the_bars_count_every_row_up_to_the_true_maximum() -> None:
    shares = shares_of(binary(), threshold=0.3)
    assert shares["0.2 to 0.3"] == pytest.approx(
        ((SCORES >= 0.2) & (SCORES < 0.3)).mean(), abs=1e-4
    )
    assert sum(shares.values()) == pytest.approx(1)
    amounts = np.where(random.random(20_000) < 0.35, 0, random.lognormal(1, 1.2, 20_000))
    shares = shares_of(summary(TARGET_PRED=amounts))
    assert shares["0"] == (amounts == 0).mean()
    assert list(shares)[-1].endswith(f"to {amounts.max():.4g}")
    assert shares["1 to 2"] == pytest.approx(((amounts >= 1) & (amounts < 2)).mean(), abs=1e-4)
    assert sum(shares.values()) == pytest.approx(1)


def test_scores_that_are_all_missing_are_said_to_be() -> None:
    nothing = summary(TARGET_PRED=pa.nulls(7, pa.bool_()), True_PROB=pa.nulls(7, pa.float64()))
    assert text_of(nothing) == "True_PROB has no value in any of 7 rows."
    assert picture_of(nothing) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_are_few_enough_for_dagit_to_show_them_in_place(kind: str) -> None:
    text = text_of(KINDS[kind], threshold=0.3)
    assert len(text) < 1000
    assert max(map(len, text.splitlines())) <= 72  # Dagit cuts longer lines off
    assert text.count("`") % 2 == 0  # no class breaks out of its block


def test_classes_are_bars_the_likeliest_first_and_the_rest_together() -> None:
    text = text_of(KINDS["link prediction"])
    assert "891 others" in text
    assert "900 classes" in text
    few = text_of(
        summary(ENTITY=[1, 1, 2, 2], CLASS=["b", "a"] * 2, SCORE=[0.25, 0.75, 0.25, 0.75])
    )
    assert "a ████████████████████  75.0 % 100.0 %\nb ███████               25.0 %     0 %" in few
    labels = text_of(summary(TARGET_PRED=["b"] * 30 + ["a"] * 70))
    assert labels.index("a ████████████████████  70.0 %") < labels.index("30.0 %")


def test_embeddings_show_their_dimension_and_their_norms() -> None:
    text = text_of(summary(EMBEDDING=[[3.0, 4.0]] * 10))
    assert "EMBEDDING: 2 dimensions" in text
    assert "Norm of EMBEDDING: median 5" in text


def test_what_has_neither_scores_nor_classes_has_no_distribution() -> None:
    assert chart_of(summary(name=["a", "b"])) is None


def test_without_matplotlib_there_is_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert picture_of(binary()) is None


# In a run


def test_a_materialization_shows_the_picture_the_words_and_the_threshold_of_its_job(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    prediction = BatchPrediction(training_job_id=PURCHASE, binary_classification_threshold=0.2)
    run = dg.materialize(
        [purchase_assets(prediction=prediction)],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(5),
    )
    metadata = metadata_of(run, PREDICTIONS)
    assert len(png_of(metadata["dagster-kumo/distribution"])) < MAX_PICTURE_BYTES
    brief = metadata["dagster-kumo/distribution_in_brief"]
    assert "True_PROB: median 0.0" in brief
    assert re.search(r"\d of 23,570 \(\d\.\d %\) at or above the threshold 0\.2", brief)
    assert len(brief) < 1000


def test_without_matplotlib_the_words_are_the_distribution(
    kumo: LocalKumo,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run = dg.materialize(
        [purchase_assets()],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(5),
    )
    metadata = metadata_of(run, PREDICTIONS)
    assert "True_PROB: median 0.0" in metadata["dagster-kumo/distribution_in_brief"]
    assert "dagster-kumo/distribution" not in metadata


class Days:
    """An asset whose scores can be told for each partition."""

    def __init__(self, path: Path, partitions_def: dg.PartitionsDefinition) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.resources = {"kumo_io_manager": KumoIOManager(base_path=str(path))}
        self.score = 0.0

        @dg.asset(partitions_def=partitions_def, io_manager_key="kumo_io_manager")
        def scores() -> pd.DataFrame:
            return pd.DataFrame({"ENTITY": range(1000), "SCORE": SCORES[:1000] + self.score})

        self.asset = scores

    def make(self, key: str, *, score: float) -> dict[str, Any]:
        """The entries about drift of a materialization."""
        self.score = score
        run = dg.materialize(
            [self.asset], instance=self.instance, resources=self.resources, partition_key=key
        )
        metadata = metadata_of(run, self.asset.key)
        return {k: v for k, v in metadata.items() if k.endswith("/psi")}


def test_how_far_the_scores_have_moved_since_the_day_before_is_plotted(tmp_path: Path) -> None:
    days = Days(tmp_path, DAYS)
    assert days.make(day(4), score=0) == {}
    assert days.make(day(3), score=0.5)["dagster-kumo/SCORE/psi"] > 1
    assert days.make(day(3), score=0) == {"dagster-kumo/SCORE/psi": 0.0}
    assert days.make(day(1), score=0) == {}  # the day before is not stored


REGIONS = dg.StaticPartitionsDefinition(["north", "south"])


@pytest.mark.parametrize(
    ("partitions_def", "first", "second"),
    [
        (REGIONS, "north", "south"),
        (
            dg.MultiPartitionsDefinition({"day": DAYS, "region": REGIONS}),
            dg.MultiPartitionKey({"day": day(4), "region": "south"}),
            dg.MultiPartitionKey({"day": day(3), "region": "south"}),
        ),
        (dg.WeeklyPartitionsDefinition(day(60)), None, None),
        (dg.DynamicPartitionsDefinition(name="batches"), "first", "second"),
    ],
    ids=["static", "days and regions", "weeks", "dynamic"],
)
def test_the_partition_before_is_known_for_every_kind_of_partitions(
    tmp_path: Path, partitions_def: Any, first: Any, second: Any
) -> None:
    days = Days(tmp_path, partitions_def)
    if isinstance(partitions_def, dg.DynamicPartitionsDefinition):
        days.instance.add_dynamic_partitions("batches", ["first", "second"])
    if first is None:
        first, second = partitions_def.get_partition_keys()[-2:]
    assert days.make(first, score=0) == {}
    assert days.make(second, score=0.25)["dagster-kumo/SCORE/psi"] > 1


def test_statistics_that_cannot_be_read_are_a_warning_and_the_data_is_stored(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    days = Days(tmp_path, DAYS)
    days.make(day(4), score=0)
    (kept,) = tmp_path.rglob("_statistics.json")
    kept.write_text("{not json")
    assert days.make(day(3), score=0) == {}
    assert "There is no drift in the metadata, the data is stored" in capfd.readouterr().err
