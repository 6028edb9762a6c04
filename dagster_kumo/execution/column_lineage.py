"""Which columns of the source tables the columns of an output come from."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from dagster_kumo.api.records import OutputType
from dagster_kumo.jobs.query_columns import QueryColumns, TableColumn
from dagster_kumo.predictions.columns import CLASS, ENTITY, SCORE_COLUMNS, TARGET_PRED


def column_lineage(
    query: QueryColumns, output_type: OutputType, upstream: Iterable[dg.AssetKey]
) -> dg.TableColumnLineage | None:
    """The lineage of an output, as far as the query tells it; None if no table is an upstream asset.

    ENTITY comes from the entity's key, TARGET_PRED from the columns of the target, and scores from both. A table
    belongs to the upstream asset whose key ends with the table's name.
    """
    by_table: dict[str, list[dg.AssetKey]] = {}
    for key in upstream:
        by_table.setdefault(key.path[-1].lower(), []).append(key)

    def deps(*columns: TableColumn) -> list[dg.TableColumnDep]:
        found = [(by_table.get(column.table.lower(), []), column.column) for column in columns]
        return [dg.TableColumnDep(keys[0], name) for keys, name in found if len(keys) == 1]

    by_column = {ENTITY: deps(query.entity)}
    if output_type == "predictions":
        scores = deps(query.entity, *query.target)
        by_column |= dict.fromkeys((*SCORE_COLUMNS, CLASS), scores)
        by_column[TARGET_PRED] = deps(*query.target)
    by_column = {name: found for name, found in by_column.items() if found}
    return dg.TableColumnLineage(by_column) if by_column else None
