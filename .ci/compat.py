"""Whether the versions hold that pyproject.toml claims, the oldest and the newest: `make compat`.

Each row is an environment of its own, `.venv-compat-<row>`, with an interpreter found on this machine. The
oldest versions are read from pyproject.toml: raise a bound there when its row fails. Rows can be named, to
run only those.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHOWN = ("dagster", "pandas", "pyarrow", "numpy", "requests", "kumoai")
EXTRAS = ("local", "plots", "evaluation", "snowflake", "databricks")
DAGSTER = (
    "dagster-webserver>=1.12.7",
    "dagster-dg-cli>=1.12.7",
)  # each pins the release of Dagster
TEST_TOOLS = (
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "hypothesis",
    "psutil",
    "moto[server,s3]",
    "s3fs",
    "polars",
    "packaging",
    "time-machine",
)
# The oldest with the API of 2.x, and the newest pre-release of the other generation.
SDKS = {"sdk": ("kumoai==1.2.4",), "sdk-pre": ("kumoai>=3.0.0b3", "kumo-api>=3.0.0b3")}
LEFT_OUT = {
    "tests/system/contract": "needs the SDK: held against the newest by `make test`, others by the rows `sdk` and `sdk-pre`",
    "tests/local/test_local_sdk.py": "needs the SDK: runs in `make test`",
    "tests/api/test_connectors.py": "needs the SDK: runs in `make test`",
    "tests/execution/test_prediction_tables.py": "needs the SDK's models: runs in `make test`",
    "tests/local/test_local_models_parse.py": "needs the SDK's models: runs in `make test`",
    "tests/system/e2e": "needs a browser: runs in `make e2e`",
    "tests/system/scale": "needs Spark and Dask: runs in `make test-scale`",
    "tests/system/test_audit.py": "looks at the versions that `make audit` does",
}


@dataclass(frozen=True)
class Row:
    """One environment, and what is installed into it besides the project."""

    name: str
    python: str
    lowest: bool = False
    only: tuple[str, ...] = ()

    @property
    def environment(self) -> Path:
        return ROOT / f".venv-compat-{self.name}"

    @property
    def interpreter(self) -> Path:
        return self.environment / "bin" / "python"


def rows(pythons: list[str]) -> list[Row]:
    """The matrix: old with old, new with new, and what meets in between."""
    return [
        Row("oldest", pythons[0], lowest=True),
        Row("oldest-python", pythons[0]),
        Row("pandas2", pythons[-2:][0], only=("pandas<3",)),
        Row("newest", pythons[-1]),
    ]


def interpreters() -> dict[str, str]:
    """The Pythons of this machine that are supported, by version: on the path, and those of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found: dict[str, str] = {}
    for minor in range(10, 30):
        name = f"python3.{minor}"
        for path in [*sorted(pyenv.glob(f"*/bin/{name}"), reverse=True), shutil.which(name)]:
            if (
                path
                and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode
                == 0
            ):
                found.setdefault(f"3.{minor}", str(path))
    return found


def uv(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "uv", *arguments], cwd=ROOT, check=True)


def install(row: Row, python: str) -> None:
    print(f"\n{row.name}: installing into {row.environment.name}", flush=True)
    uv("venv", "--quiet", "--clear", "--python", python, str(row.environment))
    # Else uv takes the first beta of a package, which may have no wheel, for its oldest version.
    releases = ("--prerelease", "disallow")
    into = ("pip", "install", "--quiet", "--python", str(row.interpreter), *releases)
    extras = [argument for extra in EXTRAS for argument in ("--extra", extra)]
    resolution = "lowest-direct" if row.lowest else "highest"
    uv(*into, "--resolution", resolution, "-r", "pyproject.toml", *extras, *DAGSTER, *row.only)
    uv(*into, "--no-deps", "-e", ".", "-e", "example_project")
    uv(*into, *TEST_TOOLS, *row.only)


def install_sdk(name: str, environment: Path) -> Path:
    print(f"\n{name}: installing {SDKS[name][0]} into {environment.name}", flush=True)
    python = environment / "bin" / "python"
    uv("venv", "--quiet", "--clear", "--python", sys.executable, str(environment))
    into = ("pip", "install", "--quiet", "--python", str(python), "--prerelease", "allow")
    uv(*into, *SDKS[name], "pyarrow")
    return python


def versions(python: Path | str) -> dict[str, str]:
    code = (
        "import json, platform\nfrom importlib.metadata import distributions\n"
        "print(json.dumps({'python': platform.python_version()}"
        " | {d.name.lower(): d.version for d in distributions()}))"
    )
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(said.stdout)


def run_tests(python: Path | str, report: Path, *arguments: str, **environment: str) -> str:
    """Run pytest, and say how it went in a few words; "ok" first if all is well."""
    ended = subprocess.run(
        [
            python,
            "-m",
            "pytest",
            "-q",
            "-n",
            str(2 * (os.cpu_count() or 1)),  # as `make test` does
            "--dist",
            "loadfile",
            f"--junitxml={report}",
            *arguments,
        ],
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
    )
    if not report.exists():
        return f"pytest ended with {ended.returncode}"
    suite = ET.parse(report).getroot().find("testsuite")
    assert suite is not None
    total, failed, broken, skipped = (
        int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
    )
    bad = failed + broken
    said = f"{total - bad - skipped} passed" + (f", {bad} failed" if bad else "")
    said += f", {skipped} skipped" if skipped else ""
    return f"ok: {said}" if ended.returncode == 0 else said


def main() -> None:
    pythons = interpreters()
    matrix = rows(list(pythons))
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*(row.name for row in matrix), *SDKS]
    parser.add_argument(
        "rows", nargs="*", metavar="row", help=f"of {', '.join(names)}; all by default"
    )
    chosen = parser.parse_args().rows or names
    if unknown := set(chosen) - set(names):
        parser.error(f"there is no row {', '.join(unknown)}; there are {', '.join(names)}")
    print(f"Pythons here: {', '.join(pythons)}.")
    # What a script starts in the background ignores SIGINT, and would hand that down to the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    left_out = [f"--ignore={path}" for path in LEFT_OUT]
    table: list[tuple[str, ...]] = [("row", "python", *SHOWN, "tests")]
    for row in matrix:
        if row.name in chosen:
            install(row, pythons[row.python])
            found = versions(row.interpreter)
            outcome = run_tests(
                row.interpreter,
                row.environment / "report.xml",
                *left_out,
                "-m",
                "not e2e and not production",
            )
            table.append(
                (row.name, found["python"], *(found.get(name, "") for name in SHOWN), outcome)
            )
    for name in (name for name in SDKS if name in chosen):
        environment = ROOT / f".venv-compat-{name}"
        sdk_python = install_sdk(name, environment)
        found = {**versions(sys.executable), "kumoai": versions(sdk_python)["kumoai"]}
        outcome = run_tests(
            sys.executable,
            environment / "report.xml",
            "tests/system/contract",
            KUMO_SDK_PYTHON=str(sdk_python),
        )
        table.append((name, found["python"], *(found.get(n, "") for n in SHOWN), outcome))

    print()
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
    print("\nLeft out of all rows but `sdk` and `sdk-pre`:")
    for path, why in LEFT_OUT.items():
        print(f"  {path}: {why}.")
    if not all(line[-1].startswith("ok") for line in table[1:]):
        sys.exit(1)


if __name__ == "__main__":
    main()
