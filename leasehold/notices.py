"""Notices: who is told of something that happened to a lease, and whether it is still worth telling.

Standard library only; what a notice says is in `leasehold.letters`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from leasehold.channels import Channel, NoticeKind
from leasehold.messages import Letter, Notice
from leasehold.model import OVER, Lease, LeaseState, Outcome

_WAITING = frozenset({LeaseState.QUEUED, LeaseState.PREPARING})


def letters(
    notice: Notice, lease: Lease, notify: Sequence[str] | None, channels: Mapping[str, Channel]
) -> list[Letter]:
    """To whom a notice goes over which channel, nobody twice over one.

    `notify` are whom the request names beside its owner and `cc`; None: it wants no person told.
    """
    found: dict[Letter, None] = {}
    for name, channel in channels.items():
        if notice.kind in channel.about:
            found |= dict.fromkeys(Letter(channel=name, to=to) for to in _readers(channel, lease, notify))
    return list(found)


def _readers(channel: Channel, lease: Lease, notify: Sequence[str] | None) -> Iterable[str | None]:
    """The addresses that a channel writes to; None is whoever is at its end."""
    if channel.people is None:
        return [None]
    if notify is None:
        return []
    people = channel.people
    if lease.unverified:
        # Who has not said who they are makes the lab write to nobody but themselves.
        address = people.address(lease.owner)
        return [] if address is None else [address]
    found = [people.address(lease.owner, is_owner=True), *(people.address(name) for name in (*lease.cc, *notify))]
    return [address for address in found if address is not None]


def reaches(channels: Iterable[Channel], name: str) -> bool:
    """Whether any of these channels can write to somebody whom a request names."""
    return any(channel.people is not None and channel.people.address(name) is not None for channel in channels)


def of_end(outcome: Outcome, owner: str, actor: str) -> NoticeKind | None:
    """What is told of a lease's end; None where its owner has ended it."""
    if outcome in {Outcome.FAILED, Outcome.LOST}:
        return NoticeKind.FAILED
    return NoticeKind.ENDED if outcome is Outcome.EXPIRED or actor != owner else None


def is_stale(notice: Notice, lease: Lease) -> bool:
    """Whether something later has made a notice untrue that could not be sent in time."""
    if notice.kind is NoticeKind.REQUESTED:
        return lease.state not in _WAITING
    if notice.kind is NoticeKind.EXPIRING:
        return lease.state is not LeaseState.ACTIVE or lease.in_grace or lease.expires_at != notice.expires_at
    if notice.kind is NoticeKind.GRACE:
        return not lease.in_grace
    return notice.kind not in {NoticeKind.FAILED, NoticeKind.ENDED} and lease.state in OVER
