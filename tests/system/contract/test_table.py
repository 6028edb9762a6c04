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


def rows(of: str) -> dict[str, tuple[str, str]]:
    """A table, such as that of a class, and the folded one below it: for each member, its place here and its test."""
    heading = of if " " in of else f"`{of}`"
    section = DOCUMENT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    table, _, folded = section.partition("<details")
    places, tests = (
        dict(re.findall(r"^\| (`.+?) \| (.+) \|$", part, flags=re.MULTILINE))
        for part in (table, folded)
    )
    assert list(places) == list(tests)
    return {member.split("`")[1]: (places[member], tests[member]) for member in places}


@pytest.mark.younger("some of the members")
@pytest.mark.parametrize("name", CLASSES)
def test_every_member_has_a_row(sdk: Sdk, generation: str, name: str) -> None:
    members = set(sdk("public_members", [name])[name])
    assert members
    is_3 = generation == "3.0"
    listed = {
        member
        for member, (here, _) in rows(name).items()
        if not (is_3 and "(SDK 2.x only)" in here)
    }
    in_3 = set(rows("Only in SDK 3.0")) if is_3 else set()
    assert members - in_3 == listed
    assert not is_3 or in_3 & members


@pytest.mark.parametrize("name", CLASSES)
def test_every_row_names_a_place_and_a_test(name: str) -> None:
    assert rows(name)
    for member, (_here, test) in rows(name).items():
        assert "::test_" in test, member
