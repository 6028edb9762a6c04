"""Source tables (`/v1/source_tables`): what the stand-in's graphs read, as an S3 connector shows it."""

from __future__ import annotations

from typing import Any

from dagster_kumo.local.model.data import load_transactions
from dagster_kumo.local.model.tasks import BAND, graph_of
from dagster_kumo.local.service.service import ApiError, Call, Service

_MOST_SAMPLE_ROWS = 1000


class SourceTables:
    """Shows the tables under `s3://cdnow`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        # The graph of this query has all the tables that there are.
        self._tables: dict[str, Any] = graph_of(BAND)["tables"]

    def validate(self, call: Call) -> dict[str, Any]:
        """Whether there is such a table."""
        name = _plain(call.body().get("table_name"))
        known = name in self._tables
        return {"is_valid": known, "msg": "" if known else self._unknown(name)}

    def names(self, _: Call) -> dict[str, list[str]]:
        return {"table_names": list(self._tables)}

    def config(self, call: Call) -> dict[str, Any]:
        """Where a table is."""
        return {"source_table": self._find(call.body().get("table_name"))["source_table"]}

    def data(self, call: Call) -> list[dict[str, Any]]:
        """The columns of some tables, and some rows if asked for."""
        body = call.body()
        rows = min(int(body.get("sample_rows") or 0), _MOST_SAMPLE_ROWS)
        names = (body.get("source_table_request") or {}).get("table_names") or list(self._tables)
        return [self._describe(_plain(name), rows) for name in names]

    def _describe(self, name: str, rows: int) -> dict[str, Any]:
        table = self._find(name)
        columns = [
            {
                "name": column["name"],
                "stype": column["stype"],
                "dtype": column["dtype"],
                "is_primary": column["name"] == table["pkey"],
            }
            for column in table["cols"]
        ]
        sample = self._sample(name, rows) if rows else None
        return {"table_name": name, "cols": columns, "sample_rows": sample}

    def _sample(self, name: str, rows: int) -> str | None:
        transactions = load_transactions(self._service.folder.path)
        if name == "purchases":
            return transactions.head(rows).to_json(orient="table")
        if name == "customers":
            customers = transactions[["customer_id"]].drop_duplicates()
            return customers.head(rows).to_json(orient="table")
        return None  # `months` is a view without stored rows

    def _find(self, name: Any) -> dict[str, Any]:
        table = self._tables.get(_plain(name))
        if table is None:
            raise ApiError(404, self._unknown(_plain(name)))
        return table

    def _unknown(self, name: str) -> str:
        return f"There is no table {name}; the stand-in has {', '.join(self._tables)}."


def _plain(name: Any) -> str:
    return str(name).removesuffix(".parquet")
