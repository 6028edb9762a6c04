"""For the documentation site: signatures show what an alias stands for, `Literal["end", "start"]` for `Anchor`."""

from __future__ import annotations

import dataclasses
from typing import Any

import griffe


class Aliases(griffe.Extension):
    """Replaces this package's type aliases and constants in signatures by their values."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        self._visit(pkg, pkg)

    def _visit(self, package: griffe.Module, item: griffe.Object) -> None:
        for member in item.members.values():
            if member.is_alias:
                continue
            if member.is_function:
                for parameter in member.parameters:
                    parameter.annotation = self._spelled_out(package, parameter.annotation)
                    if str(parameter.default).startswith("dict["):  # field(default_factory=...)
                        parameter.default = "{}"
                    parameter.default = self._spelled_out(package, parameter.default)
                member.returns = self._spelled_out(package, member.returns)
            elif member.is_attribute:
                member.annotation = self._spelled_out(package, member.annotation)
            self._visit(package, member)

    def _spelled_out(self, package: griffe.Module, expression: Any) -> Any:
        if isinstance(expression, griffe.ExprName):
            return self._value(package, expression) or expression
        if isinstance(expression, griffe.ExprSubscript) and str(expression.left) == "Annotated":
            return self._spelled_out(package, expression.slice.elements[0])
        if isinstance(expression, list):
            return [self._spelled_out(package, item) for item in expression]
        if isinstance(expression, griffe.Expr):
            return dataclasses.replace(
                expression,
                **{
                    field.name: self._spelled_out(package, getattr(expression, field.name))
                    for field in dataclasses.fields(expression)
                    if field.init and field.name != "parent"
                },
            )
        return expression

    def _value(self, package: griffe.Module, name: griffe.ExprName) -> Any:
        root, _, path = name.canonical_path.partition(".")
        if root != package.name or not path:
            return None
        try:
            target = package[path]
            target = target.final_target if target.is_alias else target
        except (KeyError, griffe.AliasResolutionError):
            return None
        if not (target.is_attribute and target.parent.is_module):
            return None
        return self._spelled_out(package, target.value)
