"""`docs/reference/store-format.md` says what is stored: held against a real output."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dagster_kumo.predictions.statistics.stored_statistics import StoredStatistics
from dagster_kumo.predictions.statistics.summary import OutputSummary
from dagster_kumo.predictions.store.manifest import FORMAT
from dagster_kumo.predictions.store.statistics_file import STATISTICS, write_statistics
from dagster_kumo.predictions.store.store import PartitionStore
from dagster_kumo.predictions.store.transfer import transfer

PAGE = (Path(__file__).parents[3] / "docs/reference/store-format.md").read_text()


def documented(heading: str) -> set[str]:
    """The names in the first column of the table below a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


def fields(value: dict[str, Any], *, by_name: tuple[str, ...] = ()) -> set[str]:
    """The fields of an object, and those of the objects in its lists or, `by_name`, in objects."""
    found: set[str] = set()
    for name, inner in value.items():
        found.add(name)
        items = list(inner.values()) if name in by_name else inner
        for item in items if isinstance(items, list) else ():
            found |= {f"{name}[].{field}" for field in item} if isinstance(item, dict) else set()
    return found


@pytest.fixture
def stored(directory, result) -> PartitionStore:
    """A real output with statistics, stored on each kind of storage, for the second time."""
    store = PartitionStore(directory, owner="purchase/predictions, partition 2026-11-24")
    live = result.predictions()
    for _ in range(2):
        with store.new_version() as version:
            came = transfer(live.files, version, max_parallel=2)
            write_statistics(version, came, entities=None, warn=pytest.fail)
            version.commit(came.files, live.provenance)
    return store


def test_the_manifest_has_the_fields_of_the_page(stored):
    manifest = json.loads((stored.directory / "manifest.json").read_text())
    assert fields(manifest) == documented("Manifest")
    assert manifest["format"] == FORMAT == 1
    assert "`format` | integer | 1 |" in PAGE
    (before,) = manifest["superseded"]
    assert before < manifest["version"]


def test_the_folder_has_the_files_of_the_page(stored):
    manifest = json.loads((stored.directory / "manifest.json").read_text())
    stored.directory.fs.invalidate_cache()
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-\w+", manifest["version"])
    names = {path.name for path in (stored.directory / manifest["version"]).iterdir()}
    assert names == {STATISTICS, *(file["name"] for file in manifest["files"])}
    assert documented("Folders") == {STATISTICS, manifest["files"][0]["name"]}


def test_the_statistics_have_the_fields_of_the_page(stored):
    manifest = json.loads((stored.directory / "manifest.json").read_text())
    statistics = json.loads((stored.directory / manifest["version"] / STATISTICS).read_text())
    others = pa.table(
        {
            "ENTITY": [1, 1, 2, 2],
            "CLASS": ["a", "b", "a", "b"],
            "SCORE": [0.9, 0.1, 0.4, 0.6],
            "vector": [[1.0, 2.0]] * 4,
        }
    )
    summary = OutputSummary(others.schema)
    summary.update(others.to_batches()[0])
    of_classes = StoredStatistics.of(summary).model_dump(mode="json", exclude_none=True)
    found = [fields(one, by_name=("columns",)) for one in (statistics, of_classes)]
    assert found[0] | found[1] == documented("Statistics")
    assert statistics["num_rows"] == sum(file["num_rows"] for file in manifest["files"])
