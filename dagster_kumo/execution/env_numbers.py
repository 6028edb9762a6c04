"""Numbers of a resource that may come from the environment, as `dg.EnvVar.int("NAME")`.

Until a run starts, Dagster replaces the number by a placeholder with the value 0. So the limits of a field are
checked when the real number is known:

    files: Annotated[int, Field(ge=1), FROM_ENVIRONMENT] = 4
    seconds: Annotated[float, Field(gt=0), NOT_FROM_ENVIRONMENT] = 60.0
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BeforeValidator, WrapValidator


def _check_unless_env(value: Any, check: Callable[[Any], Any]) -> Any:
    return value if _is_env(value) else check(value)


def _refuse_env(value: Any) -> Any:
    """Dagster has no such variable for fractions: it would silently use the placeholder's 0."""
    if _is_env(value):
        raise ValueError(
            "Dagster reads whole numbers from the environment, and this one may be a fraction.\n"
            f'Write float(os.environ["{value.env_var_name}"]).'
        )
    return value


def _is_env(value: Any) -> bool:
    return hasattr(value, "env_var_name")


FROM_ENVIRONMENT = WrapValidator(_check_unless_env)
"""For whole numbers: put it last in the field's annotation."""
NOT_FROM_ENVIRONMENT = BeforeValidator(_refuse_env)
"""For numbers that may be fractions."""
