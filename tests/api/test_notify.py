"""Whom a request wants told, over HTTP."""

from __future__ import annotations

from tests.api.stack import Json, Stack, fail

CHANNEL = {"mail": {"url_env": "MAIL_OF_NOBODY", "about": ["failed"], "people": {"domain": "example.com"}}}


async def asked(stack: Stack, notify: object) -> tuple[int, Json]:
    pool = await stack.pool(1, notices=CHANNEL)
    answer = await stack.post({"items": [{"pool": pool}], "notify": notify})
    told: Json = answer.json()
    return answer.status_code, told


async def test_names_that_a_channel_can_write_to_are_taken(stack: Stack) -> None:
    status, told = await asked(stack, ["bob", "carol@example.com"])
    assert status == 201, told


async def test_nobody_need_be_told(stack: Stack) -> None:
    status, told = await asked(stack, False)
    assert status == 201, told


async def test_a_stranger_is_refused_with_the_place(stack: Stack) -> None:
    status, told = await asked(stack, ["bob", "mallory@strangers.net"])
    assert (status, told["code"]) == (422, "invalid")
    assert [(fault["path"], fault["code"]) for fault in told["errors"]] == [("notify[1]", "not_reachable")]


async def test_a_url_is_no_name(stack: Stack) -> None:
    status, told = await asked(stack, ["http://169.254.169.254/latest"])
    assert (status, told["errors"][0]["code"]) == (422, "not_reachable")


async def test_a_channel_is_shown_without_where_it_leads(stack: Stack) -> None:
    pool = await stack.pool(1, notices=CHANNEL)
    shown = await stack.http.get(f"/v1/pools/{pool}")
    assert shown.json()["notices"]["mail"]["url_env"] == "MAIL_OF_NOBODY", fail(shown)
