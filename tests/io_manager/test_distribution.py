"""What the metadata shows of scores and classes: picture, words, and how far they have moved."""

import base64
import io
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
    MAX_PICTURE_BYTES,
    distribution_as_picture,
    distribution_as_text,
)
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


KINDS = {
    "binary": binary(),
    "regression": summary(TARGET_PRED=random.lognormal(3, 2, 20_000)),
    "multiclass": summary(CLASS=random.choice(["0", "1", "2", "3+"], 20_000), SCORE=SCORES),
    "link prediction": summary(
        CLASS=[f"{n} ` $\\frac$ an item with quite a long name" for n in range(900)] * 10,
        SCORE=SCORES[:9000],
    ),
    "classes alone": summary(TARGET_PRED=random.choice(["gold", "silver"], 20_000)),
    "all the same": summary(TARGET_PRED=[3.0] * 100),
}


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
    png = png_of(distribution_as_picture(KINDS[kind], threshold=0.3))
    assert len(png) <= MAX_PICTURE_BYTES == 40_000
    width, height = Image.open(io.BytesIO(png)).size
    assert max(width, height) <= 1000


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_can_be_read_on_a_light_and_on_a_dark_ground(kind: str) -> None:
    image = Image.open(io.BytesIO(png_of(distribution_as_picture(KINDS[kind], threshold=0.3))))
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
    assert mark in colors(distribution_as_picture(binary(), threshold=0.3))
    assert mark not in colors(distribution_as_picture(binary()))
    assert mark not in colors(distribution_as_picture(KINDS["multiclass"], threshold=0.3))
    assert "the threshold being 0.3" in (distribution_as_text(binary(), threshold=0.3) or "")
    assert "threshold" not in (distribution_as_text(binary()) or "")


def test_the_words_tell_how_many_get_a_yes() -> None:
    text = distribution_as_text(binary(), threshold=0.3) or ""
    yes = int((SCORES > 0.3).sum())
    assert f"{yes:,} ({yes / 20_000:.1%}) get a yes" in text
    assert f"half are below {np.median(SCORES):.2f}"[:-1] in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_are_few_enough_for_dagit_to_show_them_in_place(kind: str) -> None:
    text = distribution_as_text(KINDS[kind], threshold=0.3)
    assert text is not None
    assert len(text) < 1000
    assert max(map(len, text.splitlines())) <= 72  # Dagit cuts longer lines off
    assert text.count("`") % 2 == 0  # no class breaks out of its block


def test_classes_are_bars_the_commonest_first_and_the_rest_together() -> None:
    text = distribution_as_text(KINDS["link prediction"]) or ""
    assert "893 others" in text
    assert "900 classes" in text
    few = distribution_as_text(summary(CLASS=["b"] * 30 + ["a"] * 70, SCORE=SCORES[:100])) or ""
    assert few.index("a ████████████████████ 70.0%") < few.index("30.0%")


def test_embeddings_have_no_distribution() -> None:
    embeddings = summary(embedding=[[0.1, 0.2]] * 10)
    assert distribution_as_text(embeddings) is None
    assert distribution_as_picture(embeddings) is None


def test_without_matplotlib_there_is_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert distribution_as_picture(binary()) is None


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
    assert "True_PROB of 23,570 rows" in brief
    assert "the threshold being 0.2" in brief
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
    assert "True_PROB of 23,570 rows" in metadata["dagster-kumo/distribution"]
    assert "dagster-kumo/distribution_in_brief" not in metadata


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
        return {k: v for k, v in metadata.items() if k.endswith(("/psi", "/mean_shift"))}


def test_how_far_the_scores_have_moved_since_the_day_before_is_plotted(tmp_path: Path) -> None:
    days = Days(tmp_path, DAYS)
    assert days.make(day(4), score=0) == {}
    moved = days.make(day(3), score=0.5)
    assert moved["dagster-kumo/SCORE/mean_shift"] == pytest.approx(0.5, rel=1e-4)
    assert moved["dagster-kumo/SCORE/psi"] > 1
    assert days.make(day(3), score=0) == {
        "dagster-kumo/SCORE/mean_shift": 0.0,
        "dagster-kumo/SCORE/psi": 0.0,
    }
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
    assert days.make(second, score=0.25)["dagster-kumo/SCORE/mean_shift"] == pytest.approx(0.25)


def test_statistics_that_cannot_be_read_are_a_warning_and_the_data_is_stored(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    days = Days(tmp_path, DAYS)
    days.make(day(4), score=0)
    (kept,) = tmp_path.rglob("_statistics.json")
    kept.write_text("{not json")
    assert days.make(day(3), score=0) == {}
    assert "There is no drift in the metadata, the data is stored" in capfd.readouterr().err
