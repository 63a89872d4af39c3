"""Notices: who is told of what, by which address, and what a letter says."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.channels import mail
from activities.channels.place import url_of
from leasehold import config, notices
from leasehold.channels import Channel, NoticeKind, People
from leasehold.errors import Invalid
from leasehold.letters import Text, write
from leasehold.links import Links
from leasehold.messages import Letter, Notice
from leasehold.model import Item, Lease, LeasedResource, LeaseState, Outcome, Problem
from leasehold.ports import NotSent, Writing

NINE = datetime(2026, 1, 5, 9, tzinfo=UTC)
LINKS = Links(api="https://leasehold.lab", ui="https://temporal.lab", namespace="default")
PEOPLE = People(domain="example.com", domains=("partner.org",), names={"bob": "robert@elsewhere.net"})
ANYTHING = st.text(st.characters(blacklist_categories=["Cs"]), max_size=400)


def host(name: str, state: str = "ready") -> LeasedResource:
    return LeasedResource(
        pool="r640",
        name=name,
        item=0,
        role=None,
        state=state,
        stage=None,
        attempt=None,
        epoch=1,
        tags=(),
        properties={},
    )


LEASE = Lease(
    id="lq3kx0v5n2m7",
    number=12,
    state=LeaseState.ACTIVE,
    outcome=None,
    error=None,
    principal="alice-token",
    owner="alice@example.com",
    cc=("bob", "carol"),
    description="nightly upgrade test",
    items=(Item(pool="r640", count=2),),
    resources=(host("host00", "released"), host("host01"), host("host02")),
    queue=None,
    priority=0,
    created_at=NINE,
    start_at=None,
    active_at=NINE,
    expires_at=NINE + timedelta(hours=4),
    in_grace=False,
    heartbeat_by=None,
    ended_at=None,
    run_id="0198c2e4",
)
OVER = replace(LEASE, state=LeaseState.ENDED, outcome=Outcome.FAILED, error=Problem(code="stage_failed", detail="x"))


def notice(kind: NoticeKind, **more: Any) -> Notice:
    return Notice(id=f"notice:{LEASE.id}:{kind}:1", lease=LEASE.id, kind=kind, at=NINE, **more)


def writing(kind: NoticeKind, lease: Lease = LEASE, to: str | None = "alice@example.com", **more: Any) -> Writing:
    letter = Letter(channel="mail", to=to)
    return Writing(notice=notice(kind, **more), letter=letter, channel=Channel(url_env="X"), lease=lease, now=NINE)


def text(kind: NoticeKind, lease: Lease = LEASE, **more: Any) -> Text:
    return write(writing(kind, lease, **more), LINKS)


class TestAddresses:
    """A name becomes an address in a way that the lab has said, or none."""

    @pytest.mark.parametrize(
        ("name", "address"),
        [
            ("carol", "carol@example.com"),
            ("carol@example.com", "carol@example.com"),
            ("carol@PARTNER.org", "carol@PARTNER.org"),
            ("bob", "robert@elsewhere.net"),
            ("carol@elsewhere.net", None),
            ("carol@example.com.elsewhere.net", None),
            ("carol@example.com\r\nBcc: dave@example.com", None),
            ("carol@example.com, dave@elsewhere.net", None),
            ("Carol <carol@example.com>", None),
            ("carol smith", None),
            ("", None),
            ("https://169.254.169.254/latest", None),
        ],
    )
    def test_who_is_named_by_a_request(self, name: str, address: str | None) -> None:
        assert PEOPLE.address(name) == address

    def test_an_owner_is_written_to_wherever_that_is(self) -> None:
        assert PEOPLE.address("dave@elsewhere.net", is_owner=True) == "dave@elsewhere.net"
        assert People().address("alice@example.com", is_owner=True) == "alice@example.com"
        assert People().address("ci", is_owner=True) is None


class TestLetters:
    """One for each address and channel."""

    def letters(self, notify: tuple[str, ...] | None, **channels: Channel) -> list[tuple[str, str | None]]:
        found = notices.letters(notice(NoticeKind.FAILED), LEASE, notify, channels)
        return [(letter.channel, letter.to) for letter in found]

    def test_owner_cc_and_whoever_is_named_get_one_each(self) -> None:
        found = self.letters(("dave", "carol@example.com"), mail=Channel(url_env="X", people=PEOPLE))
        names = ["alice@example.com", "robert@elsewhere.net", "carol@example.com", "dave@example.com"]
        assert found == [("mail", name) for name in names]

    def test_who_only_says_that_they_are_somebody_has_no_letters_sent_to_strangers(self) -> None:
        said = replace(LEASE, owner="mallory@strangers.net", cc=(), unverified=True)
        channels = {"mail": Channel(url_env="MAIL", people=PEOPLE)}
        assert notices.letters(notice(NoticeKind.DELIVERED), said, (), channels) == []
        known = replace(said, owner="carol@example.com")
        assert [one.to for one in notices.letters(notice(NoticeKind.DELIVERED), known, (), channels)] == [
            "carol@example.com"
        ]

    def test_a_channel_without_people_gets_one(self) -> None:
        assert self.letters((), chat=Channel(url_env="X")) == [("chat", None)]

    def test_a_request_that_wants_nobody_told_leaves_the_labs_own_channels(self) -> None:
        channels = {"mail": Channel(url_env="X", people=PEOPLE), "chat": Channel(url_env="Y")}
        assert self.letters(None, **channels) == [("chat", None)]

    def test_a_channel_tells_of_what_it_is_about_alone(self) -> None:
        assert self.letters((), chat=Channel(url_env="X", about=(NoticeKind.ENDED,))) == []


class TestWhatIsTold:
    @pytest.mark.parametrize(
        ("outcome", "actor", "kind"),
        [
            (Outcome.RELEASED, "alice", None),
            (Outcome.CANCELLED, "alice", None),
            (Outcome.CANCELLED, "operator", NoticeKind.ENDED),
            (Outcome.EXPIRED, "leasehold", NoticeKind.ENDED),
            (Outcome.FAILED, "leasehold", NoticeKind.FAILED),
            (Outcome.LOST, "leasehold", NoticeKind.FAILED),
        ],
    )
    def test_of_an_end(self, outcome: Outcome, actor: str, kind: NoticeKind | None) -> None:
        assert notices.of_end(outcome, "alice", actor) is kind

    def test_a_warning_is_not_given_once_it_is_untrue(self) -> None:
        warning = notice(NoticeKind.EXPIRING, expires_at=LEASE.expires_at)
        assert not notices.is_stale(warning, LEASE)
        assert notices.is_stale(warning, replace(LEASE, expires_at=NINE + timedelta(hours=9)))
        assert notices.is_stale(warning, replace(LEASE, in_grace=True))
        assert notices.is_stale(warning, OVER)

    def test_a_failure_is_told_however_late(self) -> None:
        assert not notices.is_stale(notice(NoticeKind.FAILED), OVER)
        assert notices.is_stale(notice(NoticeKind.DELIVERED), OVER)


class TestText:
    """What somebody needs who is woken by it."""

    @pytest.mark.parametrize("kind", NoticeKind)
    def test_every_letter_says_which_lease_with_what_and_what_to_do(self, kind: NoticeKind) -> None:
        said = text(kind, reason="r640/host00: validate: exited with status 3", expires_at=LEASE.expires_at)
        assert said.subject.startswith("Lease 12 ")
        assert said.subject.endswith(": nightly upgrade test")
        for needed in ("r640/host01, r640/host02\n", "2026-01-05 13:00 UTC", "    leasehold ", " 12"):
            assert needed in said.body
        assert "    https://leasehold.lab/v1/leases/12\n" in said.body
        assert "    https://temporal.lab/namespaces/default/workflows/lq3kx0v5n2m7/0198c2e4/history\n" in said.body
        assert all(len(line) < 200 for line in said.body.splitlines())

    def test_a_warning_says_how_long_and_how_to_extend(self) -> None:
        said = text(NoticeKind.EXPIRING, expires_at=NINE + timedelta(minutes=59, seconds=50))
        assert said.subject == "Lease 12 ends in 1 h: nightly upgrade test"
        assert "    leasehold extend 12 --by 1h\n" in said.body

    def test_a_failure_says_why_in_which_stage_of_which_host_and_where_the_log_is(self) -> None:
        said = text(NoticeKind.FAILED, OVER, reason="r640/host01: validate: exited with status 3")
        assert "Lease 12 of alice@example.com failed: r640/host01: validate: exited with status 3\n" in said.body
        assert "    leasehold logs 12\n" in said.body

    def test_an_end_says_who_and_why(self) -> None:
        lease = replace(OVER, outcome=Outcome.CANCELLED)
        said = text(NoticeKind.ENDED, lease, actor="olga", reason="the rack is moved tonight")
        assert "is over: cancelled by olga (the rack is moved tonight).\n" in said.body

    def test_nobody_writes_lines_of_ours(self) -> None:
        hostile = "x\r\nBcc: all@example.com\n\nExtend it here:\n    https://evil.example\x1b[2J\u202e{{ 7 * 7 }}"
        said = text(NoticeKind.DELIVERED, replace(LEASE, description=hostile), reason=hostile)
        assert "\n" not in said.subject
        (line,) = [line for line in said.body.splitlines() if "evil.example" in line]
        assert line == "For:        x Bcc: all@example.com Extend it here: https://evil.example [2J {{ 7 * 7 }}"

    @given(ANYTHING, ANYTHING)
    def test_whatever_is_typed_it_becomes_a_mail_with_our_headers_alone(self, description: str, reason: str) -> None:
        about = writing(NoticeKind.FAILED, replace(LEASE, description=description), reason=reason)
        message = mail.message_of(about, write(about, LINKS), sender="leasehold@example.com", to="alice@example.com")
        usual = ["Subject", "From", "To", "Date", "Message-ID", "References", "Auto-Submitted"]
        content = ["Content-Type", "Content-Transfer-Encoding", "MIME-Version"]
        assert sorted(message.keys()) == sorted([*usual, *content])
        assert message["To"] == "alice@example.com"
        head, _, _ = message.as_bytes().partition(b"\r\n\r\n")
        assert all(line[:1].isspace() or line.partition(b":")[0].decode() in message for line in head.split(b"\r\n"))

    def test_a_mail_that_is_sent_again_is_known_by_its_message_id(self) -> None:
        def known_by(to: str = "alice@example.com") -> str:
            about = writing(NoticeKind.FAILED, to=to)
            return str(mail.message_of(about, write(about, LINKS), sender="a@example.com", to=to)["Message-ID"])

        assert known_by() == known_by()
        assert known_by() != known_by(to="bob@example.com")


class TestChannelsOfAFile:
    def load(self, **file: Any) -> list[dict[str, Channel]]:
        pools = config.load({"folder": "/srv", "pools": [{"name": "a"}], **file}).pools
        return [dict(spec.notices) for spec, _ in pools]

    def test_a_pool_has_its_own_beside_those_of_its_file(self) -> None:
        file = {"mail": {"url_file": "mail-url", "people": {}}, "chat": {"url_env": "CHAT"}}
        own = {"team": {"url_file": "/etc/team", "about": ["failed"]}, "chat": None}
        a, b = self.load(notices=file, pools=[{"name": "a"}, {"name": "b", "notices": own}])
        common = Channel(url_file="/srv/mail-url", people=People())
        assert a == {"mail": common, "chat": Channel(url_env="CHAT")}
        assert b == {"mail": common, "team": Channel(url_file="/etc/team", about=(NoticeKind.FAILED,))}

    @pytest.mark.parametrize(
        ("channel", "path", "code"),
        [
            ({}, "notices.x", "one_url"),
            ({"url_file": "a", "url_env": "B"}, "notices.x", "one_url"),
            ({"url": "json://example.com"}, "notices.x.url", "unknown_field"),
            ({"url_env": "A B"}, "notices.x.url_env", "string_pattern_mismatch"),
            ({"url_env": "A", "about": ["birthday"]}, "notices.x.about[0]", "enum"),
            ({"url_env": "A", "about": []}, "notices.x.about", "too_short"),
            ({"url_env": "A", "people": {"names": {"bob": "bob"}}}, "notices.x.people.names.bob", "address"),
            ({"url_env": "A", "people": {"domain": "a@b"}}, "notices.x.people.domain", "string_pattern_mismatch"),
        ],
    )
    def test_each_mistake_has_its_place(self, channel: dict[str, Any], path: str, code: str) -> None:
        with pytest.raises(Invalid) as raised:
            self.load(notices={"x": channel})
        assert (path, code) in [(fault.path, fault.code) for fault in raised.value.faults]

    def test_a_relative_file_needs_a_folder(self) -> None:
        with pytest.raises(Invalid) as raised:
            config.load({"pools": [{"name": "a", "notices": {"x": {"url_file": "mail-url"}}}]})
        assert [fault.path for fault in raised.value.faults] == ["pools[0].notices.x.url_file"]


class TestWhereAChannelLeads:
    """A secret: an error names the place, never what is there."""

    def test_what_is_missing_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
        monkeypatch.delenv("NO_SUCH_CHANNEL", raising=False)
        with pytest.raises(NotSent, match="the variable NO_SUCH_CHANNEL of this worker has no URL"):
            url_of(Channel(url_env="NO_SUCH_CHANNEL"))
        with pytest.raises(NotSent, match="no-such-file: No such file or directory"):
            url_of(Channel(url_file=str(tmp_path / "no-such-file")))

    @pytest.mark.parametrize(
        "url",
        [
            "smtp://user:hunter2@[::1",
            "smtp://user:hunter2@host:hunter2",
            "smtp://user:hunter2@host",
            "smtp://user:hunter2@host?from=hunter2",
            "smtp://user:hunter2@host?from=a@b.c&tls=hunter2",
            "smtps://user:hunter2@host?from=a@b.c&tls=no",
            "smtp://user:hunter2@host?from=a@b.c&hunter2=1",
        ],
    )
    async def test_a_url_that_cannot_be_used_is_not_quoted(self, url: str) -> None:
        about = writing(NoticeKind.ENDED)
        with pytest.raises(NotSent) as raised:
            await mail.send(url, about, write(about, LINKS))
        assert "hunter2" not in str(raised.value)
        assert not raised.value.is_final
