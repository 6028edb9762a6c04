"""The columns that a predictive query reads, by the vendor's parser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dagster_kumo.api.records import PredictiveQuery


@dataclass(frozen=True)
class TableColumn:
    """A column of a table in Kumo's graph."""

    table: str
    column: str


@dataclass(frozen=True)
class QueryColumns:
    """The columns of a query: its entity, and those that its target is computed from."""

    entity: TableColumn
    target: tuple[TableColumn, ...]


def parsed_query(query: str) -> Any:
    """The query as the parser of the extra `evaluation` understands it. The parser is no supported API.

    Raises:
        ImportError: It is not installed.
        Exception: It cannot read the query.
    """
    from predictive_query import PQLParser

    return PQLParser().to_parsed_predictive_query(query)


def query_columns(query: PredictiveQuery) -> QueryColumns:
    """The columns of a query. `orders.*` stands for the columns that link the table to others.

    Raises:
        Exception: As `parsed_query`.

    >>> found = query_columns(
    ...     PredictiveQuery(query_string="PREDICT SUM(orders.price, 0, 7, days) > 5 FOR EACH users.id")
    ... )
    >>> found.entity, found.target
    (TableColumn(table='users', column='id'), (TableColumn(table='orders', column='price'),))
    """
    parsed = parsed_query(query.query_string)
    keys = list(_keys(query.graph))
    target: dict[TableColumn, None] = {}
    for column in _columns_in(parsed.target_ast):
        if column.column == "*":
            target |= dict.fromkeys(key for key in keys if key.table == column.table)
        else:
            target[column] = None
    return QueryColumns(_column(str(parsed.entity_column)), tuple(target))


def _columns_in(node: Any) -> Iterator[TableColumn]:
    if type(node).__name__ == "Column":
        yield _column(node.fqn)
    for child in node.children:
        yield from _columns_in(child)


def _column(full_name: str) -> TableColumn:
    table, _, column = full_name.rpartition(".")
    return TableColumn(table, column)


def _keys(graph: Mapping[str, Any]) -> Iterator[TableColumn]:
    """The columns that link tables, in a graph, which is free-form JSON here."""
    for group in graph.get("col_groups") or ():
        for column in group["columns"]:
            yield TableColumn(column["table_name"], column["col_name"])
