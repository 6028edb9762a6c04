"""What becomes of a Kumo job when the run that waits for it is terminated."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Literal

import dagster as dg

from dagster_kumo.api.errors import KumoError

CancelOnTermination = Literal["user", "always", "never"]


@contextmanager
def cancelled_with_the_run(
    context: dg.AssetExecutionContext,
    policy: CancelOnTermination,
    *,
    job: str,
    cancel: Callable[[], object],
) -> Generator[None, None, None]:
    """Cancel a job when the run is terminated while the block runs; the termination goes on.

    An error is no termination: the job is left alone, for a retry to attach to. A termination
    arrives as an exception outside `Exception`: an interrupt, or the generator being closed when
    the interrupt struck while the I/O manager wrote.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException:
        if _is_wanted(context, policy):
            context.log.info(f"The run is being terminated: cancelling {job}.")
            try:
                cancel()
            except KumoError as error:
                context.log.warning(f"{job} could not be cancelled and may still run: {error}")
        else:
            context.log.info(
                f"The run ends, but {job} goes on: a retry of this run attaches to it."
            )
        raise


def _is_wanted(context: dg.AssetExecutionContext, policy: CancelOnTermination) -> bool:
    """Whether the job should end with the run: a user's terminate, and not an eviction."""
    if policy != "user":
        return policy == "always"
    run = context.instance.get_run_by_id(context.run.run_id)
    return run is not None and run.status in (
        dg.DagsterRunStatus.CANCELING,
        dg.DagsterRunStatus.CANCELED,
    )
