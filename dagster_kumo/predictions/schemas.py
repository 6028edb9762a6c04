"""One schema for files that have different ones.

It has the columns of all files. If a file lacks a column, its values are null. Types are widened as by Arrow
(`promote_options="permissive"`), but only if no value changes. These are not combined: text and numbers, times
with and without a zone, dates and times, decimals and floating-point numbers, decimals that would need more than
38 digits. A file without rows has no say in the types.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import pyarrow as pa

from dagster_kumo.api.errors import KumoDataError

Data = TypeVar("Data", pa.Table, pa.RecordBatch)


def unify(schemas: Sequence[pa.Schema], names: Sequence[str], rows: Sequence[int]) -> pa.Schema:
    """One schema for the data of all files, of which messages use the `names`.

    A file without rows adds columns, but does not decide on types.

    Raises:
        KumoDataError: Two files have a column of the same name, and its types cannot be combined.
    """
    with_rows = [index for index, count in enumerate(rows) if count] or range(len(schemas))
    first = unified = schemas[with_rows[0]]
    for index in with_rows[1:]:
        if not schemas[index].equals(unified):
            check_names(schemas[index], names[index])
            unified = _widened(unified, schemas[index], names[index])
    for schema in schemas:
        for field in schema:
            if field.name not in unified.names:
                unified = unified.append(field)
    if unified is first:
        return unified
    # A column that one file lacks can be null, whatever the other files declare.
    filled = [schemas[index] for index in with_rows]
    fields = [
        field if all(field.name in schema.names for schema in filled) else field.with_nullable(True)
        for field in unified
    ]
    return pa.schema(fields, metadata=_metadata(first, unified))


def check_names(schema: pa.Schema, name: str) -> None:
    """Refuse a file, called `name`, whose columns cannot be distinguished in every library.

    Raises:
        KumoDataError: It has two columns of the same name, or one without a name.
    """
    if any(not column or "\0" in column for column in schema.names):
        raise KumoDataError(f"{name} has a column without a name. Name it, or drop it.")
    check_unique(schema.names, f"{name} has duplicate columns")


def check_unique(names: Iterable[str], what: str) -> None:
    """Refuse names that stand twice, with a message that begins with `what`."""
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise KumoDataError(f"{what}: {', '.join(twice)}. Rename or drop one of each name.")


def project(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    """Of `columns` those that a schema has, in their order; None: all."""
    if columns is None:
        return schema
    metadata: Any = schema.metadata
    return pa.schema([schema.field(n) for n in columns if n in schema.names], metadata=metadata)


def conform(data: Data, schema: pa.Schema) -> Data:
    """Data cast to the columns and types of `schema`, which comes from `unify`.

    Raises:
        KumoDataError: A value does not fit into the wider type: an integer beyond 2**53 among floats.
    """
    if data.schema.equals(schema) or not schema.names:
        return data.select(schema.names)
    columns: list[Any] = [
        _cast(data.column(field.name), field)
        if data.num_rows and field.name in data.schema.names
        else pa.nulls(data.num_rows, field.type)
        for field in schema
    ]
    return type(data).from_arrays(columns, schema=schema)


def concat(tables: Sequence[pa.Table], names: Sequence[str]) -> pa.Table:
    """The tables of several files, concatenated.

    Raises:
        KumoDataError: Their types cannot be combined.
    """
    rows = [table.num_rows for table in tables]
    schema = unify([table.schema for table in tables], names, rows)
    return pa.concat_tables([conform(table, schema) for table in tables])


def _widened(unified: pa.Schema, schema: pa.Schema, name: str) -> pa.Schema:
    """The schema of the files so far, widened for the file `name`."""
    one, other = unified, schema
    try:
        for index, field in enumerate(unified):
            at = schema.get_field_index(field.name)
            if at < 0 or field.type == schema.field(at).type:
                continue
            types = field.type, schema.field(at).type
            if any(map(pa.types.is_decimal, types)) and any(map(_is_binary_number, types)):
                raise pa.ArrowTypeError(f"{field.name} is {types[0]} and {types[1]}")
            one = one.set(index, field.with_type(_plain(types[0])))
            other = other.set(at, schema.field(at).with_type(_plain(types[1])))
        widened = pa.unify_schemas([one, other], promote_options="permissive")
        for field in widened:
            if "decimal256(" in str(field.type):
                # Neither polars nor DuckDB reads more than 38 digits.
                raise pa.ArrowTypeError(f"{field.name} would be a {field.type}, beyond 38 digits")
        return widened
    except pa.ArrowException as error:
        raise KumoDataError(
            f"The partition files do not fit together: {name} has a column of another type than the files "
            f"before it.\n{error}"
        ) from None


def _plain(type_: pa.DataType) -> pa.DataType:
    """The plain type of values that have a special encoding or layout."""
    if isinstance(type_, pa.DictionaryType):
        return type_.value_type
    if pa.types.is_string_view(type_):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(type_) else type_


def _is_binary_number(type_: pa.DataType) -> bool:
    return pa.types.is_integer(type_) or pa.types.is_floating(type_)


def _metadata(first: pa.Schema, unified: pa.Schema) -> dict[Any, Any] | None:
    """The metadata of the first file, without pandas' notes on columns, which could narrow their types again."""
    metadata: dict[Any, Any] = dict(first.metadata or {})
    if b"pandas" in metadata:
        noted = json.loads(metadata[b"pandas"])
        same = {field.name for field in first if field.type == unified.field(field.name).type}
        for column in noted["columns"]:
            if column["field_name"] not in same:
                column |= {"pandas_type": "object", "numpy_type": "object", "metadata": None}
        metadata[b"pandas"] = json.dumps(noted).encode()
    return metadata or None


def _cast(column: Any, field: pa.Field[Any]) -> Any:
    if column.type == field.type:
        return column
    try:
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise KumoDataError(
            f"The partition files do not fit together: a value of {field.name} does not fit into "
            f"{field.type}, which the column is in another file.\n{error}"
        ) from None
