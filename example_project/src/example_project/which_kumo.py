"""Says which Kumo the project uses, and starts the stand-in if it is that: `make dagit` begins with it."""

from dagster_kumo import KumoClient, LocalKumoResource
from example_project.defs.resources import kumo_resource


def main() -> None:
    kumo = kumo_resource()
    if isinstance(kumo, LocalKumoResource):
        url = kumo.get_client().url
        print(f"Kumo: a stand-in on this machine, {url}. It is not Kumo: KUMO_API_KEY is not set.")
    else:
        print(
            f"Kumo: the account of KUMO_API_KEY, {KumoClient().url}. "
            "Each materialization launches a job there. Unset the variable to use the stand-in."
        )


if __name__ == "__main__":
    main()
