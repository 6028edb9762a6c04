"""Errors in the YAML that name the field, and the one that was meant."""

# No `from __future__ import annotations`: Dagster looks at the annotations of fields as objects.

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

import dagster as dg
from pydantic import BaseModel, create_model, model_validator


class NamedFields(dg.Model):
    """A section of the YAML. An unknown field is refused by its name, when definitions load and by `dg check yaml`."""

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, given: Any) -> Any:
        names = map(str, given) if isinstance(given, Mapping) else ()
        unknown = [name for name in names if name not in cls.model_fields]
        if unknown:
            raise ValueError(" ".join(_no_field(name, cls.model_fields) for name in unknown))
        return given

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The schema for `dg`, which says what is wrong inside of a value that may also be a template."""
        schema = super().model_json_schema(*args, **kwargs)
        _name_errors(schema, schema.get("$defs", {}))
        return schema


class NamedFieldsResolvable(dg.Resolvable):
    """A component, or a part of one, whose fields are `NamedFields`."""

    @classmethod
    def model(cls) -> type[BaseModel]:
        """What the YAML may hold."""
        return _named(super().model())


@cache
def _named(derived: type[BaseModel]) -> type[BaseModel]:
    return create_model(derived.__name__, __base__=(NamedFields, derived))


def _no_field(name: str, fields: Iterable[str]) -> str:
    close = get_close_matches(name, fields, n=1)
    way_out = f"Did you mean {close[0]}?" if close else f"There are {', '.join(fields)}."
    return f"There is no field {name}. {way_out}"


def _name_errors(schema: Any, definitions: Mapping[str, Any]) -> None:
    """Change a JSON schema so that a validator names the field that is wrong.

    Of a value that may have one of several forms a validator says only that it has none of them. So an object and a
    list are let through there, and looked at by themselves.
    """
    if isinstance(schema, list):
        for item in schema:
            _name_errors(item, definitions)
    if not isinstance(schema, dict):
        return
    for value in list(schema.values()):
        _name_errors(value, definitions)
    if schema.get("additionalProperties") is False and "properties" in schema:
        schema["propertyNames"] = {"enum": list(schema["properties"])}
    for kind in ("object", "array"):
        forms = [form for form in schema.get("anyOf", ()) if _type_of(form, definitions) == kind]
        if len(forms) == 1:
            schema["anyOf"].append({"type": kind})
            schema.setdefault("allOf", []).append({"if": {"type": kind}, "then": forms[0]})


def _type_of(form: Mapping[str, Any], definitions: Mapping[str, Any]) -> Any:
    reference = form.get("$ref", "").removeprefix("#/$defs/")
    return definitions[reference]["type"] if reference else form.get("type")
