"""`import dci-queue`: what becomes of its pools, of what was removed, and of the commands that wait there."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold import config, dciqueue
from leasehold.dciqueue import Folders
from leasehold.errors import Invalid
from tests.unit.cli_runner import Cli
from tests.unit.fake_api import Answer, FakeApi, pool, resource


def pools(text: str) -> dict[str, Any]:
    """What Leasehold makes of the pools file: its pools with the names of their resources."""
    return {spec.name: {one.name for one in resources} for spec, resources in config.load_yaml(text.encode()).pools}


def job(**fields: Any) -> dict[str, Any]:
    """A command as dci-queue stores it."""
    return {"cmd": ["ls", "@RESOURCE"], "wd": "/home/joe", "remove": False, "priority": 0, "extra_pools": [], **fields}


def test_pools_and_resources_are_taken_over() -> None:
    found = dciqueue.read([Folders(pool="8nodes", resources=["r1", "1"]), Folders(pool="empty", resources=[])])
    text = dciqueue.to_yaml(found.pools)
    assert pools(text) == {"8nodes": {"r1", "1"}, "empty": set()}
    (first, *_), *_ = config.load_yaml(text.encode()).pools
    assert first.policy.default_duration == timedelta(days=365)


def test_what_was_removed_is_a_resource_with_the_reason() -> None:
    said = {"reason": "debugging (fred)", "pool": "p", "resource": "r2", "date": "2024-02-28 12:34:58.123"}
    found = dciqueue.read([Folders(pool="p", resources=["r1"], available=["r1"], reasons={"r2": said, "r3": None})])
    assert found.pools == {"p": ["r1", "r2", "r3"]}
    assert found.removed == [
        ("p", "r2", "debugging (fred) (since 2024-02-28 12:34:58)"),
        ("p", "r3", "removed in dci-queue"),
    ]
    assert found.left_out == []


def test_a_reason_fits_into_a_mark() -> None:
    said = {"reason": "long\n\ud800" * 1000, "date": "2024-02-28"}
    ((_, _, reason),) = dciqueue.read([Folders(pool="p", resources=[], reasons={"r": said})]).removed
    assert (len(reason), reason.endswith(" (since 2024-02-28)"), reason.isprintable()) == (1000, True, True)


def test_what_was_added_again_is_not_removed() -> None:
    found = dciqueue.read([Folders(pool="p", resources=["r1"], available=["r1"], reasons={"r1": {}})])
    assert found.removed == []


def test_names_that_there_cannot_be_are_left_out() -> None:
    found = dciqueue.read([Folders(pool="a b", resources=["r"]), Folders(pool="p", resources=["x y"])])
    assert found.pools == {"p": []}
    assert [line.partition(":")[0] for line in found.left_out] == ["pool a b", "resource p/x y"]


def test_a_leaked_resource_is_named() -> None:
    runs = {"1.exec": job(resource="r1", booked=[["r1", "p"], ["s", "q"]])}
    found = dciqueue.read([Folders(pool="p", resources=["r1", "r2", "r3"], available=["r3"], queue=runs)])
    assert found.left_out == [
        "resource p/r2: no command has it, and it was not available; here it is free",
        "command p 1: it runs; let it end first, or it has its resource twice",
    ]


def test_each_command_comes_with_what_queues_it_here() -> None:
    queue = {
        "10": job(priority=2, extra_pools=["hub"], remove=True),
        "9": job(cmd=["bash", "-c", "echo @RESOURCE; ls"], priority=-1),
        "x": job(),
        "11": {"cmd": "no list"},
        "12": None,
    }
    found = dciqueue.read([Folders(pool="p", resources=[], queue=queue)])
    assert found.left_out == [
        "command p 9: to queue it here: leasehold queue add p --priority=-1 --folder=/home/joe -- "
        "bash -c 'echo @RESOURCE; ls'",
        "command p 10: to queue it here: leasehold queue add p --remove --priority=2 --extra=hub --folder=/home/joe -- "
        "ls @RESOURCE",
        "command p 11: its file cannot be read",
        "command p 12: its file cannot be read",
        "command p x: to queue it here: leasehold queue add p --folder=/home/joe -- ls @RESOURCE",
    ]


def test_no_pool_is_refused() -> None:
    with pytest.raises(Invalid, match="there is no pool in it"):
        dciqueue.read([])


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,7}", fullmatch=True)
TEXT = st.text(max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda child: st.lists(child, max_size=3) | st.dictionaries(TEXT, child, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["cmd", "wd", "priority", "booked", "resource", "extra_pools", "reason", "date"])
FILES = st.dictionaries(TEXT, JSON | st.dictionaries(KEYS, JSON, max_size=5), max_size=3)


@given(st.dictionaries(NAMES, st.lists(NAMES, unique=True, max_size=3), min_size=1, max_size=3), FILES, FILES)
def test_whatever_is_taken_is_a_pools_file_that_says_the_same(
    there: dict[str, list[str]], reasons: dict[str, Any], queue: dict[str, Any]
) -> None:
    found = dciqueue.read([Folders(pool=p, resources=r, reasons=reasons, queue=queue) for p, r in there.items()])
    assert pools(dciqueue.to_yaml(found.pools)) == {name: set(one) for name, one in found.pools.items()}
    assert set(there) == set(found.pools)


class TestCommand:
    @pytest.fixture
    def top(self, tmp_path: Path) -> Path:
        top = tmp_path / "dci-queue"
        for kind in ("pool", "available", "reason", "queue", "log"):
            (top / kind / "8nodes").mkdir(parents=True)
        (top / "pool" / "8nodes" / "r1").touch()
        (top / "available" / "8nodes" / "r1").symlink_to(top / "pool" / "8nodes" / "r1")
        (top / "reason" / "8nodes" / "r2").write_text(json.dumps({"reason": "it's flaky", "date": "2024-02-28"}))
        (top / "queue" / "8nodes" / ".seq").write_text('{"first": 1, "next": 3}')
        (top / "queue" / "8nodes" / "2").write_text(json.dumps(job()))
        (top / "queue" / "8nodes" / "3").write_text("{")
        return top

    def test_to_standard_output(self, api: FakeApi, cli: Cli, top: Path) -> None:
        outcome = cli("import", "dci-queue", str(top))
        assert outcome.status == 0
        assert pools(outcome.out) == {"8nodes": {"r1", "r2"}}
        assert outcome.err.splitlines() == [
            "left out: command 8nodes 2: to queue it here: "
            "leasehold queue add 8nodes --folder=/home/joe -- ls @RESOURCE",
            "left out: command 8nodes 3: its file cannot be read",
            "removed: once it is applied, leasehold resource offline 8nodes/r2 --reason "
            "'it'\"'\"'s flaky (since 2024-02-28)'",
        ]
        assert not api.requests

    def test_to_a_file(self, cli: Cli, top: Path, tmp_path: Path) -> None:
        assert cli("import", "dci-queue", str(top), "-o", str(tmp_path / "pools.yaml")).out == ""
        assert pools((tmp_path / "pools.yaml").read_text()) == {"8nodes": {"r1", "r2"}}

    def test_applied_at_once(self, api: FakeApi, cli: Cli, top: Path) -> None:
        change = {"action": "add", "kind": "pool", "pool": "8nodes", "name": "8nodes", "diff": {}}
        put = "PUT /v1/pools/8nodes"
        api.answers[put] = [Answer(200, {"changes": [change]}), Answer(200, {"changes": []})]
        api.answers["GET /v1/pools/8nodes"] = [Answer(200, pool(name="8nodes"))]
        for what in ("pause", "resume"):
            api.answers[f"POST /v1/pools/8nodes/{what}"] = [Answer(200, pool(name="8nodes"))]
        api.answers["POST /v1/pools/8nodes/resources/r2/offline"] = [Answer(200, resource("r2"))]
        outcome = cli("import", "dci-queue", str(top), "--apply")
        assert (outcome.status, outcome.out) == (0, "+ add pool 8nodes\n")
        assert "offline: 8nodes/r2, it's flaky (since 2024-02-28)" in outcome.err
        for made, name in zip(api.calls("PUT", "/v1/pools/8nodes"), ("r1", "r2"), strict=True):
            written = config.load_yaml(dciqueue.to_yaml({"8nodes": [name]}).encode())
            assert config.load({"pools": [made.json]}).pools == written.pools
        # Nobody may have what was removed in between.
        assert [one.path.rpartition("/")[2] for one in api.requests if one.method == "POST"] == [
            "pause",
            "offline",
            "resume",
        ]
        (marked,) = api.calls("POST", "/v1/pools/8nodes/resources/r2/offline")
        assert marked.json == {"reason": "it's flaky (since 2024-02-28)"}

    @pytest.mark.parametrize("made", [[], ["pool"]])
    def test_what_is_none_of_its_folders(self, cli: Cli, tmp_path: Path, made: list[str]) -> None:
        for name in made:
            (tmp_path / name).mkdir()
        outcome = cli("import", "dci-queue", str(tmp_path))
        assert (outcome.status, outcome.out) == (2, "")
