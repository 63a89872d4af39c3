"""The table of the benchmark: each figure beside its target, and beside what it is compared with in the same run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Figures = float | tuple[float, ...]
"""One figure, or some that belong together."""


@dataclass(frozen=True)
class Row:
    """A figure beside its target, both in `unit`; None is a figure that there is not, or no target.

    Several figures that belong together have a target each. `beside` is what the figure is compared with, in words.
    """

    what: str
    figure: Figures | None
    target: Figures | None
    unit: str
    at_least: bool = False
    beside: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached, each of them; None where that cannot be said."""
        if self.figure is None or self.target is None:
            return None
        pairs = zip(_all(self.figure), _all(self.target), strict=True)
        return all(figure >= target if self.at_least else figure <= target for figure, target in pairs)


def absent(what: str, why: str) -> Row:
    """A row for what could not be measured here."""
    return Row(what, None, None, "", beside=why)


def line(row: Row) -> str:
    """A row of the table, in Markdown."""
    sign = "≥" if row.at_least else "≤"
    figure = "-" if row.figure is None else f"{numbers(row.figure)} {row.unit}"
    target = "-" if row.target is None else f"{sign} {numbers(row.target)} {row.unit}"
    met = {True: "yes", False: "no", None: "-"}[row.met]
    return f"| {row.what:<58} | {figure:>28} | {target:>28} | {met:<3} | {row.beside} |"


def head() -> str:
    """The head of the table, in Markdown."""
    return "| what | figure | target | met | beside, in the same run |\n|---|---|---|---|---|"


def numbers(figures: Figures) -> str:
    """Figures as people read them: three digits, or all of an integer's."""
    return " / ".join(f"{figure:.3g}" if abs(figure) < 1000 else f"{figure:,.0f}" for figure in _all(figures))


def _all(figures: Figures) -> Iterable[float]:
    return figures if isinstance(figures, tuple) else (figures,)
