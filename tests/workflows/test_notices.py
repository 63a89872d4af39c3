"""Notices as people get them: by a real mail server and a real webhook, however badly those behave."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from temporalio.client import WorkflowHandle

from leasehold.channels import Channel, NoticeKind, People
from leasehold.messages import ExtendLease, Steer
from leasehold.model import LeaseState, Outcome, Policy
from tests.mail import MailServer, mail_server
from tests.workflows.lab import Lab
from workflows.lease import LeaseWorkflow

HOUR = timedelta(hours=1)
ALICE, BOB = "alice@example.com", "bob@example.com"
ME = Steer(actor=ALICE)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    """A mail server with a login, which the workers find in their environment."""
    with mail_server(login=("leasehold", "hunter2-canary")) as server:
        monkeypatch.setenv("LAB_MAIL", server.url)
        yield server


def by_mail(*about: NoticeKind) -> dict[str, Channel]:
    people = People(domain="example.com")
    return {"mail": Channel(url_env="LAB_MAIL", people=people, about=about or tuple(NoticeKind))}


async def what_became(lab: Lab, kind: str) -> list[str]:
    """What became of each letter of the first notice of a kind."""
    result = asyncio.create_task((await lab.notices(kind))[0].result())
    while not result.done():
        # The server's clock skips for who started a workflow, or sleeps.
        await (lab.env.sleep(timedelta(minutes=10)) if lab.env.supports_time_skipping else asyncio.sleep(0.05))
    return result.result()


async def until_warned(lab: Lab, handle: WorkflowHandle[LeaseWorkflow, str], before: timedelta, many: int) -> None:
    """Skip to a warning, and stay there until it is sent: it says how much is left when it is written."""
    expires = (await lab.record(handle)).expires_at
    assert expires is not None
    await lab.env.sleep(expires - before - await lab.env.get_current_time())
    await until_told(lab, "expiring", many)


async def until_told(lab: Lab, kind: str, many: int = 1) -> None:
    """Wait until so many notices of a kind came to their end, before anything happens that could make one untrue."""
    while len(told := await lab.notices(kind)) < many:
        await asyncio.sleep(0.02)
    await told[-1].result()


async def test_owner_and_cc_are_told_the_story_of_a_lease(skipping_lab: Lab, server: MailServer) -> None:
    lab = skipping_lab
    await lab.pool(1, wipe=1, policy=Policy(warn_before=(24 * HOUR, HOUR)), notices=by_mail())
    lab.driver.script = lambda call: None if call.env["LEASEHOLD_STAGE"] == "wipe" else 0
    wiped = lab.driver.hanging["wipe", "r0"] = asyncio.get_running_loop().create_future()
    handle = await lab.submit(owner=ALICE, cc=("bob",), duration="2d", description="Nächtlicher Test 🦊")
    await until_told(lab, "requested")
    wiped.set_result(0)
    await until_told(lab, "delivered")
    await until_warned(lab, handle, 24 * HOUR, many=1)
    await until_warned(lab, handle, HOUR, many=2)

    assert await handle.result() == Outcome.EXPIRED
    for kind, many in (("requested", 1), ("delivered", 1), ("expiring", 2), ("ended", 1)):
        notices = await lab.notices(kind)
        assert len(notices) == many
        for notice in notices:
            assert await notice.result() == [f"mail: {ALICE}: sent", f"mail: {BOB}: sent"]

    assert len(server.mails) == 10
    subjects = {str(mail["Subject"]) for mail in server.to(ALICE)}
    assert subjects == {str(mail["Subject"]) for mail in server.to(BOB)}
    assert {subject.removeprefix("[leasehold] Lease 1 ") for subject in subjects} == {
        "is requested: Nächtlicher Test 🦊",
        "is ready: Nächtlicher Test 🦊",
        "ends in 1 d: Nächtlicher Test 🦊",
        "ends in 1 h: Nächtlicher Test 🦊",
        "is over: expired: Nächtlicher Test 🦊",
    }
    ready = next(mail for mail in server.to(ALICE) if "is ready" in str(mail["Subject"]))
    content = ready.get_content()
    assert "For:        Nächtlicher Test 🦊\r\nResources:  p/r0\r\n" in content.replace("\n", "\r\n").replace(
        "\r\r", "\r"
    )
    assert "https://leasehold.lab/v1/leases/1" in content
    assert ready["Auto-Submitted"] == "auto-generated"
    # A thread of its own, in which each mail is one.
    assert len({str(mail["References"]) for mail in server.mails}) == 1
    assert len({str(mail["Message-ID"]) for mail in server.mails}) == 10


async def test_what_is_refused_for_now_comes_later_and_once(skipping_lab: Lab, server: MailServer) -> None:
    lab = skipping_lab
    server.recipient = lambda address: "451 4.7.1 greylisted" if len(server.tries) < 3 else None
    await lab.pool(1, notices=by_mail(NoticeKind.DELIVERED))
    await lab.submit(owner=ALICE)

    assert await what_became(lab, "delivered") == [f"mail: {ALICE}: sent"]

    assert server.tries == [ALICE] * 3
    assert len(server.mails) == 1


async def test_an_address_that_is_refused_for_good_is_in_nobody_elses_way(
    skipping_lab: Lab, server: MailServer
) -> None:
    lab = skipping_lab
    server.recipient = lambda address: "550 5.1.1 no such user" if address == BOB else None
    await lab.pool(1, notices=by_mail(NoticeKind.DELIVERED))
    handle = await lab.submit(owner=ALICE, cc=("bob",))

    assert await what_became(lab, "delivered") == [
        f"mail: {ALICE}: sent",
        f"mail: {BOB}: given up: the mail server answered 550 5.1.1 no such user",
    ]

    assert server.tries.count(BOB) == 1
    assert [str(mail["To"]) for mail in server.mails] == [ALICE]
    (failed,) = [e for e in await lab.store.events(lease=handle.id) if e.kind == "notice_failed"]
    assert failed.data == {"channel": "mail", "to": BOB, "about": "delivered"}
    assert failed.reason == "the mail server answered 550 5.1.1 no such user"
    assert await lab.store.healing.alerts() == []


async def test_a_server_that_is_down_is_waited_for_and_operators_see_it(skipping_lab: Lab, server: MailServer) -> None:
    lab = skipping_lab
    server.stop()
    await lab.pool(1, notices=by_mail(NoticeKind.FAILED), wipe=1)
    lab.driver.script = lambda call: 1
    handle = await lab.submit(owner=ALICE)
    assert await handle.result() == Outcome.FAILED
    seen: list[str] = []

    async def mend() -> None:
        while not (alerts := await lab.store.healing.alerts()):
            await asyncio.sleep(0.05)
        seen.extend(f"{alert.key}: {alert.detail}" for alert in alerts)
        server.start()

    mending = asyncio.create_task(mend())

    assert await what_became(lab, "failed") == [f"mail: {ALICE}: sent"]
    await mending
    assert [one.partition(" (")[0] for one in seen] == [
        "notices:mail: notices over mail wait: the mail server cannot be used"
    ]
    (mail,) = server.mails
    assert "p/r0: wipe: exit status 1" in mail.get_content()
    assert await lab.store.healing.alerts() == []


async def test_what_could_not_be_sent_for_a_day_is_given_up_and_noted(skipping_lab: Lab, server: MailServer) -> None:
    lab = skipping_lab
    server.recipient = lambda address: "452 4.2.2 mailbox full"
    await lab.pool(1, notices=by_mail(NoticeKind.DELIVERED))
    handle = await lab.submit(owner=ALICE, duration="3d")

    (became,) = await what_became(lab, "delivered")

    assert became == f"mail: {ALICE}: given up: the mail server answered 452 4.2.2 mailbox full"
    assert "notice_failed" in await lab.kinds(handle)
    assert server.mails == []


async def test_a_warning_that_came_too_late_to_be_true_is_not_sent(skipping_lab: Lab, server: MailServer) -> None:
    lab = skipping_lab
    server.stop()
    await lab.pool(1, policy=Policy(warn_before=(HOUR,)), notices=by_mail(NoticeKind.EXPIRING))
    handle = await lab.submit(owner=ALICE, duration="2h")
    await lab.env.sleep(timedelta(minutes=65))
    assert len(await lab.notices("expiring")) == 1
    await handle.execute_update(LeaseWorkflow.extend, ExtendLease(by="2d", actor="me", request="one"))

    server.start()

    assert await what_became(lab, "expiring") == [f"mail: {ALICE}: not needed any more"]
    assert server.mails == []


async def test_a_lease_waits_for_no_mail(lab: Lab, server: MailServer) -> None:
    server.hangs.set()
    await lab.pool(30, wipe=1, release=1, notices=by_mail(NoticeKind.DELIVERED))
    leases = [await lab.submit(owner=ALICE) for _ in range(30)]
    for handle in leases:
        await lab.until(handle, LeaseState.ACTIVE)
    await asyncio.to_thread(server.asked.wait)
    assert server.mails == []

    for handle in leases:
        await handle.execute_update(LeaseWorkflow.release, ME)
        assert await handle.result() == Outcome.RELEASED
    await lab.until_all_free()
    server.hangs.clear()


async def test_the_channels_password_is_in_no_history(lab: Lab, server: MailServer) -> None:
    server.recipient = lambda address: "550 no such user" if address == BOB else None
    await lab.pool(1, notices=by_mail())
    handle = await lab.submit(owner=ALICE, cc=("bob",))
    await what_became(lab, "delivered")
    histories = [await workflow.fetch_history() for workflow in await lab.notices("delivered")]
    for found in (await handle.fetch_history(), *histories):
        history = found.to_json()
        assert "LAB_MAIL" not in history
        assert "hunter2-canary" not in history
        for payload in _payloads(json.loads(history)):
            assert b"hunter2-canary" not in payload


def _payloads(value: Any) -> Iterator[bytes]:
    if isinstance(value, dict):
        if isinstance(value.get("data"), str):
            yield base64.b64decode(value["data"])
        for part in value.values():
            yield from _payloads(part)
    elif isinstance(value, list):
        for part in value:
            yield from _payloads(part)


class Hook:
    """A server that keeps what is posted to it."""

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.answers: list[int] = []
        self.url = ""


@contextmanager
def webhook() -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = hook.answers.pop(0) if hook.answers else 200
            if status == 200:
                hook.posted.append(json.loads(body))
            self.send_response(status)
            self.send_header("Location", f"{hook.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        hook.url = f"json://127.0.0.1:{server.server_port}"
        try:
            yield hook
        finally:
            server.shutdown()
            serving.join()


@pytest.fixture
async def hook(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hook]:
    with webhook() as hook:
        monkeypatch.setenv("LAB_HOOK", f"{hook.url}/canary-path")
        yield hook


async def test_a_webhook_gets_facts_for_programs(skipping_lab: Lab, hook: Hook) -> None:
    lab = skipping_lab
    hook.answers = [500, 302, 200]
    await lab.pool(1, notices={"hook": Channel(url_env="LAB_HOOK")}, policy=Policy(max_duration=24 * HOUR))
    hostile = '"}\r\n@everyone <!channel>'
    handle = await lab.submit(owner=ALICE, duration="1h", description=hostile)

    assert await what_became(lab, "delivered") == ["hook: sent"]

    (posted,) = hook.posted
    assert posted["kind"] == "delivered"
    assert (posted["number"], posted["id"], posted["owner"]) == ("1", handle.id, ALICE)
    assert posted["description"] == '"} @everyone <!channel>'
    assert posted["resources"] == "p/r0"
    assert posted["expires_at"].endswith("Z")
    assert posted["notice"].startswith(f"notice:{handle.id}:delivered:")
    assert posted["title"] == 'Lease 1 is ready: "} @everyone <!channel>'


async def test_what_a_webhook_refuses_is_named_without_its_address(
    skipping_lab: Lab, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    lab = skipping_lab
    hook.answers = [403] * 1000
    await lab.pool(1, notices={"hook": Channel(url_env="LAB_HOOK")})
    await lab.submit(owner=ALICE, duration="3d")

    assert await what_became(lab, "delivered") == ["hook: given up: the channel answered 403"]

    (alert,) = await lab.store.healing.alerts()
    assert (alert.key, alert.detail) == ("notices:hook", "notices over hook wait: the channel answered 403")
    assert "canary-path" not in caplog.text


async def test_people_are_written_to_by_mail_alone(skipping_lab: Lab, hook: Hook) -> None:
    lab = skipping_lab
    await lab.pool(1, notices={"hook": Channel(url_env="LAB_HOOK", people=People())})
    await lab.submit(owner=ALICE, duration="3d")
    (became,) = await what_became(lab, "delivered")
    assert "its URL must be smtp:// or smtps://" in became
    assert hook.posted == []
