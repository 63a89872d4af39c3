"""Channels: over what people are told of their leases, of what, and by which address.

Standard library only. Where a channel leads is a secret: here it has a name, and only who sends looks it up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

_ATOM, _LABEL = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+", r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"(?=[^@]{{1,64}}@.{{1,253}}$){_ATOM}(?:\.{_ATOM})*@({_LABEL}(?:\.{_LABEL})*)")


class NoticeKind(StrEnum):
    """What people are told of."""

    REQUESTED = "requested"
    DELIVERED = "delivered"
    REPLACED = "replaced"
    DEGRADED = "degraded"
    HELD = "held"
    EXPIRING = "expiring"
    GRACE = "grace"
    FAILED = "failed"
    ENDED = "ended"


def domain_of(address: str) -> str | None:
    """The domain of a mail address, in small letters; None where this is no address (RFC 5321, without quoting)."""
    found = _ADDRESS.fullmatch(address)
    return found[1].lower() if found else None


@dataclass(frozen=True, kw_only=True)
class People:
    """How the names of people become addresses: by the table `names`, as they are, or with `domain` after them.

    What others type is written to in `domain` and `domains` alone, so that nobody makes the lab write to strangers.
    """

    domain: str | None = None
    domains: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    def address(self, name: str, *, is_owner: bool = False) -> str | None:
        """Where somebody is written to, if anywhere; the name of an owner with a token is an admin's word."""
        if name in self.names:
            return self.names[name]
        address = name if "@" in name or self.domain is None else f"{name}@{self.domain}"
        domain = domain_of(address)
        if domain is None or not (is_owner or domain in {self.domain, *self.domains}):
            return None
        return address


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One way to tell people, with the file or the variable that says where it leads.

    With `people` each of them is written to, otherwise whoever is at its end.
    """

    url_file: str | None = None
    url_env: str | None = None
    about: tuple[NoticeKind, ...] = tuple(NoticeKind)
    people: People | None = None
