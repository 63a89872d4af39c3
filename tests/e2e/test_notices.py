"""Notices from a whole service: what a killed worker leaves behind, and where a channel's password is not."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from tests.e2e.lab import until
from tests.e2e.test_secrets import check_files, check_processes, inside, strings
from tests.mail import mail_server
from tests.stack import Stack


def test_a_worker_killed_after_a_mail_was_taken_sends_it_again_as_the_same(tmp_path: Path) -> None:
    password = f"canary-{uuid.uuid4().hex}"
    with mail_server(login=("leasehold", password)) as server, Stack(tmp_path) as stack:
        (tmp_path / "mail-url").write_text(f"{server.url}\n")
        channel = {"url_file": "mail-url", "about": ["delivered"], "people": {"domain": "example.com"}}
        pool = {"name": "names", "resources": [{"name": "a"}], "notices": {"mail": channel}}
        with stack.client() as client:
            client.apply({"pools": [pool]}, folder=str(tmp_path))

        def kill() -> None:
            if len(server.mails) == 1:
                # The mail is taken; nobody is told so.
                stack.kill("-m worker")

        server.on_mail = kill
        with stack.client() as client:
            lease = client.submit([{"pool": "names"}], duration="10m", cc=[], description=f"{uuid.uuid4()}")
        stack.ended()
        stack.start()

        until(lambda: len(server.mails) == 2, "the mail comes again")

        first, second = server.mails
        assert first["Message-ID"] == second["Message-ID"]
        with stack.client() as client:
            assert client.lease(lease["id"])["state"] == "active"
        query = f'WorkflowId STARTS_WITH "notice:{lease["id"]}:"'
        listed = json.loads(stack.temporal("workflow", "list", "--query", query, "--output", "json"))
        (workflow,) = [one["execution"]["workflowId"] for one in listed]
        shown = stack.temporal("workflow", "show", "--workflow-id", workflow, "--output", "json")
        texts = list(strings(json.loads(shown)))
        assert any(inside(text, lease["id"]) for text in texts)
        assert [text for text in texts if inside(text, password)] == []
        check_processes(password)
        check_files(stack, password, kept=False)
