"""Notices: posted by the transaction in which something happens, where somebody is told of it, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from leasehold.channels import Channel, NoticeKind, People
from leasehold.errors import LeaseUnknown
from leasehold.messages import Letter, LetterLost, Notice, SendLetter, SubmitLease
from leasehold.model import Item, OnFailure, Outcome, Policy
from tests.contract.store_lab import NINE, Lab, admission, file, hosts, request, spec

MAIL = Channel(url_env="MAIL", people=People(domain="example.com"))
CHAT = Channel(url_file="/etc/chat", about=(NoticeKind.FAILED,))
HOUR = timedelta(hours=1)


async def pool(
    lab: Lab, *stages: str, name: str = "r640", count: int = 1, policy: Policy | None = None, **channels: Channel
) -> None:
    """A pool with channels; without any, it tells by mail of everything."""
    made = replace(spec(name, *stages, policy=policy), notices=channels or {"mail": MAIL})
    await lab.store.apply(file((made, hosts(count)), name=name), "operator")


def asking(lease: str) -> SubmitLease:
    return request(lease, Item(pool="r640"))


async def posted(lab: Lab, lease: str = "a") -> list[Notice]:
    due = [one.start for one in await lab.store.outbox_due()]
    return [one for one in due if isinstance(one, Notice) and one.lease == lease]


async def told(lab: Lab, lease: str = "a") -> list[str]:
    return [str(notice.kind) for notice in await posted(lab, lease)]


async def receivers(lab: Lab, notice: Notice) -> list[tuple[str, str | None]]:
    return [(letter.channel, letter.to) for letter in await lab.store.letters(notice)]


@contextmanager
def statements(lab: Lab) -> Iterator[list[str]]:
    """What is sent to the database that may write, while the block runs."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(lab.store.database.writer, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(lab.store.database.writer, "before_cursor_execute", note)


class TestWhatIsTold:
    async def test_the_story_of_a_lease_that_waits_is_warned_and_expires(self, lab: Lab) -> None:
        await pool(lab, "validate", policy=Policy(warn_before=(HOUR,), grace=HOUR))
        await lab.submit("a", duration="2h")
        await lab.store.activate("a")
        for hours in (1, 1, 1):
            lab.clock.forward(hours=hours)
            await lab.tick()
        assert await told(lab) == ["requested", "delivered", "expiring", "grace", "ended"]
        warning, grace = (await posted(lab))[2:4]
        assert (warning.expires_at, grace.expires_at) == (NINE + 2 * HOUR, NINE + 3 * HOUR)

    async def test_what_is_delivered_at_once_is_told_once(self, lab: Lab) -> None:
        await pool(lab)
        await lab.submit("a")
        assert await told(lab) == ["delivered"]

    async def test_one_that_waits_is_told_for_what(self, lab: Lab) -> None:
        await pool(lab)
        await lab.submit("a")
        await lab.submit("b")
        (asked,) = await posted(lab, "b")
        assert (asked.kind, asked.reason) == (NoticeKind.REQUESTED, "1 of r640 wanted, 0 free")
        await lab.close("a")
        assert await told(lab, "b") == ["requested", "delivered"]

    async def test_what_failed_is_named_with_its_stage(self, lab: Lab) -> None:
        await pool(lab, "wipe", count=2)
        admitted = await lab.submit("a")
        await lab.report("a", *admitted.claims)
        assert await told(lab) == ["requested", "replaced"]
        assert (await posted(lab))[1].reason == "r640/host01: wipe: exit status 3"
        claims = (await lab.store.standing("a")).claims
        await lab.report("a", *claims)
        assert await told(lab) == ["requested", "replaced", "failed"]
        assert "r640/host02: wipe: exit status 3" in str((await posted(lab))[2].reason)

    async def test_one_that_waits_for_a_repair_is_told_so(self, lab: Lab) -> None:
        await pool(lab, "wipe", policy=Policy(on_failure=OnFailure.HOLD))
        admitted = await lab.submit("a")
        await lab.report("a", *admitted.claims)
        await lab.report("a", *admitted.claims)
        assert await told(lab) == ["requested", "held"]

    async def test_who_ends_a_lease_of_their_own_is_not_told(self, lab: Lab) -> None:
        await pool(lab)
        await lab.submit("a")
        await lab.close("a", Outcome.RELEASED)
        assert await told(lab) == ["delivered"]

    async def test_whose_lease_somebody_else_ends_is_told(self, lab: Lab) -> None:
        await pool(lab)
        await lab.submit("a", owner="bob")
        await lab.close("a", Outcome.CANCELLED)
        assert await told(lab) == ["delivered", "ended"]
        assert [(one.actor, one.reason) for one in (await posted(lab))[1:]] == [("alice", "enough")]


class TestOnce:
    """A step that runs again tells nothing twice, and one that is undone tells nothing."""

    async def test_every_step_made_twice_is_told_once(self, lab: Lab) -> None:
        await pool(lab, "validate", policy=Policy(warn_before=(HOUR,)))
        for _ in range(2):
            await lab.submit("a", duration="2h")
        for _ in range(2):
            await lab.store.activate("a")
        lab.clock.forward(hours=1)
        for _ in range(2):
            await lab.tick()
        for _ in range(2):
            await lab.close("a", Outcome.EXPIRED, stopped=False)
        await lab.store.end_lease("a")
        assert await told(lab) == ["requested", "delivered", "expiring", "ended"]
        assert len({notice.id for notice in await posted(lab)}) == 4

    async def test_a_dry_run_tells_nobody(self, lab: Lab) -> None:
        await pool(lab)
        admitted, _ = await lab.store.try_admission(admission(asking("a")))
        assert admitted.claims
        assert await told(lab) == []


class TestWhoIsTold:
    async def test_owner_cc_and_those_whom_the_request_names(self, lab: Lab) -> None:
        await pool(lab, mail=MAIL, chat=CHAT)
        asked = replace(asking("a"), cc=("carol",), notify=("dave@example.com",))
        await lab.store.admit(admission(asked), "run")
        (notice,) = await posted(lab)
        everybody = [("mail", f"{name}@example.com") for name in ("alice", "carol", "dave")]
        assert await receivers(lab, notice) == everybody

    async def test_a_request_may_want_no_person_told(self, lab: Lab) -> None:
        await pool(lab, mail=MAIL, chat=CHAT)
        await lab.store.admit(admission(replace(asking("a"), notify=None)), "run")
        await lab.close("a", Outcome.FAILED)
        delivered, failed = await posted(lab)
        assert await receivers(lab, delivered) == []
        assert await receivers(lab, failed) == [("chat", None)]

    @pytest.mark.parametrize("name", ["eve@elsewhere.net", "json://10.0.0.1/", "mailto:eve@example.com", "eve x"])
    async def test_whom_nobody_may_write_to_is_refused_by_name(self, lab: Lab, name: str) -> None:
        await pool(lab)
        asked = replace(asking("a"), notify=("dave", name))
        refusal = (await lab.store.admit(admission(asked), "run")).refusal
        assert refusal is not None
        assert [(fault.path, fault.code) for fault in refusal.faults] == [("notify[1]", "not_reachable")]
        assert name in refusal.detail
        assert await told(lab) == []

    async def test_channels_are_those_of_the_pools_that_a_lease_has_of(self, lab: Lab) -> None:
        await pool(lab, name="a", team=CHAT)
        await pool(lab, name="b", other=CHAT)
        await lab.submit("one", pool="a")
        await lab.close("one", Outcome.FAILED)
        (failed,) = await posted(lab, "one")
        assert await receivers(lab, failed) == [("team", None)]

    async def test_a_channel_is_as_the_file_says_now(self, lab: Lab) -> None:
        await pool(lab)
        await lab.submit("a")
        (notice,) = await posted(lab)
        await pool(lab, mail=replace(MAIL, url_env="OTHER"))
        letter = Letter(channel="mail", to="alice@example.com")
        writing = await lab.store.writing(SendLetter(notice=notice, letter=letter))
        assert writing is not None
        assert writing.channel.url_env == "OTHER"
        await pool(lab, chat=CHAT)
        assert await lab.store.writing(SendLetter(notice=notice, letter=letter)) is None

    async def test_a_lease_that_the_database_has_lost_is_told_of_to_nobody(self, lab: Lab) -> None:
        gone = Notice(id="notice:gone", lease="gone", kind=NoticeKind.FAILED, at=NINE)
        with pytest.raises(LeaseUnknown):
            await lab.lease("gone")
        assert await lab.store.letters(gone) == ()


class TestWithoutChannels:
    """Who tells nobody pays nothing for it."""

    async def test_nothing_is_posted_and_nothing_asked(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "validate", policy=Policy(warn_before=(HOUR,)))
        await lab.pool("names", 1)
        with statements(lab) as without:
            await lab.submit("a")
        await lab.take("b", pool="names")
        await lab.close("b", Outcome.FAILED)
        assert [*await told(lab, "a"), *await told(lab, "b")] == []
        await lab.close("a")
        await pool(lab, "validate", mail=replace(MAIL, about=(NoticeKind.ENDED,)))
        with statements(lab) as other_kind:
            await lab.submit("c")
        assert len(without) == len(other_kind)
        await lab.close("c")
        await pool(lab, "validate")
        with statements(lab) as telling:
            await lab.submit("d")
        # It asks for the lease's pools, and posts.
        assert 0 < len(telling) - len(without) <= 3


class TestWhatBecameOfIt:
    async def test_a_letter_that_is_lost_is_in_the_story_of_its_lease(self, lab: Lab) -> None:
        await pool(lab)
        await lab.submit("a")
        (notice,) = await posted(lab)
        letter = Letter(channel="mail", to="alice@example.com")
        await lab.store.letter_lost(LetterLost(notice=notice, letter=letter, reason="550 no such user"))
        said = (await lab.events("a"))[-1]
        assert (said.kind, said.reason) == ("notice_failed", "550 no such user")
        assert said.data == {"channel": "mail", "to": "alice@example.com", "about": "delivered"}

    async def test_an_alert_stands_until_something_comes_through(self, lab: Lab) -> None:
        await lab.store.channel_trouble("mail", None)
        await lab.store.channel_trouble("mail", "it does not answer")
        await lab.store.channel_trouble("mail", "it does not answer")
        await lab.store.channel_trouble("chat", None)
        (alert,) = await lab.store.healing.alerts()
        assert (alert.key, alert.detail) == ("notices:mail", "notices over mail wait: it does not answer")
        await lab.store.channel_trouble("mail", None)
        assert await lab.store.healing.alerts() == []
