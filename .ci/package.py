"""Whether what is published works: `make package`.

Builds wheel and sdist into dist/, checks their metadata, and installs each into an empty environment with the
run-time dependencies alone, where it is imported and the command line is called.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
NEEDED = {"dagster_kumo/py.typed", "dagster_kumo/local/model/cdnow.parquet"}
EXTRAS_ONLY = (
    "starlette",
    "sklearn",
    "duckdb",
    "matplotlib",
    "snowflake.connector",
    "databricks.sdk",
)
TRIED = f"""
import importlib.util, pkgutil, sys
import dagster_kumo

assert "site-packages" in dagster_kumo.__file__, dagster_kumo.__file__
for name in dagster_kumo.__all__:
    getattr(dagster_kumo, name)
for module in pkgutil.walk_packages(dagster_kumo.__path__, "dagster_kumo."):
    if not module.name.startswith("dagster_kumo.local"):
        importlib.import_module(module.name)
for name in {EXTRAS_ONLY!r}:
    assert name.partition(".")[0] not in sys.modules, name
print("imports, version", dagster_kumo.__version__)
"""


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def build() -> list[Path]:
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST, ROOT)
    built = sorted(DIST.iterdir())
    print(run(sys.executable, "-m", "twine", "check", "--strict", *built).strip())
    for wheel in DIST.glob("*.whl"):
        missing = NEEDED - set(zipfile.ZipFile(wheel).namelist())
        if missing:
            sys.exit(f"{wheel.name} lacks {', '.join(missing)}.")
    return built


def try_in_empty_environment(archive: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "environment"
        run(sys.executable, "-m", "uv", "venv", "--python", sys.executable, environment)
        python = environment / "bin" / "python"
        run(sys.executable, "-m", "uv", "pip", "install", "--python", python, archive)
        run(sys.executable, "-m", "uv", "pip", "check", "--python", python)
        print(f"{archive.name}: {run(python, '-I', '-c', TRIED, cwd=folder).strip()}")
        said = run(environment / "bin" / "dagster-kumo", "--help", cwd=folder)
        print(f"{archive.name}: {said.splitlines()[0]}")


def main() -> None:
    for archive in build():
        size = archive.stat().st_size / 1e3
        print(f"{archive.name}: {size:,.0f} kB")
        try_in_empty_environment(archive)


if __name__ == "__main__":
    main()
