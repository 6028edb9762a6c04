"""A stand-in for the Kumo service that runs on your machine. It is not Kumo.

It speaks Kumo's job API over HTTP: prediction jobs that queue, run and end; presigned urls that expire;
prediction tables, training jobs with measured holdout metrics, tags, exports. Its predictions come from
a small model that is fitted on real transactions (see `dagster_kumo.local.model.data`). They change with
the anchor time: nothing later than the anchor is used.

- `LocalKumo`: in this process, for tests, with faults on demand.
- `LocalKumo.shared`: for several processes, such as the runs of a code location.
- `dagster-kumo local`: in a terminal.
- `load_transactions`: the transactions it predicts from.

Its training jobs are in `dagster_kumo.local.model.tasks`. It needs the extra `local`:
`pip install 'dagster-kumo[local]'`.
"""

from dagster_kumo.local.faults import Fault, Faults
from dagster_kumo.local.model.data import load_transactions
from dagster_kumo.local.shared import SharedKumo
from dagster_kumo.local.standin import LocalKumo

__all__ = ["Fault", "Faults", "LocalKumo", "SharedKumo", "load_transactions"]
