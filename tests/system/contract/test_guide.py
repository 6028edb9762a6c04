"""The script that the guide for users of the SDK begins with is one that the SDK runs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from dagster_kumo.local import LocalKumo
from tests.system.contract.sdk import PYTHON

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "from-the-sdk.md"


@pytest.mark.younger("exports of a result")
@pytest.mark.not_in_3("the script is one of SDK 2.x")
def test_the_script_of_the_guide_makes_its_call_list(kumo: LocalKumo, tmp_path: Path) -> None:
    (script,) = re.findall(
        r"^```python\n(# The official SDK.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE
    )
    script = script.replace("trainingjob-...", "trainingjob-cdnow-purchase")
    script = script.replace('api_key="..."', f"api_key={kumo.api_key!r}")
    exports = len(kumo.exports)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KUMO_")}
    done = subprocess.run(
        [PYTHON, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env={**environment, "KUMO_API_ENDPOINT": kumo.url},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "True_PROB" in (tmp_path / "call_list.csv").read_text()
    assert len(kumo.exports) == exports + 1
