"""Templates that make text, and expressions that make a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import Undefined, nodes
from jinja2.environment import Template, TemplateExpression
from jinja2.parser import Parser

from leasehold.templates.filters import printed
from leasehold.templates.meter import BadTemplate, NotRendered
from leasehold.templates.sandbox import ENVIRONMENT, check, compiled, compiling, rendering


@dataclass(frozen=True, eq=False)
class TextTemplate:
    """Text with `{{ expressions }}`, `{% if %}` and `{% for %}`."""

    _template: Template | str

    def render(self, values: Mapping[str, Any]) -> str:
        """Fill it in; raise `NotRendered`."""
        with rendering():
            return printed(self._template) if isinstance(self._template, str) else self._template.render(values)


@dataclass(frozen=True, eq=False)
class Expression:
    """One expression, without braces."""

    _expression: TemplateExpression

    def value(self, values: Mapping[str, Any]) -> Any:
        """Calculate it; raise `NotRendered`, also where the value is missing."""
        with rendering():
            found = self._expression(values)
            return printed(found) if isinstance(found, Undefined) else found

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it is true; raise `NotRendered` where it is neither true nor false."""
        found = self.value(values)
        if not isinstance(found, bool):
            raise NotRendered("it is neither true nor false; compare it with something")
        return found


@lru_cache(maxsize=2048)
def text_template(source: str, names: frozenset[str]) -> TextTemplate:
    """Compile a template that may use these variables. Raises `BadTemplate`."""
    with compiling(source):
        if "{" not in source:
            return TextTemplate(source)
        tree = ENVIRONMENT.parse(source)
        check(tree)
        return TextTemplate(compiled(tree, names))


@lru_cache(maxsize=2048)
def expression(source: str, names: frozenset[str]) -> Expression:
    """Compile an expression that may use these variables. Raises `BadTemplate`."""
    with compiling(source):
        if source.lstrip().startswith("{{"):
            raise BadTemplate("an expression is written without {{ }}")
        parser = Parser(ENVIRONMENT, source, state="variable")
        found = parser.parse_expression()
        if not parser.stream.eos:
            raise BadTemplate("there is more after the expression")
        return expression_of(found, names)


def expression_of(node: nodes.Expr, names: frozenset[str]) -> Expression:
    """Compile an expression that has been read. Raises `BadTemplate`."""
    check(node)
    # Of all that a template can do, an assignment alone leaves a value behind that is not text.
    tree = nodes.Template([nodes.Assign(nodes.Name("result", "store"), node, lineno=1)], lineno=1)
    return Expression(TemplateExpression(compiled(tree, names), undefined_to_none=False))
