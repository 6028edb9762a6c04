"""`make audit` is red for a version that is known to be vulnerable, with or without a network."""

import os
import subprocess
import sys
from pathlib import Path

AUDIT = Path(__file__).parents[2] / ".ci" / "audit.py"


def audit(**environment: str) -> subprocess.CompletedProcess[str]:
    # No service can be asked: a proxy that is not there.
    closed = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    environment = {**os.environ, **closed, "PIP_NO_INDEX": "1", **environment}
    return subprocess.run(
        [sys.executable, str(AUDIT)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_what_is_installed_passes_and_a_missing_network_is_said() -> None:
    done = audit()
    assert done.returncode == 0, done.stderr
    assert "only the list was checked" in done.stdout


def test_a_vulnerable_version_is_red(tmp_path: Path) -> None:
    for name, version in (("requests", "2.19.0"), ("pyarrow", "17.0.0")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    done = audit(PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "requests 2.19.0: CVE-2026-25645" in done.stderr
    assert "pyarrow 17.0.0: CVE-2026-25087" in done.stderr
