"""Metadata of wide outputs and long texts: small enough for an event log, and it says what is left out."""

from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from dagster_kumo import KumoIOManager

LONG = 500_000


def materialization(table: pa.Table, base_path: Path, **options: Any) -> dg.AssetMaterialization:
    @dg.asset
    def up() -> pa.Table:
        return table

    manager = KumoIOManager(base_path=str(base_path), **options)
    run = dg.materialize([up], resources={"io_manager": manager})
    (event,) = run.asset_materializations_for_node("up")
    return event


WIDE = pa.table({f"a_feature_with_quite_a_long_name_{n:05}": [0.0, 1.0] for n in range(1_500)})


def test_a_wide_output_has_metadata_of_its_first_columns(tmp_path: Path) -> None:
    event = materialization(WIDE, tmp_path, preview_rows=100)
    metadata = {name: value.value for name, value in event.metadata.items()}
    assert len(dg.serialize_value(event)) < 300_000
    assert len(metadata) < 120
    assert metadata["dagster-kumo/shortened"] == (
        "Of 1,500 columns, tables show the first 300, and the first 50 have plots."
    )
    assert len(metadata["dagster/column_schema"].columns) == 300
    assert len(metadata["dagster-kumo/statistics"].records) == 300
    assert metadata[f"dagster-kumo/{WIDE.column_names[49]}/mean"] == 0.5
    assert f"dagster-kumo/{WIDE.column_names[50]}/mean" not in metadata


def test_a_preview_of_a_wide_output_says_how_many_rows_it_shows(tmp_path: Path) -> None:
    table = pa.concat_tables([WIDE] * 20)
    event = materialization(table, tmp_path, preview_rows=30, statistics=False)
    (shown,) = {len(event.metadata["dagster-kumo/preview"].value.records)}
    assert event.metadata["dagster-kumo/preview_shortened"].value == (
        f"The output is wide: of 30 rows, the first {shown} are shown."
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x" * LONG, "x… (500,000 characters)"),
        (b"x" * LONG, "x… (500,003 characters)"),
        (["x" * LONG] * 9, "x… (500,000 characters), ...]"),
        ({"a": "x" * LONG}, "characters)"),
    ],
    ids=["text", "bytes", "list", "struct"],
)
def test_a_long_value_is_shown_by_its_beginning_and_its_length(
    value: Any, shown: str, tmp_path: Path
) -> None:
    event = materialization(pa.table({"a": [value]}), tmp_path, preview_rows=1)
    assert len(dg.serialize_value(event)) < 10_000
    (row,) = event.metadata["dagster-kumo/preview"].value.records
    assert str(row.data["a"]).endswith(shown)


def test_a_long_name_and_a_long_type_are_shortened(tmp_path: Path) -> None:
    table = pa.table({"n" * LONG: [1], "struct": [{f"field_{n}": 1 for n in range(1_000)}]})
    event = materialization(table, tmp_path, preview_rows=1)
    assert len(dg.serialize_value(event)) < 10_000


def test_an_ordinary_output_is_not_shortened(tmp_path: Path) -> None:
    event = materialization(pa.table({"a": ["x" * 200], "b": [1.0]}), tmp_path, preview_rows=1)
    (row,) = event.metadata["dagster-kumo/preview"].value.records
    assert row.data == {"a": "x" * 200, "b": 1.0}
    assert not [name for name in event.metadata if "shortened" in name]
