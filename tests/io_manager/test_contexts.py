"""Every way in which Dagster hands outputs to an I/O manager and asks for inputs."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from dagster_kumo import (
    BatchPrediction,
    KumoDataError,
    KumoIOManager,
    KumoResource,
    Predictions,
    kumo_assets,
)
from tests.support import since

LETTERS = dg.StaticPartitionsDefinition(["a", "b", "c"])
FRAME = pd.DataFrame({"x": [1, 2]})


class Store:
    """A store with an instance, in which assets are materialized."""

    def __init__(self, base_path: object) -> None:
        self.manager = KumoIOManager(base_path=str(base_path), statistics=False)
        self.resources = {"io_manager": self.manager, "kumo_io_manager": self.manager}
        self.instance = dg.DagsterInstance.ephemeral()

    def make(self, *assets: Any, **options: Any) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            list(assets), resources=self.resources, instance=self.instance, **options
        )

    def refusal(self, *assets: Any, **options: Any) -> str:
        """The words of the error that ends a run."""
        with pytest.raises(Exception) as refused:
            self.make(*assets, **options)
        error: BaseException = refused.value
        while error.__cause__ is not None:
            error = error.__cause__
        return str(error)

    def rows(self, name: str, partition: str | None = None) -> list[Any]:
        return (
            self.manager.partition_store(dg.AssetKey(name), partition).read().to_arrow().to_pylist()
        )


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    name = request.node.name.translate(str.maketrans("[]", "--"))
    return Store(
        tmp_path / "store" if request.param == "disk" else f"memory://{tmp_path.name}/{name}"
    )


def over(first: str, last: str) -> dict[str, Any]:
    """A run over several partitions."""
    return {
        "tags": {
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": last,
        }
    }


def letters(only: list[str] | None = None) -> dg.AssetsDefinition:
    """An asset with a value for each partition of its run."""

    @dg.asset(name="up", partitions_def=LETTERS, backfill_policy=dg.BackfillPolicy.single_run())
    def up(context: dg.AssetExecutionContext) -> Any:
        return {key: pd.DataFrame({"key": [key]}) for key in only or context.partition_keys}

    return up


def reading(
    annotation: Any,
    seen: list[Any],
    *,
    name: str = "down",
    read: Callable[[Any], Any] | None = None,
    **options: Any,
) -> dg.AssetsDefinition:
    """An asset that reads `up`."""

    def body(up: Any) -> None:
        seen.append(read(up) if read else up)

    body.__annotations__ = {"up": annotation, "return": None}
    if annotation is None:
        del body.__annotations__["up"]
    ins = {"up": dg.AssetIn(options.pop("key", "up"), **options)}
    return dg.asset(name=name, ins=ins)(body)


# Outputs


@pytest.mark.parametrize(
    ("run", "keys"),
    [(over("a", "c"), "abc"), (over("a", "a"), "a"), ({"partition_key": "b"}, "b")],
    ids=["range", "range of one", "partition"],
)
def test_a_dictionary_by_partition_is_taken_for_many_and_for_one(
    store: Store, run: dict[str, Any], keys: str
) -> None:
    store.make(letters(), **run)
    assert [store.rows("up", key) for key in keys] == [[{"key": key}] for key in keys]


def test_a_dictionary_for_other_partitions_is_refused(store: Store) -> None:
    assert "the partitions a of up, but its value has b, c" in store.refusal(
        letters(["b", "c"]), partition_key="a"
    )
    assert "the partitions a, b of up, but its value has a" in store.refusal(
        letters(["a"]), **over("a", "b")
    )


def nothing_at_all() -> dg.AssetsDefinition:
    @dg.asset
    def up(): ...

    return up


def a_result_without_value() -> dg.AssetsDefinition:
    @dg.asset
    def up() -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult(metadata={"a": 1})

    return up


def none_of_an_optional() -> dg.AssetsDefinition:
    @dg.asset
    def up() -> pd.DataFrame | None:
        return None

    return up


def no_output_of_several() -> dg.AssetsDefinition:
    @dg.multi_asset(outs={"up": dg.AssetOut(), "other": dg.AssetOut(is_required=False)})
    def both():
        yield dg.Output(None, "up")

    return both


@pytest.mark.parametrize("asset", [nothing_at_all, none_of_an_optional, no_output_of_several])
def test_an_output_of_none_is_told_how_to_say_so(store: Store, asset: Any) -> None:
    assert "return type annotation `-> None`" in store.refusal(asset())


def test_an_output_of_none_in_a_run_over_several_partitions(store: Store) -> None:
    @dg.asset(partitions_def=LETTERS, backfill_policy=dg.BackfillPolicy.single_run())
    def up(): ...

    assert "return type annotation `-> None`" in store.refusal(up, **over("a", "c"))


def test_assets_that_say_that_they_return_nothing_run(store: Store) -> None:
    @dg.asset
    def quiet() -> None: ...

    @dg.multi_asset(specs=[dg.AssetSpec("external")])
    def elsewhere(): ...

    assert store.make(quiet, elsewhere, a_result_without_value()).success


def test_a_prediction_that_was_not_yielded_is_told_so(store: Store) -> None:
    @kumo_assets(name="churn", prediction=BatchPrediction(training_job_id="trainingjob-1"))
    def churn(context: dg.AssetExecutionContext, kumo: KumoResource):
        kumo.predict(context)

    store.resources["kumo"] = KumoResource(api_key="customer:key")
    assert "yield from kumo.predict(context)" in store.refusal(churn)


# Inputs that are not stored


def test_an_asset_that_depends_on_itself_gets_none_on_its_first_day(store: Store) -> None:
    days = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-04")
    before = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)

    def running_count(annotation: Any) -> tuple[dg.AssetsDefinition, list[Any]]:
        seen: list[Any] = []

        def body(me: Any) -> Any:
            seen.append(len(me) if me is not None else None)
            return FRAME

        body.__annotations__ = {"me": annotation, "return": Any} if annotation else {}
        name = f"me{abs(hash(str(annotation)))}"
        ins = {"me": dg.AssetIn(name, partition_mapping=before)}
        return dg.asset(name=name, ins=ins, partitions_def=days)(body), seen

    for annotation in (None, Any, pd.DataFrame | None, dict[str, pd.DataFrame]):
        asset, seen = running_count(annotation)
        for day in ("2026-01-01", "2026-01-02"):
            store.make(asset, partition_key=day)
        assert seen[0] in (None, 0)
        assert seen[1] in (1, 2)  # files, rows or partitions

    asset, _ = running_count(pd.DataFrame)
    assert "annotate the input with `... | None`" in store.refusal(
        asset, partition_key="2026-01-01"
    )


def test_partitions_that_do_not_exist_yet_are_none_or_an_empty_dictionary(store: Store) -> None:
    @dg.asset(partitions_def=dg.DynamicPartitionsDefinition(name="batches"))
    def up() -> Any: ...

    seen: list[Any] = []
    for name, annotation in {"one": Any, "two": dict[str, pd.DataFrame]}.items():
        down = reading(annotation, seen, name=name)
        store.make(up, down, selection=[down])
    assert seen == [None, {}]


def test_an_input_that_is_not_stored_says_what_to_write(store: Store) -> None:
    up = nothing_at_all()
    for metadata in (None, {"allow_missing_partitions": True}):
        down = reading(pd.DataFrame, [], metadata=metadata)
        message = store.refusal(up, down, selection=[down])
        assert "up is not stored" in message
        assert "annotate the input with `... | None`" in message
        assert "partition" not in message


def test_a_partition_that_is_not_stored_says_what_to_write(store: Store) -> None:
    up = letters()
    store.make(up, partition_key="a")
    down = reading(pd.DataFrame, [])
    message = store.refusal(up, down, selection=[down])
    assert "up is not stored for b, c" in message
    assert 'AssetIn(metadata={"allow_missing_partitions": True})' in message


@since("dagster", "1.13", "partitions of a check")
def test_an_asset_check_reads_its_partition_and_says_how_when_it_does_not(store: Store) -> None:
    up = letters()
    seen: list[Any] = []

    @dg.asset_check(asset=up, partitions_def=LETTERS)
    def own(up: pd.DataFrame) -> dg.AssetCheckResult:
        seen.append(list(up["key"]))
        return dg.AssetCheckResult(passed=True)

    @dg.asset_check(asset=up)
    def whole(up: pd.DataFrame) -> dg.AssetCheckResult:  # noqa: ARG001 - it is loaded
        return dg.AssetCheckResult(passed=True)

    store.make(up, own, partition_key="a")
    assert seen == [["a"]]
    message = store.refusal(up, whole, partition_key="a")
    assert "up is not stored for b, c" in message
    assert "@asset_check(partitions_def=...)" in message


@pytest.mark.parametrize(
    ("annotation", "missing"),
    [
        (dict[str, pd.DataFrame | None], {"b": None, "c": None}),
        (dict[str, Optional[pa.Table]], {"b": None, "c": None}),  # noqa: UP045 - many write it so
        pytest.param(
            Mapping[str, Predictions | None],
            {"b": None, "c": None},
            marks=pytest.mark.skipif(
                sys.version_info < (3, 11), reason="Dagster takes it for a class on Python 3.10"
            ),
        ),
        (dict[str, pd.DataFrame] | None, {}),
    ],
    ids=str,
)
def test_a_dictionary_whose_values_may_be_none_has_none_for_what_is_missing(
    store: Store, annotation: Any, missing: dict[str, None]
) -> None:
    up = letters()
    store.make(up, partition_key="a")
    seen: list[Any] = []
    down = reading(annotation, seen)
    store.make(up, down, selection=[down])
    (found,) = seen
    assert found.pop("a") is not None
    assert found == missing


KINDS: dict[str, Any] = {
    "predictions": Predictions,
    "pandas_frame": pd.DataFrame,
    "table": pa.Table,
    "reader": pa.RecordBatchReader,
    "dataset": ds.Dataset,
    "polars_frame": pl.DataFrame,
    "lazy_frame": pl.LazyFrame,
    "relation": duckdb.DuckDBPyRelation,
}


def reading_each(
    annotations: Mapping[str, Any], seen: dict[str, Any], **options: Any
) -> list[dg.AssetsDefinition]:
    """For each annotation an asset that reads `up`, without the partitions that are not stored."""

    def one(name: str, annotation: Any) -> dg.AssetsDefinition:
        def body(up: Any) -> None:
            seen[name] = up

        body.__annotations__ = {"up": annotation, "return": None}
        ins = {"up": dg.AssetIn("up", metadata={"allow_missing_partitions": True})}
        return dg.asset(name=name, ins=ins, **options)(body)

    return [one(name, annotation) for name, annotation in annotations.items()]


def test_a_dictionary_may_be_of_every_kind(store: Store) -> None:
    up = letters()
    store.make(up, **over("a", "b"))
    seen: dict[str, Any] = {}
    down = reading_each({name: dict[str, kind] for name, kind in KINDS.items()}, seen)
    store.make(up, *down, selection=down)
    assert {name: list(found) for name, found in seen.items()} == {
        name: ["a", "b"] for name in KINDS
    }
    for name, found in seen.items():
        assert all(isinstance(value, KINDS[name]) for value in found.values())


DATES = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-04")
HOURS = dg.HourlyPartitionsDefinition("2026-01-01-00:00", end_date="2026-01-04-00:00")
PAIRS = dg.MultiPartitionsDefinition({"date": DATES, "letter": LETTERS})


@pytest.mark.parametrize(
    ("upstream", "downstream", "key", "count"),
    [(HOURS, DATES, "2026-01-02", 24), (PAIRS, LETTERS, "a", 3), (PAIRS, DATES, "2026-01-02", 3)],
    ids=["hours", "letter", "date"],
)
def test_where_a_mapping_leads_to_nothing_stored_each_annotation_says_so(
    tmp_path: Path, upstream: Any, downstream: Any, key: str, count: int
) -> None:
    @dg.asset(partitions_def=upstream)
    def up() -> Any: ...

    seen: dict[str, Any] = {}
    annotations = {
        "open": Any,
        "optional": pd.DataFrame | None,
        "each": dict[str, pd.DataFrame],
        "each_optional": dict[str, pd.DataFrame | None],
        "optional_each": dict[str, pd.DataFrame] | None,
    }
    store = Store(tmp_path)
    down = reading_each(annotations, seen, partitions_def=downstream)
    store.make(up, *down, selection=down, partition_key=key)
    missing = seen.pop("each_optional")
    assert len(missing) == count
    assert set(missing.values()) == {None}
    assert seen == {"open": None, "optional": None, "each": {}, "optional_each": {}}


def test_a_dictionary_of_an_asset_without_partitions_is_refused(store: Store) -> None:
    @dg.asset
    def up() -> pd.DataFrame:
        return FRAME

    assert "up has no partitions" in store.refusal(up, reading(dict[str, pd.DataFrame], []))


# Order


def test_partitions_come_in_the_order_of_their_definition(tmp_path: Path) -> None:
    """Dagster keeps some of them in a set, whose order is another one in each process."""
    code = """
        import sys
        import dagster as dg, pandas as pd
        from dagster_kumo import KumoIOManager

        keys = ["a", "b", "c", "d", "e", "f"]
        static = dg.StaticPartitionsDefinition(keys)
        both = dg.MultiPartitionsDefinition({"x": static, "y": dg.StaticPartitionsDefinition(["2", "10"])})
        dynamic = dg.DynamicPartitionsDefinition(name="dynamic")
        instance = dg.DagsterInstance.ephemeral()
        instance.add_dynamic_partitions("dynamic", keys)
        resources = {"io_manager": KumoIOManager(base_path=sys.argv[1], statistics=False)}
        some = {
            static: ["e", "a", "f", "c"], dynamic: ["e", "a", "f", "c"],
            both: ["e|10", "e|2", "a|10", "f|2", "a|2"],
        }
        for number, (partitions_def, wanted) in enumerate(some.items()):
            up = dg.AssetKey(f"up{number}")

            @dg.asset(key=up, partitions_def=partitions_def)
            def asset(context):
                return pd.DataFrame({"key": [str(context.partition_key)]})

            mapping = dg.SpecificPartitionsPartitionMapping(wanted)

            @dg.asset(ins={"up": dg.AssetIn(up, partition_mapping=mapping)})
            def flat(up: pd.DataFrame) -> None:
                print(*up["key"])

            @dg.asset(ins={"up": dg.AssetIn(up, partition_mapping=mapping)})
            def by_key(up: dict[str, pd.DataFrame]) -> None:
                print(*up)

            for key in wanted:
                dg.materialize([asset], partition_key=key, resources=resources, instance=instance)
            down = [flat, by_key]
            dg.materialize([asset, *down], selection=down, resources=resources, instance=instance)
    """
    run = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    printed = subprocess.run(run, check=True, capture_output=True, text=True, env=environment)
    letters, pairs = "a c e f", "a|2 a|10 e|2 e|10 f|2"
    assert printed.stdout.splitlines() == [letters] * 4 + [pairs] * 2


# Contexts that a test or a person builds


@since("dagster", "1.13", "built contexts with partitions")
def test_built_contexts_store_and_load(store: Store) -> None:
    manager = store.manager
    manager.handle_output(dg.build_output_context(asset_key="x"), FRAME)
    loaded = manager.load_input(dg.build_input_context(asset_key="x"))
    assert isinstance(loaded, Predictions)
    assert loaded.num_rows == 2

    one: dict[str, Any] = {"asset_key": "y", "partition_key": "a", "asset_partitions_def": LETTERS}
    manager.handle_output(dg.build_output_context(**one), FRAME)
    frame = dg.PythonObjectDagsterType(pd.DataFrame)
    assert len(manager.load_input(dg.build_input_context(**one, dagster_type=frame))) == 2

    op = dg.build_output_context(step_key="step", name="result", run_id="run")
    manager.handle_output(op, FRAME)
    assert manager.load_input(dg.build_input_context(upstream_output=op)).num_rows == 2


@since("dagster", "1.13", "built contexts with partitions")
def test_a_built_context_over_several_partitions_stores_and_loads(store: Store) -> None:
    several: dict[str, Any] = {
        "asset_key": "x",
        "asset_partitions_def": LETTERS,
        "asset_partition_key_range": dg.PartitionKeyRange("a", "b"),
    }
    store.manager.handle_output(dg.build_output_context(**several), {"a": FRAME, "b": FRAME})
    assert store.manager.load_input(dg.build_input_context(**several)).num_rows == 4


def test_ops_hand_on_what_they_return(store: Store) -> None:
    seen: list[int] = []

    @dg.op
    def first() -> pd.DataFrame:
        return FRAME

    @dg.op
    def second(given: pd.DataFrame) -> None:
        seen.append(len(given))

    @dg.job(resource_defs={"io_manager": store.manager})
    def both() -> None:
        second(first())

    both.execute_in_process()
    assert seen == [2]


@pytest.mark.parametrize("annotation", [list[pd.DataFrame], list[Predictions], list])
def test_an_op_takes_the_outputs_of_several(store: Store, annotation: Any) -> None:
    @dg.op(out=dg.DynamicOut())
    def parts() -> Iterator[dg.DynamicOutput[pd.DataFrame]]:
        for name in "ab":
            yield dg.DynamicOutput(pd.DataFrame({"part": [name]}), mapping_key=name)

    def together(parts):
        frames = [p if isinstance(p, pd.DataFrame) else p.to_pandas() for p in parts]
        return pd.concat(frames)

    together.__annotations__["parts"] = annotation
    joined = dg.op(together)

    @dg.graph_asset
    def whole():
        return joined(parts().collect())

    store.make(whole)
    assert [row["part"] for row in store.rows("whole")] == ["a", "b"]


def test_a_stored_value_can_be_looked_at(store: Store) -> None:
    @dg.asset
    def plain() -> pd.DataFrame:
        return FRAME

    up = letters()
    store.make(plain)
    store.make(up, **over("a", "b"))
    definitions = dg.Definitions([plain, up], resources=store.resources)
    look = {"instance": store.instance, "python_type": pd.DataFrame}
    assert len(definitions.load_asset_value("plain", **look)) == 2
    assert list(definitions.load_asset_value("up", partition_key="b", **look)["key"]) == ["b"]
    with pytest.raises(FileNotFoundError, match=r'load_asset_value\("up", partition_key=...\)'):
        definitions.load_asset_value("up", **look)


# Columns


def test_columns_that_are_no_list_are_refused(store: Store) -> None:
    @dg.asset
    def up() -> pd.DataFrame:
        return FRAME

    down = reading(pd.DataFrame, [], metadata={"columns": "x"})
    assert 'Write AssetIn(metadata={"columns": ["x"]})' in store.refusal(up, down)


@pytest.mark.parametrize("annotation", [Predictions, None, Any, Predictions | None], ids=str)
def test_an_input_of_predictions_has_no_other_columns_than_the_named_ones(
    store: Store, annotation: Any
) -> None:
    @dg.asset
    def up() -> pd.DataFrame:
        return pd.DataFrame({"x": [1], "y": ["a"], "z": [0.5]})

    @dg.asset(ins={"up": dg.AssetIn(metadata={"columns": ["z", "x"]})})
    def copy(up: Predictions) -> Predictions:
        return up

    seen: list[Any] = []
    down = reading(annotation, seen, metadata={"columns": ["z", "x"]})
    store.make(up, copy, down)
    (output,) = seen
    assert output.schema.names == ["z", "x"]
    assert output.to_arrow().to_pylist() == store.rows("copy") == [{"z": 0.5, "x": 1}]
    assert [table.column_names for table in output] == [["z", "x"]]
    assert output.to_pandas(["x"]).columns.tolist() == ["x"]
    for read in (lambda: output.to_arrow(["y"]), lambda: output.select(["y"])):
        with pytest.raises(KumoDataError, match="no column y; there are: z, x"):
            read()


def test_a_column_that_no_file_has_is_refused_when_predictions_are_loaded(store: Store) -> None:
    @dg.asset
    def up() -> pd.DataFrame:
        return FRAME

    down = reading(Predictions, [], metadata={"columns": ["nope"]})
    assert "There is no column nope; there are: x" in store.refusal(up, down)


def test_columns_by_partition_are_those_of_each_partition(store: Store) -> None:
    seen: list[Any] = []
    up = letters()
    down = reading(dict[str, Predictions], seen, metadata={"columns": ["key"]})
    store.make(up, **over("a", "c"))
    store.make(up, down, selection=[down])
    assert {key: one.to_arrow()["key"].to_pylist() for key, one in seen[0].items()} == {
        key: [key] for key in "abc"
    }


# Keys


KEYS = ["a%b", "a%20b", "a:b", "a b", "a ", "ü", "u\u0308", "a/b", "a\\b", "..", "a?b#c", "a*b[1]{x}", "a=b", "~"]  # fmt: skip


@since("dagster", "1.13", "built contexts with partitions")
@pytest.mark.slow
def test_any_key_of_partitions_and_assets_is_stored_and_loaded(
    tmp_path: Path, s3_options: dict[str, Any]
) -> None:
    odd = dg.StaticPartitionsDefinition(KEYS)
    places: list[tuple[str, dict[str, Any]]] = [
        (str(tmp_path), {}),
        (f"memory://{tmp_path.name}", {}),
        ("s3://kumo/odd keys", s3_options),
    ]
    for base_path, options in places:
        manager = KumoIOManager(base_path=base_path, storage_options=options, statistics=False)
        all_keys: dict[str, Any] = {
            "asset_key": dg.AssetKey(["a:%/b", "ü ?"]),
            "asset_partitions_def": odd,
            "asset_partition_key_range": dg.PartitionKeyRange(KEYS[0], KEYS[-1]),
        }
        values = {key: pd.DataFrame({"key": [key]}) for key in KEYS}
        manager.handle_output(dg.build_output_context(**all_keys), values)
        for kind in (pd.DataFrame, pl.LazyFrame, duckdb.DuckDBPyRelation, ds.Dataset):
            wanted = dg.PythonObjectDagsterType(kind)
            loaded = manager.load_input(dg.build_input_context(**all_keys, dagster_type=wanted))
            assert keys_in(loaded) == KEYS, (base_path, kind)


def keys_in(loaded: Any) -> list[str]:
    """What is in the column `key`, whatever it was loaded as."""
    if isinstance(loaded, pl.LazyFrame):
        loaded = loaded.collect()
    if isinstance(loaded, ds.Dataset):
        return loaded.to_table()["key"].to_pylist()
    if isinstance(loaded, duckdb.DuckDBPyRelation):
        return [key for (key,) in loaded.fetchall()]
    return list(loaded["key"])
