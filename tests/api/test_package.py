"""The package itself: light to import, and its examples hold."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import dagster_kumo

MODULES = [
    module.name
    for module in pkgutil.walk_packages(dagster_kumo.__path__, "dagster_kumo.")
    if not module.name.endswith("__main__")
]


def test_importing_the_package_loads_no_library_of_data():
    code = "import sys, dagster_kumo; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(run.stdout.split())
    assert "dagster_kumo.predictions.predictions" in loaded
    heavy = {"pandas", "pyarrow", "numpy", "polars", "matplotlib", "sklearn", "starlette", "kumoai"}
    heavy |= {"snowflake", "databricks", "fsspec", "s3fs"}
    assert not loaded & heavy
    assert "dagster_kumo.components" not in loaded  # a fifth of the time, for YAML alone


def test_every_public_name_is_there():
    for name in dagster_kumo.__all__:
        assert getattr(dagster_kumo, name) is not None


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_hold(name):
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    examples = [
        example
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
        for example in test.examples
        if not example.options.get(doctest.SKIP)
    ]
    assert len(examples) >= 3
