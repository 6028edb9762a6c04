"""What Dagster's web UI asks for, without a server: GraphQL on a code location of this process."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "here"}
"""The definitions of the module, as selectors name them."""

Ask = Callable[..., dict[str, Any]]


@contextmanager
def web_ui(instance: dg.DagsterInstance, module_name: str) -> Iterator[Ask]:
    """Ask about the `defs` of a module: `ask(query, **variables)` returns the data of the answer."""
    # Dagster has no public way to a workspace within the process; its own tests take this one.
    from dagster._core.remote_origin import InProcessCodeLocationOrigin
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
    from dagster_graphql.test.utils import execute_dagster_graphql

    target = LoadableTargetOrigin(
        executable_path=sys.executable, module_name=module_name, attribute="defs"
    )
    origin = InProcessCodeLocationOrigin(target, location_name="here")
    with WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget([origin])) as workspace:
        context = workspace.create_request_context()
        yield lambda query, **variables: execute_dagster_graphql(context, query, variables).data
