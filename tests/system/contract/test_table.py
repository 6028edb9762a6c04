"""`docs/sdk.md` leaves nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.system.contract.sdk import Sdk

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "sdk.md").read_text()
CLASSES = [
    "BatchPredictionJobResult",
    "BatchPredictionJob",
    "ArtifactExportJob",
    "ArtifactExportResult",
    "PredictionTable",
    "PredictionTableJob",
]


def rows(of: str) -> list[list[str]]:
    """The rows of a table, such as that of a class: member, place here, test."""
    heading = of if " " in of else f"`{of}`"
    _, _, section = DOCUMENT.partition(f"\n## {heading}\n")
    lines = re.findall(r"^\| `.*\|$", section.partition("\n## ")[0], flags=re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.younger("some of the members")
@pytest.mark.parametrize("name", CLASSES)
def test_every_member_has_a_row(sdk: Sdk, generation: str, name: str) -> None:
    members = set(sdk("public_members", [name])[name])
    assert members
    is_3 = generation == "3.0"
    listed = {row[0].strip("`") for row in rows(name) if not (is_3 and "(SDK 2.x only)" in row[1])}
    in_3 = {row[0].split("`")[1] for row in rows("Only in SDK 3.0")} if is_3 else set()
    assert members - in_3 == listed
    assert not is_3 or in_3 & members


@pytest.mark.parametrize("name", CLASSES)
def test_every_row_names_a_place_and_a_test(name: str) -> None:
    assert rows(name)
    for member, here, test in rows(name):
        assert here, member
        assert "::test_" in test, member
