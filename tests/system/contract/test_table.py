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
    """The rows of the table of a class: member, place here, test."""
    _, _, section = DOCUMENT.partition(f"\n## `{of}`\n")
    lines = re.findall(r"^\| `.*\|$", section.partition("\n## ")[0], flags=re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.not_in_3("docs/sdk.md lists the members of 2.x")
@pytest.mark.younger("some of the members")
@pytest.mark.parametrize("name", CLASSES)
def test_every_member_has_a_row(sdk: Sdk, name: str) -> None:
    members = sdk("public_members", [name])[name]
    assert members
    assert sorted(row[0].strip("`") for row in rows(name)) == members


@pytest.mark.parametrize("name", CLASSES)
def test_every_row_names_a_place_and_a_test(name: str) -> None:
    assert rows(name)
    for member, here, test in rows(name):
        assert here, member
        assert "::test_" in test, member
