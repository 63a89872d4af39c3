"""Where a process can be killed: around every commit that the service makes, and on a grant's way to its lease."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from leasehold import ports
from leasehold.messages import AdmitLease, CloseLease, RunHook
from leasehold.store.caring import SqlTending
from leasehold.store.healing import SqlHealing
from leasehold.store.logs import SqlLogStore
from leasehold.store.running import SqlCommands
from leasehold.store.store import SqlStore
from leasehold.store.tokens import SqlTokens
from worker.relay import Relay

STORES = (SqlStore, SqlLogStore, SqlHealing, SqlTending, SqlCommands, SqlTokens)

UNWRITTEN = ((SqlStore, "outbox_due"), (Relay, "_signal"), (SqlStore, "standing"))
"""What commits nothing, and lies between the commit of a grant and its lease's knowing of it, in this order.

Before and after each of them is a moment too; after a look into the outbox only if it found something.
"""

AHEAD = " ahead"
"""Ends what a hook's commit is about that runs for nobody yet."""

COMMANDED = "with a command"
"""Ends what the commit is about that admits, or closes, a lease with a command, which is recorded with it."""


class Moment(StrEnum):
    """When, around one commit, or around a step that commits nothing."""

    BEFORE = "before the commit"
    """Everything is written, nothing is committed."""
    AFTER = "after the commit"
    UNTOLD = "before its caller knows"
    """It is committed, and whoever it concerns has been told through the outbox; only its caller has no answer."""


class Victim(StrEnum):
    """Who is killed."""

    ITSELF = "the process itself"
    API = "the API"
    ALL = "everything"
    """The whole stack, Temporal, the runner and the supervisors of hooks and commands among it."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A kind of commit: the store's method, and what it is about: a stage, for somebody or ahead, or an outcome.

    What admits or closes a lease is a kind of its own where the lease has a command.
    """

    method: str
    about: str | None = None

    def __str__(self) -> str:
        return self.method if self.about is None else f"{self.method} ({self.about})"

    @classmethod
    def made(cls, method: str, *messages: object) -> Call:
        """The call of a method with these arguments."""
        told = (getattr(message, name, None) for name in ("stage", "outcome") for message in messages)
        about = next((str(one) for one in told if one), None)
        if any(isinstance(message, RunHook) and not message.lease for message in messages):
            about = f"{about}{AHEAD}"
        if any(_commanded(message) for message in messages):
            about = f"{about} {COMMANDED}" if about else COMMANDED
        return cls(method=method, about=about)


def _commanded(message: object) -> bool:
    if isinstance(message, CloseLease):
        return message.command is not None
    return isinstance(message, AdmitLease) and message.request.command is not None


@dataclass(frozen=True, kw_only=True)
class Point:
    """One kill: at the `nth` time that the call comes to the moment."""

    call: Call
    moment: Moment
    victim: Victim
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.victim} killed {self.moment} number {self.nth} of {self.call}"

    def arm(self, folder: Path) -> None:
        """Have it happen in the stack whose data folder this is."""
        new = folder / "fault.new"
        new.write_text(json.dumps(asdict(self)))
        new.rename(folder / "fault.json")

    @classmethod
    def armed(cls, folder: Path) -> Point | None:
        """The point that is to happen next in a stack."""
        try:
            plain = json.loads((folder / "fault.json").read_text())
        except FileNotFoundError:
            return None
        return cls(
            call=Call(**plain["call"]),
            moment=Moment(plain["moment"]),
            victim=Victim(plain["victim"]),
            nth=plain["nth"],
        )


def disarm(folder: Path) -> bool:
    """Take the armed point back; return whether there was one, so that it has not happened."""
    try:
        (folder / "fault.json").unlink()
    except FileNotFoundError:
        return False
    return True


def writing_methods() -> set[tuple[type, str]]:
    """Every method of a port that writes to a database: where it is implemented, and its name.

    Taken from the code of the real stores, so that a new method is here as soon as it is there.
    """
    found: set[tuple[type, str]] = set()
    for store in STORES:
        for protocol in _ports_of(store):
            for name in _methods(protocol):
                if _writes(inspect.unwrap(getattr(store, name))):
                    found.add((store, name))
    return found


def _ports_of(store: type) -> list[type]:
    """The Protocols of `leasehold.ports` that a store satisfies."""
    protocols = [p for p in vars(ports).values() if isinstance(p, type) and getattr(p, "_is_protocol", False)]
    return [p for p in protocols if _methods(p) and all(hasattr(store, name) for name in _methods(p))]


def _methods(protocol: type) -> list[str]:
    return [name for name in dir(protocol) if not name.startswith("_") and callable(getattr(protocol, name))]


def _writes(method: Callable[..., Any]) -> bool:
    """Whether a method writes itself, or has a function of the store's modules do it with the database it is given."""

    def names(code: CodeType) -> set[str]:
        return set(code.co_names).union(*(names(c) for c in code.co_consts if isinstance(c, CodeType)))

    assert isinstance(method, FunctionType)
    own = names(method.__code__)
    modules = [m for name in own if isinstance(m := method.__globals__.get(name), ModuleType)]
    called = [f for m in modules for name in own if isinstance(f := getattr(m, name, None), FunctionType)]
    inner = [g for f in called for name in names(f.__code__) if isinstance(g := f.__globals__.get(name), FunctionType)]
    return any(not {"_write", "write"}.isdisjoint(names(f.__code__)) for f in (method, *called, *inner))
