"""The audit that follows the kills and the chaos: it accepts a sound database, and finds what is wrong."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from tests.chaos.owners import Possession
from tests.chaos.verdict import lent_twice
from tests.contract.store_lab import Lab
from tests.faults import audit

_LATER = "'2030-01-01 00:00:00.000000'"
_RUNNING = (
    "INSERT INTO commands (lease, spec, line, same, pool, labels, grace_s, output_limit, state, attempt, losses)"
    " VALUES ('a', '{}', '', '', 'r640', '[]', 1, 1, 'running', 1, 0)"
)
_SEALED = f"INSERT INTO envelopes (lease, digest, env, at) VALUES ('a', '', '{{}}', {_LATER})"


async def ended(lab: Lab) -> None:
    """Two leases that had the same resource one after another, with hooks and a recycling each."""
    await lab.pool("r640", 1, "validate", "release")
    for lease in ("a", "b"):
        (claim,) = (await lab.submit(lease)).claims
        await lab.run(lease, claim)
        await lab.store.activate(lease)
        lab.clock.forward(minutes=1)
        await lab.close(lease)
        await lab.run(lease, await lab.recycling())
        await lab.recycled(lease)
        lab.clock.forward(minutes=1)
    await lab.store.outbox_delivered([posted.id for posted in await lab.store.outbox_due()])


async def found(lab: Lab) -> list[str]:
    return await lab.store.database.read(audit.faults)


async def test_nothing_is_found_in_a_sound_database(lab: Lab) -> None:
    await ended(lab)
    assert await found(lab) == []


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        ("UPDATE leases SET state = 'releasing', ended_at = NULL WHERE id = 'a'", "lease a is releasing"),
        ("DELETE FROM events WHERE kind = 'lease_releasing' AND lease = 'a'", "lease a: a lease cannot go from active"),
        ("UPDATE resources SET state = 'recycling'", "leaked: it is recycling"),
        ("UPDATE resources SET stage = 'wipe'", "at rest and shows stage wipe"),
        (f"UPDATE grants SET closed_at = {_LATER} WHERE lease = 'a'", "was lent to b while a had it"),
        ("UPDATE grants SET epoch = 1 WHERE lease = 'b'", "was lent to a while b had it"),
        (f"UPDATE runs SET ended_at = {_LATER} WHERE lease = 'a'", "ran beside"),
        ("UPDATE runs SET ended_at = NULL WHERE lease = 'b'", "never ended"),
        ("UPDATE outbox SET delivered_at = NULL", "was never delivered"),
        ("DELETE FROM events WHERE kind = 'resource_free' AND lease = 'a'", "cannot go from recycling to leased"),
        (_RUNNING, "lease a has ended, and its command is running"),
        (_SEALED, "the environment of the command of lease a is still kept"),
    ],
)
async def test_what_must_not_be_is_found(lab: Lab, damage: str, fault: str) -> None:
    await ended(lab)
    await lab.store.database.write(lambda tx: tx.execute(text(damage)).rowcount)
    assert any(fault in one for one in await found(lab)), await found(lab)


def test_two_holders_at_a_time_are_found() -> None:
    held = [Possession("p/r0", "a", 0, 10), Possession("p/r0", "b", 10, 20), Possession("p/r1", "c", 5, 15)]
    assert lent_twice(held) == []
    assert lent_twice([*held, Possession("p/r0", "d", 9, 9.5)]) == ["p/r0 was held by a and by d"]
