"""The pages say what is: their code runs, their commands and links are there, and nothing is left out."""

from __future__ import annotations

import ast
import os
import re
import shlex
from collections.abc import Iterator
from datetime import date, timedelta
from fnmatch import fnmatch
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

import click
import dagster as dg
import pytest
import yaml
from packaging.requirements import Requirement
from upath import UPath

import dagster_kumo
from dagster_kumo import (
    BatchPrediction,
    KumoEvaluation,
    KumoIOManager,
    KumoResource,
    build_kumo_assets_definitions,
)
from dagster_kumo.local import LocalKumo

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "example_project" / "README.md",
    *(ROOT / name for name in ("CONTRIBUTING.md", "RELEASING.md", "SECURITY.md")),
    *sorted(DOCS.rglob("*.md")),
]
START = DOCS / "index.md"
TESTING = DOCS / "guides" / "testing.md"
LANGUAGES = {"python", "bash", "yaml", "text", "sql", "toml"}
PURCHASE = "trainingjob-cdnow-purchase"


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE
    )


def having(language: str) -> Any:
    pages = [page for page in PAGES if blocks(page, language)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.fixture
def _account(kumo: LocalKumo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment as a reader of the pages has it, with a folder to work in."""
    monkeypatch.setenv("KUMO_API_KEY", kumo.api_key)
    monkeypatch.setenv("KUMO_API_ENDPOINT", kumo.url)
    monkeypatch.chdir(tmp_path)


def run(page: Path, **instead: str) -> dict[str, Any]:
    """Run the Python of a page, from its first block to its last, and return its names."""
    names: dict[str, Any] = {"__name__": page.stem}
    for number, code in enumerate(blocks(page, "python")):
        if code.startswith("# The official SDK"):
            continue  # tests/system/contract/test_guide.py runs it
        for placeholder, value in {"trainingjob-...": PURCHASE, **instead}.items():
            code = code.replace(placeholder, value)
        # No `from __future__ import annotations` of this module: Dagster looks at annotations as objects.
        exec(compile(code, f"{page.name}[{number}]", "exec", dont_inherit=True), names)
    return names


@having("python")
@pytest.mark.usefixtures("_account")
def test_the_python_of_a_page_runs(page: Path, done_job_id: str) -> None:
    names = run(page, **{"bp-job-...": done_job_id})
    defs = names.get("defs")
    if isinstance(defs, dg.Definitions):
        dg.Definitions.validate_loadable(defs)
        defs.resolve_asset_graph()


def test_the_readme_names_the_assets_that_its_definitions_make() -> None:
    (said,) = re.findall(
        r"^That makes (.*?),\nconnected", README.read_text(), re.DOTALL | re.MULTILINE
    )
    names: dict[str, Any] = {}
    exec(compile(blocks(README, "python")[0], README.name, "exec", dont_inherit=True), names)
    keys = names["defs"].resolve_asset_graph().get_all_asset_keys()
    assert set(re.findall(r"`(\S+)`", said)) == {
        key.to_user_string() for key in keys if key.path[0] not in ("customers", "orders")
    }


@pytest.mark.usefixtures("_account")
def test_the_start_page_leads_to_a_materialization_whose_metadata_are_explained() -> None:
    defs = run(START)["defs"]
    repository = defs.get_repository_def()
    newest = repository.assets_defs_by_key[
        dg.AssetKey(["likely_to_buy"])
    ].partitions_def.get_last_partition_key()
    made = defs.resolve_implicit_global_asset_job_def().execute_in_process(partition_key=newest)
    assert made.success

    (event,) = made.asset_materializations_for_node("purchase__predictions")
    page = (DOCS / "reference" / "metadata.md").read_text()
    explained = set(re.findall(r"`(dagster[-a-z]*/[^`]+)`", page))
    found = {
        re.sub(r"(dagster-kumo)/[A-Za-z_]+/", r"\1/<column>/", entry) for entry in event.metadata
    }
    assert "dagster-kumo/statistics" in found
    assert found <= explained
    assert "Stored 23,570 rows" in START.read_text()
    assert event.metadata["dagster/row_count"].value == 23_570


@pytest.mark.scale
def test_the_tests_of_the_testing_page_pass(tmp_path: Path) -> None:
    (tmp_path / "test_page.py").write_text("\n\n".join(blocks(TESTING, "python")))
    # Apart from the session that this runs in: its settings, its timer and its workers.
    apart = ["-c", os.devnull, f"--rootdir={tmp_path}", "-q"]
    plugins = [f"-pno:{name}" for name in ("cacheprovider", "timeout", "xdist")]
    assert pytest.main([str(tmp_path), *apart, *plugins]) == pytest.ExitCode.OK


def test_the_yaml_of_the_pages_loads() -> None:
    for block in (block for page in PAGES for block in blocks(page, "yaml")):
        for document in yaml.safe_load_all(block):
            assert document
            if isinstance(document, dict) and str(document.get("type", "")).startswith(
                "dagster_kumo."
            ):
                module, _, name = document["type"].rpartition(".")
                assert hasattr(import_module(module), name), document["type"]


@having("bash")
def test_the_commands_of_a_page_are_there(page: Path) -> None:
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words = words[1:]
            if words:
                _check_command(words)


def _check_command(words: list[str]) -> None:
    program, *arguments = words
    if program == "pip":
        for argument in arguments[1:]:
            if re.match(r"(dagster-kumo|\.)\[", argument):
                extras = Requirement(argument.replace(".[", "dagster-kumo[", 1)).extras
                assert extras <= set(_extras()), argument
    elif program == "make":
        assert set(arguments) <= _make_targets(), arguments
    elif program in _COMMANDS:
        command: click.Command = _COMMANDS[program]()
        while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
            assert arguments[0] in command.commands, f"{program} has no {arguments[0]}"
            command = command.commands[arguments.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        given = {argument.partition("=")[0] for argument in arguments if argument.startswith("-")}
        assert given <= options | {"--help", "-h"}, f"{' '.join(words)} has no {given - options}"
    else:
        assert program in {
            "export",
            "source",
            "cd",
            "mkdir",
            "git",
            "python3",
            "python",
            "uvx",
            "kubectl",
        }, f"How is {program!r} checked?"


def _kumo_command() -> click.Command:
    (script,) = entry_points(group="console_scripts", name="dagster-kumo")
    return script.load()


def _dagster_command() -> click.Command:
    from dagster._cli import create_dagster_cli  # its entry point is a function that runs it

    return create_dagster_cli()


def _dg_command() -> click.Command:
    from dagster_dg_cli.cli import create_dg_cli  # the same

    return create_dg_cli()


_COMMANDS = {
    "dagster-kumo": cache(_kumo_command),
    "dagster": cache(_dagster_command),
    "dg": cache(_dg_command),
}


def _extras() -> list[str]:
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    return re.findall(r"^([a-z-]+) = \[", section.partition("\n[")[0], flags=re.MULTILINE)


def _make_targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_code_that_is_checked_and_links_that_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    fences = re.findall(r"^ *```(.*)$", text, flags=re.MULTILINE)[::2]
    assert set(fences) <= LANGUAGES | {""}
    links = re.findall(
        r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    )
    for link in links:
        path, _, _ = link.partition("#")
        if path and "://" not in link:
            target = (page.parent / path).resolve()
            assert target.exists(), link
            # What lies elsewhere in the repository is not in the site.
            assert DOCS not in page.parents or DOCS in target.parents, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_tests_that_a_page_names_are_there(page: Path) -> None:
    for file, function in re.findall(r"`(tests/\S+\.py)::(\w+)`", page.read_text()):
        assert re.search(rf"^def {function}\(", (ROOT / file).read_text(), flags=re.MULTILINE)


def test_every_guarantee_names_the_test_that_holds_it() -> None:
    page = (DOCS / "guarantees.md").read_text().partition("## What is not guaranteed")[0]
    found = 0
    for section in page.split("\n## ")[1:]:
        guarantees, _, folded = section.partition("<details")
        names = re.findall(r"^- \*\*(.+?)\.?\*\*", guarantees, re.MULTILINE)
        rows = re.findall(r"^\| (?!---|what )(.+?) \| (.+) \|$", folded, re.MULTILINE)
        assert [name for name, _ in rows] == names
        assert all("::test_" in tests for _, tests in rows)
        found += len(rows)
    assert found >= 40


def test_the_messages_on_the_troubleshooting_page_are_those_of_the_code() -> None:
    page = (DOCS / "operations" / "troubleshooting.md").read_text()
    cells = re.findall(r"^\| ([^|]+) \|", page, flags=re.MULTILINE)
    quoted = [text for cell in cells for text in re.findall(r"`([^`]+ [^`]+)`", cell)]
    assert len(quoted) > 30
    said = "\n".join(
        _text(node)
        for module in (ROOT / "dagster_kumo").rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.JoinedStr | ast.Constant)
    )
    for text in quoted:
        message = ".+?".join(re.escape(part) for part in text.split("…"))
        assert re.search(message, said), text


def test_so_are_messages_of_dagster_about_what_is_not_defined(tmp_path: Path) -> None:
    page = (DOCS / "operations" / "troubleshooting.md").read_text()
    evaluation = KumoEvaluation(outcomes=dg.AssetKey("nobody_makes_it"), window=timedelta(days=30))
    kumo, store = KumoResource(), KumoIOManager(base_path=str(tmp_path))
    for evaluated, resources, message in (
        (None, {"kumo_io_manager": store}, "resource with key 'kumo' required by"),
        (None, {"kumo": kumo}, "io manager with key 'kumo_io_manager' required by"),
        (
            evaluation,
            {"kumo": kumo, "kumo_io_manager": store},
            "is not produced by any of the provided asset ops",
        ),
    ):
        assets = build_kumo_assets_definitions(
            name="churn",
            prediction=BatchPrediction(training_job_id="trainingjob-1"),
            evaluation=evaluated,
            partitions_def=dg.DailyPartitionsDefinition("2026-01-01"),
        )
        with pytest.raises(dg.DagsterInvalidDefinitionError, match=message):
            dg.Definitions.validate_loadable(dg.Definitions(assets=assets, resources=resources))
        assert f'"{message}"' in page


def _text(node: ast.expr) -> str:
    """A text of the code, with an ellipsis for each value in it."""
    if isinstance(node, ast.Constant):
        return str(node.value).replace("\n", " ")
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    return "…"


def test_old_partitions_are_removed_as_the_page_says(tmp_path: Path) -> None:
    remove = run(DOCS / "operations" / "old-data.md")["remove_old_partitions"]
    for day in ("2024-01-01", "2025-12-31", "2026-01-01"):
        (tmp_path / day / "version").mkdir(parents=True)
    assert remove(UPath(tmp_path), date(2026, 1, 31)) == ["2024-01-01"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2025-12-31", "2026-01-01"]


def test_every_page_has_its_place_in_the_menu_and_in_llms_txt() -> None:
    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(inner)

    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    there = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    assert sorted(pages(config["nav"])) == there

    (llms,) = (plugin["llmstxt"] for plugin in config["plugins"] if "llmstxt" in plugin)
    patterns = [pattern for section in llms["sections"].values() for pattern in section]
    assert [page for page in there if not any(fnmatch(page, one) for one in patterns)] == []


def test_every_public_name_is_in_the_reference() -> None:
    reference = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    named = set(re.findall(r"^::: dagster_kumo\.(\S+)$", reference, flags=re.MULTILINE))
    errors = set(dir(import_module("dagster_kumo.api.errors")))  # a page of its own, as a module
    assert set(dagster_kumo.__all__) - {"__version__"} - errors <= named


def test_the_reference_shows_what_a_job_inherits() -> None:
    page = (DOCS / "reference" / "jobs.md").read_text()
    for name, options in re.findall(
        r"^::: dagster_kumo\.(\w+)\n((?: .+\n)*)", page, flags=re.MULTILINE
    ):
        kind = getattr(dagster_kumo, name)
        own = [base for base in kind.__mro__ if base.__module__.startswith("dagster_kumo.")]
        members = {m for base in own[1:] for m, value in vars(base).items() if callable(value)}
        assert "inherited_members: true" in options or members <= {*vars(kind)}, name


@pytest.mark.parametrize("name", ["KumoResource", "SnowflakeCredentials", "KumoIOManager"])
def test_every_setting_is_in_the_reference_as_it_is_defined(name: str) -> None:
    page = (DOCS / "reference" / "resources.md").read_text()
    section = page.partition(f"\n::: dagster_kumo.{name}\n")[2].partition("\n::: ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (\S+) \| (.+) \|$", section, flags=re.MULTILINE)
    fields = getattr(dagster_kumo, name).model_fields
    assert [row[0] for row in rows] == list(fields)
    for field, kinds, default, description in rows:
        info = fields[field]
        if info.annotation is not Any:
            assert kinds == ", ".join(f"`{kind}`" for kind in _kinds(info.annotation))
        value = info.get_default(call_default_factory=True)
        assert default == ("required" if info.is_required() else f"`{value!r}`")
        assert info.description in (None, description)


def _kinds(annotation: Any) -> list[str]:
    """The types or literals that a field takes, but None."""
    if get_origin(annotation) is Literal:
        return [f'"{value}"' for value in get_args(annotation)]
    if isinstance(annotation, UnionType):
        return [
            kind for part in get_args(annotation) if part is not NoneType for kind in _kinds(part)
        ]
    return [str(annotation) if get_origin(annotation) else annotation.__name__]


def test_every_room_is_on_the_map() -> None:
    package = Path(dagster_kumo.__file__).parent
    rooms = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in package.iterdir()
        if path.suffix in ("", ".py") and not path.name.startswith("__")
    }
    on_the_map = re.findall(
        r"^\| `([\w/.]+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE
    )
    assert set(on_the_map) == rooms - {"version.py"}


def test_the_architecture_page_names_modules_that_are_there() -> None:
    package = Path(dagster_kumo.__file__).parent
    named = re.findall(r"`([\w/]+(?:\.py|/))`", (DOCS / "architecture.md").read_text())
    ours = [name for name in named if name.partition("/")[0] != "tests"]
    assert len(ours) > 20
    assert [name for name in ours if not (package / name).exists()] == []


def test_examples_are_headed_as_the_reference_reads_them() -> None:
    package = Path(dagster_kumo.__file__).parent
    # `Example:` would be a box with the prompts as quotations; `Examples:` is code.
    assert [
        path.name
        for path in package.rglob("*.py")
        if re.search(r"^ *Example:$", path.read_text(), flags=re.MULTILINE)
    ] == []
