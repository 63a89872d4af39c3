"""What happens at once ends as if it had happened one after another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.e2e.lab import Lab
from tests.stack import Stack

MANY = 80


def test_cancels_that_race_with_the_grants_they_cause_are_all_answered(stack: Stack, lab: Lab) -> None:
    """Each cancel frees the resource for the next waiter, whose cancel is on its way already."""
    pool = lab.pool()
    holder = lab.take(pool)
    waiters = [lab.take(pool, wait=None) for _ in range(MANY)]
    with httpx.Client(
        base_url=f"{stack.url}/v1", headers={"Authorization": f"Bearer {stack.token}"}, timeout=30, trust_env=False
    ) as api:
        api.post(f"/leases/{holder['id']}/release").raise_for_status()

        with ThreadPoolExecutor(8) as pool_of_callers:
            answers = list(pool_of_callers.map(lambda w: api.post(f"/leases/{w['id']}/cancel"), waiters))

    assert {(a.status_code, a.json()["state"]) for a in answers} == {(200, "ended")}
    assert stack.temporal("workflow", "count", "--query", "ExecutionStatus='Failed'").strip().endswith("0")
