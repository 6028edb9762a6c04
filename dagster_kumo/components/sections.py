"""Sections of a component's YAML that hold the arguments of a class or a function, by the same names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar, get_type_hints

import dagster as dg
from docstring_parser import DocstringStyle, parse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from dagster_kumo.components.named_fields import NamedFields

T = TypeVar("T")

Template = Annotated[str, Field(pattern=r"\{\{")]
"""A template instead of a value, such as `"{{ env.WORKERS }}"`."""


@dataclass(frozen=True)
class InYaml:
    """What the YAML has for an argument that is no plain value.

    Attributes:
        kind: The type in the YAML.
        make: Makes the argument. It returns anything else than a `kind` as it is: a template may have
            become the argument already.
    """

    kind: Any
    make: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class _Argument:
    name: str
    kind: Any
    required: bool
    description: str | None


class Section(Generic[T]):
    """The arguments of a class or a function, as a section of a component's YAML.

    The signature says what the section may hold, and the docstring describes it. The YAML does not have the arguments
    in `omit`, and has those in `yaml` in another form.
    """

    def __init__(
        self,
        of: Callable[..., T],
        *,
        omit: Collection[str] = (),
        yaml: Mapping[str, InYaml] | None = None,
    ) -> None:
        self._of = of
        self._yaml = yaml or {}
        arguments = [a for a in _arguments(of) if a.name not in omit]
        kinds = {argument.name: argument.kind for argument in arguments}
        kinds |= {name: in_yaml.kind for name, in_yaml in self._yaml.items()}
        self.model: type[BaseModel] = _model(
            of, {a: kinds[a.name] | Template for a in arguments}, NamedFields
        )
        """What the YAML may hold: for each argument a value, or a template of one."""
        self._checked = _model(of, {a: a.kind for a in arguments}, _AnyTypes)

    def arguments(self, context: dg.ResolutionContext, given: BaseModel) -> dict[str, Any]:
        """The arguments that the YAML gives, with its templates rendered.

        Raises:
            ValueError: One is of a wrong type, which a template may have become.
        """
        rendered: Mapping[str, Any] = context.resolve_value(given.model_dump(exclude_unset=True))
        arguments = {name: self._made(name, value) for name, value in rendered.items()}
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
        """Call the class or function with the arguments."""
        return self._of(**self.arguments(context, given))

    def _made(self, name: str, value: Any) -> Any:
        in_yaml = self._yaml.get(name)
        return in_yaml.make(value) if in_yaml and in_yaml.make else value


class _AnyTypes(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)


def _model(of: Any, kinds: dict[_Argument, Any], base: type[BaseModel]) -> type[BaseModel]:
    fields: dict[str, Any] = {
        argument.name: (
            kind,
            Field(default=... if argument.required else None, description=argument.description),
        )
        for argument, kind in kinds.items()
    }
    return create_model(of.__name__, __base__=base, **fields)


def _arguments(of: Any) -> Iterator[_Argument]:
    if issubclass(of, BaseModel) if isinstance(of, type) else False:
        for name, field in of.model_fields.items():
            yield _Argument(name, field.annotation, field.is_required(), field.description)
        return
    kinds = get_type_hints(of)
    descriptions: dict[str, str] = {}
    for documented in reversed(inspect.getmro(of) if isinstance(of, type) else [of]):
        descriptions |= _descriptions(documented.__doc__ or "")
    for name, parameter in inspect.signature(of).parameters.items():
        required = parameter.default is parameter.empty
        yield _Argument(name, kinds[name], required, descriptions.get(name))


def _descriptions(docstring: str) -> dict[str, str]:
    described = parse(docstring, style=DocstringStyle.GOOGLE).params
    return {
        argument.arg_name: " ".join((argument.description or "").split()) for argument in described
    }
