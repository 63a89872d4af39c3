"""Commands with a command of somebody else at their end: what belongs to it is never taken for an option of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from typer.core import TyperCommand, TyperOption


class Trailing(TyperCommand):
    """A command whose parameter `command` is all that comes after `--`, or from the first word after the others.

    So options come before that: `add lab --wait make -n` passes -n to make.
    """

    words: ClassVar[int] = 1
    """How many other words there are."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what is ours, and leave the rest as it is."""
        end = self._end(args)
        rest = super().parse_args(ctx, args[:end])
        ctx.params["command"] = args[end + 1 :] if args[end : end + 1] == ["--"] else args[end:]
        return rest

    def _end(self, args: Sequence[str]) -> int:
        """Where the other command begins, or the `--` before it."""
        valued = {
            name: not param.is_flag
            for param in self.params
            if isinstance(param, TyperOption)
            for name in (*param.opts, *param.secondary_opts)
        }
        place, words = 0, 0
        while place < len(args):
            arg = args[place]
            if arg == "--" or (words == self.words and not _is_option(arg)):
                break
            if _is_option(arg):
                place += _takes_next(arg, valued)
            else:
                words += 1
            place += 1
        return min(place, len(args))


def _is_option(arg: str) -> bool:
    return arg.startswith("-") and arg != "-"


def _takes_next(arg: str, valued: dict[str, bool]) -> bool:
    """Whether the value of an option is the next argument."""
    if arg.startswith("--"):
        return "=" not in arg and valued.get(arg, False)
    for place, letter in enumerate(arg[1:], start=2):
        if valued.get(f"-{letter}", False):
            return place == len(arg)
    return False
