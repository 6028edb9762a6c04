"""What the run's log tells of a job while it is waited for."""

import re
from pathlib import Path

import dagster as dg

from dagster_kumo.local import LocalKumo
from tests.support import day, purchase_assets, resources


def test_the_log_tells_how_far_the_job_is(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    with LocalKumo(queue_seconds=0.1, run_seconds=2) as kumo:
        run = dg.materialize(
            [purchase_assets()],
            instance=instance,
            resources=resources(kumo, tmp_path),
            partition_key=day(5),
        )
        asked = [r for r in kumo.requests if r.path.endswith("/progress")]
    said = [e.user_message for e in instance.all_logs(run.run_id) if not e.is_dagster_event]
    lines = [line for line in said if re.match(r"Prediction job \S+ is ", line)]
    per_cents = [int(found[1]) for line in lines if (found := re.search(r", (\d+) %$", line))]
    assert per_cents
    assert per_cents == sorted(set(per_cents))
    assert len(asked) <= 6
    assert lines[-1].endswith(" is DONE")
