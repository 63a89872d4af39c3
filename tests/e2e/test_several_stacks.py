"""Stacks on one machine: two beside each other, never two on the same data."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.lab import Lab
from tests.stack import STOPPED_WITHIN_S, Stack, free_ports


def test_two_stacks_live_side_by_side(stack: Stack, lab: Lab, tmp_path: Path) -> None:
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    with Stack(other_folder) as other:
        there = Lab(other, other_folder)
        here, beside = lab.pool(deliver="echo here"), there.pool(deliver="echo there")

        mine, theirs = lab.take(here), there.take(beside)

        assert lab.client.delivery(mine["id"])["resources"][0]["data"] == "here\n"
        assert there.client.delivery(theirs["id"])["resources"][0]["data"] == "there\n"
        assert theirs["number"] == 1
        assert [lease["id"] for lease in there.client.leases()] == [theirs["id"]]
        assert beside not in {pool["name"] for pool in lab.client.pools()}
        assert mine["id"] not in other.temporal("workflow", "list")
        there.close()

    assert lab.look(mine)["state"] == "active"


def test_a_second_stack_on_the_same_data_is_refused(stack: Stack, lab: Lab) -> None:
    lease = lab.take(lab.pool())
    names = ("LEASEHOLD_API_PORT", "LEASEHOLD_TEMPORAL_PORT", "LEASEHOLD_TEMPORAL_UI_PORT")

    second = stack.launch(**dict(zip(names, map(str, free_ports(3)), strict=True)))
    status = second.wait(STOPPED_WITHIN_S)

    assert status == 1
    assert f"another stack runs on the data folder {stack.data}" in stack.last_words()
    assert stack.ready()
    assert lab.look(lease)["state"] == "active"
