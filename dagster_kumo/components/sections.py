"""Sections of a component's YAML that hold the arguments of something in Python, by the same names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar, get_type_hints

import dagster as dg
from docstring_parser import DocstringStyle, parse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

T = TypeVar("T")

Template = Annotated[str, Field(pattern=r"\{\{")]
"""What stands for a value that the YAML does not spell out, such as `"{{ env.WORKERS }}"`."""


@dataclass(frozen=True)
class _Argument:
    name: str
    kind: Any
    required: bool
    description: str | None


class Section(Generic[T]):
    """The arguments of a class or a function, as a section of a component's YAML.

    What the section may hold follows from the signature and what is said of it from the docstring,
    so that neither is written down twice.

    Args:
        of: what takes the arguments.
        omit: arguments that the YAML does not have.
        described_by: what has the docstring, if `of` has none of its own.
        yaml: for arguments that are no plain values, what the YAML has instead.
    """

    def __init__(
        self,
        of: Callable[..., T],
        *,
        omit: Collection[str] = (),
        described_by: Callable[..., Any] | None = None,
        yaml: dict[str, Any] | None = None,
    ) -> None:
        self._of = of
        arguments = [a for a in _arguments(of, described_by or of) if a.name not in omit]
        kinds = {argument.name: argument.kind for argument in arguments} | (yaml or {})
        self.model: type[BaseModel] = _model(
            of, {a: kinds[a.name] | Template for a in arguments}, ConfigDict(extra="forbid")
        )
        """What the YAML may hold: of each argument a value, or a template of one."""
        self._checked = _model(
            of, {a: a.kind for a in arguments}, ConfigDict(arbitrary_types_allowed=True)
        )

    def arguments(self, context: dg.ResolutionContext, given: BaseModel) -> dict[str, Any]:
        """What the YAML gives, with its templates rendered."""
        return dict(context.resolve_value(given.model_dump(exclude_unset=True)))

    def checked(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments as what their types say, for a template may have become anything.

        Raises:
            ValueError: one is of another type.
        """
        try:
            checked = self._checked.model_validate(arguments)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc']))}: {e['msg']}, not {e['input']!r}"
                for e in error.errors()
            )
            raise ValueError(wrong) from None
        return {name: getattr(checked, name) for name in arguments}

    def make(self, context: dg.ResolutionContext, given: BaseModel) -> T:
        """What the arguments make."""
        return self._of(**self.checked(self.arguments(context, given)))


def _model(of: Any, kinds: dict[_Argument, Any], config: ConfigDict) -> type[BaseModel]:
    fields: dict[str, Any] = {
        argument.name: (
            kind,
            Field(default=... if argument.required else None, description=argument.description),
        )
        for argument, kind in kinds.items()
    }
    return create_model(of.__name__, __config__=config, **fields)


def _arguments(of: Any, described_by: Any) -> Iterator[_Argument]:
    if issubclass(of, BaseModel) if isinstance(of, type) else False:
        for name, field in of.model_fields.items():
            yield _Argument(name, field.annotation, field.is_required(), field.description)
        return
    kinds = get_type_hints(of)
    descriptions = _descriptions(inspect.getdoc(described_by) or "")
    for name, parameter in inspect.signature(of).parameters.items():
        required = parameter.default is parameter.empty
        yield _Argument(name, kinds[name], required, descriptions.get(name))


def _descriptions(docstring: str) -> dict[str, str]:
    described = parse(docstring, style=DocstringStyle.GOOGLE).params
    return {
        name: " ".join((argument.description or "").split())
        for argument in described
        for name in argument.arg_name.split(", ")
    }
