"""Which Kumo the project uses. `make dagit` begins by saying so, and by starting the stand-in if it is that."""

from dagster_kumo import KumoClient, LocalKumoResource
from example_project.defs.resources import kumo_resource


def promote_first_model(stand_in: KumoClient) -> None:
    """Let the stand-in's ready model predict until a candidate is promoted.

    On an account you do it once, with `dagster-kumo models promote`.
    """
    if not stand_in.list_training_jobs({"dagster.champion": "purchase"}):
        mark = {"dagster.champion": "purchase"}
        stand_in.update_training_job_tags("trainingjob-cdnow-purchase", mark)


def main() -> None:
    kumo = kumo_resource()
    if isinstance(kumo, LocalKumoResource):
        stand_in = kumo.get_client()
        promote_first_model(stand_in)
        url = stand_in.url
        print(f"Kumo: a stand-in on this machine, {url}. It is not Kumo: KUMO_API_KEY is not set.")
    else:
        print(
            f"Kumo: the account of KUMO_API_KEY, {KumoClient().url}. "
            "Each materialization launches a job there. Unset the variable to use the stand-in."
        )


if __name__ == "__main__":
    main()
