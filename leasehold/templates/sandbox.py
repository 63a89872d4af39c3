"""Jinja's sandbox, made narrower: what a template may say, and what it finds when it looks into data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, UndefinedError, meta, nodes
from jinja2.environment import Template
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from leasehold.templates.filters import FILTERS, TESTS, printed, rounds
from leasehold.templates.meter import BadTemplate, NotRendered, metered, spend

LONGEST = 64 * 1024
"""No template is longer, in characters."""

_DEEPEST = 50
_LARGEST_NUMBER = 2**256

_NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.CondExpr, nodes.Name, nodes.Const),
    *(nodes.Tuple, nodes.List, nodes.Dict, nodes.Pair, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter),
    *(nodes.Test, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos, nodes.Concat),
    *(nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Keyword),
)
_NAMES_OF_NODES: Mapping[type[nodes.Node], str] = {
    nodes.Call: "calls",
    nodes.Pow: "powers",
    nodes.Assign: "{% set %}",
    nodes.AssignBlock: "{% set %}",
    nodes.Macro: "{% macro %}",
    nodes.Include: "{% include %}",
    nodes.Import: "{% import %}",
    nodes.FromImport: "{% from %}",
    nodes.Extends: "{% extends %}",
    nodes.Block: "{% block %}",
    nodes.CallBlock: "{% call %}",
    nodes.FilterBlock: "{% filter %}",
    nodes.With: "{% with %}",
}


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which objects have no attributes at all: what looks like one is a key."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, finalize=printed, keep_trailing_newline=True, cache_size=0)
        self.globals.clear()
        # The last two are what `_Guarded` puts in; nobody can write them.
        self.filters = {**FILTERS, "_rounds": rounds, "_printed": printed}
        self.tests = {**TESTS}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """What `obj.attribute` says: the value of a key."""
        return self._look_up(obj, attribute, f"{attribute!r} is missing")

    def getitem(self, obj: Any, argument: Any) -> Any:
        """What `obj[argument]` says: the value of a key, or an element."""
        # The name was computed, of values that an error must not quote.
        return self._look_up(obj, argument, "a key or element is missing")

    def _look_up(self, obj: Any, key: Any, otherwise: str) -> Any:
        if isinstance(obj, Undefined):
            # `a.b.c is defined` can be asked where there is no `a.b`.
            return obj
        with contextlib.suppress(KeyError, IndexError, TypeError):
            if isinstance(obj, Mapping) or (isinstance(obj, (list, tuple, str)) and isinstance(key, int)):
                return obj[key]
            if isinstance(obj, LoopContext) and key in ("index", "index0", "first", "last", "length"):
                return getattr(obj, key)
        return self.undefined(hint=otherwise)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Calculate with numbers; `+` also puts texts or lists together."""
        if operator == "+" and any(isinstance(left, kind) and isinstance(right, kind) for kind in (str, list)):
            spend(len(left) + len(right))
            return left + right
        for value in (left, right):
            if isinstance(value, Undefined):
                str(value)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise NotRendered(f"`{operator}` needs numbers")
            if abs(value) > _LARGEST_NUMBER:
                raise NotRendered("a number is too large")
        return self.binop_table[operator](left, right)


class _Guarded(NodeTransformer):
    """Puts the meter into a template that `check` has passed."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        node.iter = _filtered(node.iter, "_rounds")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        node.nodes = [_filtered(part, "_printed") for part in node.nodes]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            # An error can name what the template itself names.
            return nodes.Getattr(node.node, node.arg.value, node.ctx, lineno=node.lineno)
        return node


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


ENVIRONMENT = _Environment()


def check(tree: nodes.Node) -> None:
    """Raise `BadTemplate` where a template uses more of Jinja than there is here."""
    unseen: list[tuple[nodes.Node, int]] = [(tree, 0)]
    while unseen:
        node, depth = unseen.pop()
        if depth > _DEEPEST:
            raise BadTemplate("it is nested too deeply")
        if not isinstance(node, _NODES):
            raise BadTemplate(f"templates have no {_NAMES_OF_NODES.get(type(node), type(node).__name__)}")
        if isinstance(node, nodes.For) and node.recursive:
            raise BadTemplate("templates have no recursive loops")
        if isinstance(node, (nodes.Filter, nodes.Test)):
            _check_call(node)
        unseen.extend((child, depth + 1) for child in node.iter_child_nodes())


def missing(why: str) -> Undefined:
    """A value that is not there: a template can ask whether it is, and fails with these words where it uses it."""
    return StrictUndefined(hint=why)


def _check_call(node: nodes.Filter | nodes.Test) -> None:
    kind, known = ("filter", FILTERS) if isinstance(node, nodes.Filter) else ("test", TESTS)
    if node.name not in known:
        raise BadTemplate(f"there is no {kind} {node.name!r}")
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        raise BadTemplate("templates have no calls with * or **")


@contextlib.contextmanager
def compiling(source: str) -> Iterator[None]:
    """Turn every way in which reading a template can fail into `BadTemplate`."""
    if len(source) > LONGEST:
        raise BadTemplate(f"a template has at most {LONGEST} characters")
    try:
        # Constant parts are calculated while it is compiled.
        with metered():
            yield
    except TemplateSyntaxError as error:
        place = f"line {error.lineno} of the template: " if error.lineno > 1 else ""
        raise BadTemplate(f"{place}{error.message}") from None
    except NotRendered as error:
        raise BadTemplate(str(error)) from None
    except RecursionError:
        raise BadTemplate("it is nested too deeply") from None
    except (ValueError, SyntaxError, OverflowError, MemoryError):
        raise BadTemplate("it cannot be read") from None


def compiled(tree: nodes.Template, names: frozenset[str]) -> Template:
    """Put the meter into a template that `check` has passed, and compile it."""
    tree = _Guarded().visit(tree)
    tree.set_environment(ENVIRONMENT)
    unknown = sorted(meta.find_undeclared_variables(tree) - names)
    if unknown:
        raise BadTemplate(f"there is no {unknown[0]!r} here, only {', '.join(sorted(names))}")
    return ENVIRONMENT.from_string(tree)


@contextlib.contextmanager
def rendering() -> Iterator[None]:
    """Turn every way in which a rendering can fail into `NotRendered`, whose words quote no value."""
    try:
        with metered():
            yield
    except NotRendered:
        raise
    except UndefinedError as error:
        raise NotRendered(str(error.message)) from None
    except TypeError:
        raise NotRendered("values are of types that do not go together") from None
    except Exception as error:
        raise NotRendered(f"it fails ({type(error).__name__})") from None
