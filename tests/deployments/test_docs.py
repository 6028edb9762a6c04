"""The definitions on the pages of the deployments load, without any account."""

from __future__ import annotations

import re
from pathlib import Path

import dagster as dg
import pytest

PAGES = sorted((Path(__file__).parents[2] / "docs" / "deployments").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_definitions_of_the_page_load(page: Path):
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    defs = names["defs"]
    assert isinstance(defs, dg.Definitions)
    dg.Definitions.validate_loadable(defs)
    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert "churn/predictions" in keys
    assert any(key.startswith("churn/predictions_in_") for key in keys)


def test_there_is_a_page_for_each_deployment():
    assert [page.stem for page in PAGES] == ["databricks", "saas", "snowflake"]
