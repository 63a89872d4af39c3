"""Where hooks run: who can tell that nothing of an earlier run lives, and who has to wait for its deadline."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from activities.drivers.command import CommandDriver
from activities.drivers.place import IDENTITY, place_of
from leasehold.errors import Unavailable
from leasehold.ports import Place
from tests.contract.command_hooks import GRACE, call, names, run_hook

HERE = Place(host="worker1", locks="1", boot="a", processes="pid:[1]")
NAMED = Place(host="worker1")
SHOW = [
    sys.executable,
    "-c",
    "from activities.drivers.place import place_of; import pathlib, sys; print(place_of(pathlib.Path(sys.argv[1])))",
]


@pytest.mark.parametrize(
    ("earlier", "now", "known"),
    [
        (HERE, HERE, True),
        (HERE, replace(HERE, host="renamed"), True),
        (HERE, replace(HERE, locks="2"), False),
        (HERE, replace(HERE, processes="pid:[2]"), False),
        (HERE, replace(HERE, boot="b"), True),
        (HERE, replace(HERE, boot="b", processes="pid:[2]"), True),
        (HERE, replace(HERE, boot="b", host="worker2"), False),
        (HERE, replace(HERE, boot="b", locks="2"), False),
        (NAMED, NAMED, True),
        (NAMED, Place(host="worker2"), False),
        (HERE, NAMED, False),
        (NAMED, HERE, False),
    ],
    ids=[
        "the same",
        "its host was renamed",
        "another data folder",
        "another container on the folder",
        "after a restart",
        "after a restart, in a container",
        "another machine on a shared folder",
        "another machine of the same name",
        "by name alone",
        "another by name alone",
        "no locks any more",
        "no locks before",
    ],
)
def test_who_knows_that_an_earlier_run_is_gone(earlier: Place, now: Place, known: bool) -> None:
    assert now.clears(earlier) is known


def test_all_processes_on_one_lock_folder_are_one_place(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        places = list(threads.map(place_of, [tmp_path / "locks"] * 16))
    other = subprocess.run([*SHOW, str(tmp_path / "locks")], capture_output=True, text=True, check=True)
    assert len({*places}) == 1
    assert other.stdout.strip() == str(places[0])
    assert names(tmp_path / "locks") == [IDENTITY]


def test_each_lock_folder_is_a_place_of_its_own(tmp_path: Path) -> None:
    first, second = place_of(tmp_path / "a"), place_of(tmp_path / "b")
    assert first.host == second.host
    assert not first.clears(second)


def test_another_pid_namespace_is_another_place(tmp_path: Path) -> None:
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", *SHOW, str(tmp_path / "locks")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 and "unshare" in done.stderr:
        pytest.skip(f"no namespaces can be made here: {done.stderr.strip()}")
    here = place_of(tmp_path / "locks")
    assert f"locks='{here.locks}'" in done.stdout
    assert f"processes='{here.processes}'" not in done.stdout


async def test_hooks_and_locks_do_not_mind_the_identity(tmp_path: Path) -> None:
    place = place_of(tmp_path / "locks")
    async with CommandDriver(tmp_path / "locks", GRACE) as driver:
        assert (await run_hook(driver, call("true"))).ok
    assert place_of(tmp_path / "locks") == place


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("not a folder")
    with pytest.raises(Unavailable, match="lock folder"):
        place_of(tmp_path / "locks")
