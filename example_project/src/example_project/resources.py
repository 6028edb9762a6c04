"""The connection to Kumo, or to the stand-in where there is no account."""

import os

import dagster as dg

from dagster_kumo import KumoClient, KumoResource
from dagster_kumo.local import LocalKumo


class StandInKumo(KumoResource):
    """A stand-in for Kumo on this machine, with a small model of its own. It is not Kumo.

    It starts by itself with the first call, in a process that all runs share, and ends half an hour
    after the last one. With LOCAL_KUMO_API=3 it speaks the API of Kumo's SDK 3.0.
    """

    data: str

    def get_client(self) -> KumoClient:
        if self._client is None:
            # Two seconds in all for each job: enough to see it queue and run.
            local = LocalKumo.shared(
                self.data,
                queue_seconds=0.5,
                run_seconds=1.5,
                api="3" if os.getenv("LOCAL_KUMO_API") == "3" else "2",
            )
            self._client = KumoClient(local.url, local.api_key)
        return self._client


def kumo_resource(stand_in: str) -> KumoResource:
    """Kumo itself when there is a key for it, otherwise the stand-in."""
    if os.getenv("KUMO_API_KEY"):
        return KumoResource(api_key=dg.EnvVar("KUMO_API_KEY"))
    return StandInKumo(data=stand_in, poll_interval=1.0)
