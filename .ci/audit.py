"""Whether a dependency that users get is known to be vulnerable: `make audit`.

Two sources. pip-audit asks a service for advisories; where that does not answer, or does not know the
packages, this is said, and is no failure, for a build must not depend on a network. The list beside this file
is always held against what is installed: it is small, reviewed by hand, and red without a network too.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LIST = Path(__file__).with_name("known-vulnerabilities.txt")
LONGEST_WAIT = 90  # seconds, for all packages together
EXTRAS = {"local", "plots", "evaluation", "snowflake", "databricks"}  # what users may install


def installed(name: str, extras: set[str], seen: dict[str, str]) -> dict[str, str]:
    """The versions of a distribution and of all that it needs."""
    try:
        found = distribution(name)
    except PackageNotFoundError:  # for another platform, or another Python
        return seen
    key = canonicalize_name(name)
    if key in seen and not extras:
        return seen
    seen[key] = found.version
    for text in found.requires or []:
        needed = Requirement(text)
        environments = [{"extra": extra} for extra in ("", *extras)]
        if needed.marker is None or any(map(needed.marker.evaluate, environments)):
            installed(needed.name, set(needed.extras), seen)
    return seen


def listed(versions: dict[str, str]) -> Iterator[str]:
    """What the list says of these versions."""
    for line in LIST.read_text().splitlines():
        text, _, advisory = line.partition("#")
        if not text.strip():
            continue
        vulnerable = Requirement(text)
        version = versions.get(canonicalize_name(vulnerable.name))
        if version and vulnerable.specifier.contains(version, prereleases=True):
            yield f"{vulnerable.name} {version}: {advisory.strip()}"


def advised(versions: dict[str, str]) -> Iterator[str]:
    """What a service of advisories says of these versions, as far as it can be asked."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
        pins.writelines(f"{name}=={version}\n" for name, version in versions.items())
        pins.flush()
        command = ["pip_audit", "--requirement", pins.name, "--no-deps", "--disable-pip"]
        try:
            answer = subprocess.run(
                [sys.executable, "-m", *command, "--format", "json", "--progress-spinner", "off"],
                capture_output=True,
                text=True,
                timeout=LONGEST_WAIT,
                check=False,
            )
            found = json.loads(answer.stdout)["dependencies"]
        except (subprocess.TimeoutExpired, ValueError, KeyError):
            found = None
    if found is None:
        print("No service of advisories answers: only the list was checked.")
        return
    asked = [one for one in found if "skip_reason" not in one]
    print(f"The service knows {len(asked)} of {len(found)} packages.")
    if not asked:
        print("It has no advisories here: only the list was checked.")
    for one in asked:
        for vulnerability in one["vulns"]:
            yield f"{one['name']} {one['version']}: {vulnerability['id']}"


def main() -> None:
    versions = installed("dagster-kumo", EXTRAS, {})
    del versions["dagster-kumo"]
    print(f"{len(versions)} packages come with dagster-kumo and its extras.")
    found = [*listed(versions), *advised(versions)]
    if found:
        sys.exit("\n".join(["Known to be vulnerable:", *found, "Install newer versions."]))


if __name__ == "__main__":
    main()
