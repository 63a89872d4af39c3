"""`import resalloc`: what becomes of each key of its pools, what is said of those that change, and what is refused."""

from __future__ import annotations

import contextlib
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from leasehold import config, resalloc
from leasehold.errors import Invalid
from leasehold.model import DEFAULT_NAME_PATTERN, Cadence, OnDegraded, PoolSpec, Size, StageName
from leasehold.resalloc_file import DEFAULTS, KEYS
from tests.unit.cli_runner import ROOT, Cli
from tests.unit.fake_api import Answer, FakeApi

LEAST = {"cmd_new": "/bin/allocate-vm", "cmd_delete": "/bin/terminate-vm"}
FULL = """
vm_x86_64:
    description: "Virtual machines: rack 1"
    max: 7
    max_starting: 2
    start_delay: 10
    max_prealloc: 4
    cmd_new: "/bin/allocate-vm --size 'big one' | tail -1"
    cmd_livecheck: "/bin/check-vm"
    livecheck_period: 300
    livecheck_attempts: 2
    cmd_delete: |
        set -e

        /bin/terminate-vm "$RESALLOC_NAME"
    cmd_list: /bin/list-vms
    cmd_release: /bin/clean-vm
    tags:
        - name: compute_node
          priority: 5
        - ci
    reuse_opportunity_time: 90
    reuse_max_count: 3
    reuse_max_time: 7200
    named_counters: [ip, mac-address]
    name_pattern: "{pool_name}-{id}"
beefy:
    cmd_new: vm new
    cmd_delete: vm delete
    tags_on_demand: [huge, {name: huger, priority: -10}]
"""


def read(**keys: Any) -> resalloc.Imported:
    """One pool with these keys, beside what each pool needs."""
    return resalloc.read({"vm": {**LEAST, **keys}})


def pools(text: str) -> dict[str, PoolSpec]:
    """What Leasehold makes of the pools file."""
    return {spec.name: spec for spec, _ in config.load_yaml(text.encode()).pools}


def spec(**keys: Any) -> PoolSpec:
    return pools(resalloc.to_yaml(read(**keys).pools))["vm"]


@pytest.fixture
def full() -> dict[str, PoolSpec]:
    return pools(resalloc.to_yaml(resalloc.read(YAML(typ="safe").load(FULL)).pools))


def test_every_key_that_resalloc_knows_is_taken_over(full: dict[str, PoolSpec]) -> None:
    assert set(KEYS) - {"tags_on_demand"} == set(YAML(typ="safe").load(FULL)["vm_x86_64"])

    vm = full["vm_x86_64"]

    assert vm.description == "Virtual machines: rack 1"
    assert vm.size == Size(max=7, max_creating=2, min_free=4, create_delay=timedelta(seconds=10))
    assert {stage: hook.run for stage, (hook,) in vm.stages.items()} == {
        StageName.CREATE: "/bin/allocate-vm --size 'big one' | tail -1",
        StageName.DELETE: 'set -e\n\n/bin/terminate-vm "$RESALLOC_NAME"\n',
        StageName.LIVECHECK: "/bin/check-vm",
        StageName.RELEASE: "/bin/clean-vm",
        StageName.LIST: "/bin/list-vms",
    }
    assert vm.livecheck == Cadence(every=timedelta(minutes=5), attempts=2)
    assert vm.listing == Cadence(every=timedelta(minutes=30))
    assert (vm.tags, vm.tags_on_demand) == ({"compute_node": 5, "ci": 0}, {})
    assert (vm.name_pattern, vm.named_counters) == ("{pool_name}-{id}", ("ip", "mac-address"))
    assert (vm.policy.reuse_window, vm.policy.reuse_count) == (timedelta(seconds=90), 3)
    assert vm.policy.reuse_time == timedelta(hours=2)


def test_what_is_not_said_is_as_in_resalloc(full: dict[str, PoolSpec]) -> None:
    vm = spec()

    assert vm.size == Size(max=4, max_creating=1, min_free=2)
    assert set(vm.stages) == {StageName.CREATE, StageName.DELETE}
    assert vm.policy.reuse_window is None
    assert (vm.tags, vm.name_pattern, vm.description) == ({}, DEFAULT_NAME_PATTERN, "")
    assert spec(cmd_livecheck="check").livecheck == Cadence(every=timedelta(minutes=10), attempts=3)
    reused = spec(reuse_opportunity_time=60).policy
    assert (reused.reuse_count, reused.reuse_time) == (None, timedelta(hours=1))


def test_on_demand_nothing_is_made_ahead(full: dict[str, PoolSpec]) -> None:
    beefy = full["beefy"]
    assert (beefy.size.min_free, beefy.tags, beefy.tags_on_demand) == (0, {}, {"huge": 0, "huger": -10})

    found = read(tags_on_demand=["huge"], max_prealloc=5)

    assert "min_free" not in found.pools[0]["size"]
    assert "vm.max_prealloc: not needed: with tags_on_demand resalloc makes nothing ahead" in found.notes


def test_a_ticket_has_no_end_and_fails_with_its_resource(full: dict[str, PoolSpec]) -> None:
    assert {one.policy.default_duration for one in full.values()} == {timedelta(days=365)}
    assert full["vm_x86_64"].policy.on_degraded is OnDegraded.END
    assert "default_duration: 365d  # a ticket has no end" in resalloc.to_yaml(read().pools)


def test_each_command_has_a_time_limit(full: dict[str, PoolSpec]) -> None:
    limits = {stage: hook.timeout for stage, (hook,) in full["vm_x86_64"].stages.items()}
    assert {limits[StageName.CREATE], limits[StageName.DELETE], limits[StageName.RELEASE]} == {timedelta(minutes=30)}
    assert {limits[StageName.LIST], limits[StageName.LIVECHECK]} == {timedelta(minutes=2)}


def test_zero_means_what_it_means_in_resalloc() -> None:
    policy = spec(reuse_opportunity_time=60, reuse_max_count=0, reuse_max_time=0).policy
    assert (policy.reuse_count, policy.reuse_time) == (None, None)
    assert spec(reuse_opportunity_time=60, reuse_max_time=None).policy.reuse_time is None
    assert spec(start_delay=0).size.create_delay is None
    # It looks every ten seconds, and after the first failure acts.
    assert spec(cmd_livecheck="x", livecheck_period=0, livecheck_attempts=0).livecheck == Cadence(
        every=timedelta(seconds=10)
    )


@pytest.mark.parametrize("key", ["max_prealloc", "max_starting", "max"])
def test_a_pool_that_makes_nothing_makes_nothing_here(key: str) -> None:
    assert spec(**{key: 0}).size.max == 0


def test_a_pool_on_demand_of_which_none_may_start_makes_nothing_here() -> None:
    assert spec(max_starting=0, tags_on_demand=["huge"]).size.max == 0


def test_durations_are_whole_seconds_and_have_a_longest() -> None:
    found = read(start_delay=1.5, reuse_opportunity_time=10**12, max=10**7)
    assert found.pools[0]["size"] == {"max": 100_000, "max_creating": 1, "min_free": 2, "create_delay": "2s"}
    assert found.pools[0]["policy"]["reuse_window"] == "365d"
    assert "vm.start_delay: 2s here: durations are whole seconds" in found.notes
    assert "vm.max: 100000 here: that is as much as there can be" in found.notes


def test_a_relative_command_starts_where_resalloc_started_it() -> None:
    assert spec(cmd_new="./allocate").folder == "/"


def test_keys_that_are_not_needed_or_not_known_are_named() -> None:
    notes = read(max_preallocs=3, livecheck_period=3, tags=["a", "a", {"name": "b", "weight": 1}]).notes
    assert "vm.max_preallocs: left out: resalloc has no such key, and ignores it; was max_prealloc meant?" in notes
    assert "vm.livecheck_period: not needed: there is no cmd_livecheck" in notes
    assert "vm.tags[1]: left out: a is there twice" in notes
    assert "vm.tags[2].weight: left out: resalloc ignores it" in notes


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("vm", "needs {id} or {id_in_pool}"),
        ("{id:>9}", "there are only"),
        ("{color}-{id}", "there are only"),
        ("{id}-{", "is no pattern"),
        ("{id} {datetime}", "makes no names"),
        ("{id_in_pool}" * 17, "more than 200 characters"),
    ],
)
def test_a_pattern_of_names_that_cannot_be_used_is_replaced(pattern: str, why: str) -> None:
    found = read(name_pattern=pattern)
    assert "name_pattern" not in found.pools[0]
    (said,) = [note for note in found.notes if note.startswith("vm.name_pattern: {pool_name}_{id}_{datetime} here: ")]
    assert why in said


def test_a_pool_whose_name_cannot_be_used_is_called_otherwise() -> None:
    found = resalloc.read({"x 1": LEAST, "x-1": LEAST, "é": LEAST, "_y": LEAST, "x\n1": LEAST})
    assert [pool["name"] for pool in found.pools] == ["x-1-2", "x-1", "pool", "y", "x-1-3"]
    assert "x 1: the pool is called x-1-2 here, in RESALLOC_POOL_ID and names of resources too" in found.notes


def test_people_are_told_to_stop_resalloc_where_each_would_delete_what_the_other_made() -> None:
    assert "stop resalloc before" in " ".join(read(cmd_list="ls").notes)
    assert "stop resalloc before" not in " ".join(read().notes)


def test_the_address_of_the_server_is_named_and_its_secrets_are_not() -> None:
    server = {"db_url": "postgresql://u:secret@h/d", "logdir": "/x", "port": 4910, "host": "x", "colour": 1}
    notes = resalloc.read({"vm": LEAST}, server).notes
    assert "LEASEHOLD_RESALLOC_PORT=4910 " in " ".join(notes)
    assert [note.split(": ")[:2] for note in notes if note.startswith("server.yaml.")][1:] == [
        ["server.yaml.db_url", "not needed"],
        ["server.yaml.logdir", "not needed"],
        ["server.yaml.host", "where the API listens is LEASEHOLD_API_HOST"],
        ["server.yaml.colour", "left out"],
    ]
    assert "secret" not in " ".join(notes)
    assert "LEASEHOLD_RESALLOC_PORT=49100 " in " ".join(resalloc.read({"vm": LEAST}, {}).notes)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"cmd_new": None}, "vm.cmd_new: is needed"),
        ({"cmd_delete": ""}, "vm.cmd_delete: is needed"),
        ({"cmd_new": ["a", "b"]}, "vm.cmd_new: must be a text, and is a list"),
        ({"cmd_livecheck": True}, "vm.cmd_livecheck: must be a text, and is true, which in quotes is a text"),
        ({"cmd_list": "a\0b"}, "vm.cmd_list: has a character"),
        ({"cmd_list": "\ud800"}, "vm.cmd_list: has a character"),
        ({"max": "7"}, "vm.max: must be a number, 0 or more, and is '7'"),
        ({"max": -1}, "vm.max: must be a number, 0 or more, and is -1"),
        ({"max": 1.5}, "vm.max: must be a whole number, and is 1.5"),
        ({"max": True}, "vm.max: must be a number, 0 or more, and is true"),
        ({"max_starting": None}, "vm.max_starting: must be a number, 0 or more, and is empty"),
        ({"start_delay": float("nan")}, "vm.start_delay: must be a number"),
        ({"start_delay": "10s"}, "vm.start_delay: must be a number"),
        ({"start_delay": -(10**5000)}, "vm.start_delay: must be a number, 0 or more, and is a huge number"),
        ({"tags": "a"}, "vm.tags: must be a list, and is 'a'"),
        ({"tags": [{"priority": 1}]}, "vm.tags[0]: must name a tag"),
        ({"tags": ["a", 5]}, "vm.tags[1]: must name a tag"),
        ({"tags": ["x" * 129]}, "vm.tags[0]: must name a tag"),
        ({"tags": [{"name": "a", "priority": "high"}]}, "vm.tags[0].priority: must be a whole number"),
        ({"tags": [str(i) for i in range(101)]}, "vm.tags: can have 100 at most, and has 101"),
        ({"named_counters": ["a b"]}, "vm.named_counters[0]: must name a counter"),
        ({"named_counters": {"a": 1}}, "vm.named_counters: must be a list, and is a table of keys"),
        ({"tags": ["a"], "tags_on_demand": ["a"]}, "vm.tags[0]: a is on demand in vm, and can be no plain tag"),
    ],
)
def test_what_resalloc_or_a_pools_file_cannot_have_is_refused_with_its_place(keys: Any, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(**keys)
    assert caught.value.detail.startswith(said)
    assert len(caught.value.faults) == 1


def test_a_tag_on_demand_of_one_pool_is_no_plain_tag_of_another() -> None:
    a, b = {**LEAST, "tags_on_demand": [{"name": "huge"}]}, {**LEAST, "tags": ["x", {"name": "huge", "priority": 1}]}
    with pytest.raises(Invalid, match=r"^b\.tags\[1\]: huge is on demand in a, .* resalloc does not start so$"):
        resalloc.read({"a": a, "b": b})


@pytest.mark.parametrize(
    ("configured", "said"),
    [
        (None, "there is no pool in it"),
        ({}, "there is no pool in it"),
        (["vm"], "this is no configuration of resalloc"),
        ("vm", "this is no configuration of resalloc"),
        ({"vm": None}, "vm: must have keys, and is empty"),
        ({"pools": [{"name": "vm"}]}, "pools: must have keys, and is a list"),
        ({True: LEAST}, "True: a pool's name must be a text, and is true, which in quotes is a text"),
        ({"vm": {}}, "2 places are wrong"),
    ],
)
def test_what_is_no_configuration_of_resalloc(configured: Any, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        resalloc.read(configured)
    assert caught.value.detail.startswith(said)


@pytest.mark.parametrize("server", [["port"], {"port": "x"}, {"port": 0}, {"port": True}])
def test_what_is_no_server_of_resalloc(server: Any) -> None:
    with pytest.raises(Invalid, match=r"^server\.yaml"):
        resalloc.read({"vm": LEAST}, server)


WORD = st.text(max_size=12) | st.sampled_from(
    [
        "no",
        "null",
        "1e3",
        "30m",
        "a: b",
        "a #b",
        "|",
        "- a",
        "\ta\n",
        " a\nb",
        "a\n\n",
        "a\nb\n \n",
        "\x7f",
        "\u2028",
        "é\n",
    ]
)
LINE = WORD | st.lists(WORD, max_size=4).map("\n".join)
TAGS = st.lists(WORD | st.fixed_dictionaries({"name": WORD}, optional={"priority": st.integers(-9, 9)}), max_size=3)
POOL = st.fixed_dictionaries(
    {"cmd_new": LINE, "cmd_delete": LINE},
    optional={
        **dict.fromkeys(DEFAULTS, st.integers(0, 10**9)),
        **dict.fromkeys(("start_delay", "reuse_opportunity_time"), st.floats(0)),
        **dict.fromkeys(("cmd_livecheck", "cmd_release", "description", "name_pattern"), LINE),
        "tags": TAGS,
        "tags_on_demand": TAGS,
        "named_counters": st.lists(st.sampled_from("abc"), max_size=3),
    },
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORD | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD | st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=10,
)


@given(st.dictionaries(WORD, ANYTHING | st.dictionaries(st.sampled_from(KEYS), ANYTHING)), ANYTHING)
def test_anything_else_is_refused_in_words(configured: Any, server: Any) -> None:
    with contextlib.suppress(Invalid):
        resalloc.read(configured, server)


@given(st.dictionaries(WORD, POOL, min_size=1, max_size=3))
def test_whatever_is_taken_is_a_pools_file_that_says_the_same(configured: Any) -> None:
    try:
        found = resalloc.read(configured)
    except Invalid:
        return
    text = resalloc.to_yaml(found.pools)
    assert YAML(typ="safe").load(text)["pools"] == found.pools
    read = pools(text)
    assert len(read) == len(configured)
    for spec, said in zip(read.values(), configured.values(), strict=True):
        assert spec.stages[StageName.CREATE][0].run == said["cmd_new"]


def test_from_a_folder_to_standard_output(api: FakeApi, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "pools.yaml").write_text(FULL)
    (tmp_path / "server.yaml").write_text("")
    outcome = cli("import", "resalloc", str(tmp_path))
    assert outcome.status == 0, outcome.err
    inventory = config.load_yaml(outcome.out_bytes)
    assert (inventory.name, len(inventory.pools)) == ("resalloc", 2)
    assert "commands see a plain environment here" in outcome.err
    assert "LEASEHOLD_RESALLOC_PORT=49100" in outcome.err
    assert api.requests == []


def test_from_a_file_to_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(FULL)
    outcome = cli("import", "resalloc", str(tmp_path / "old.yaml"), "-o", str(tmp_path / "new.yaml"))
    assert (outcome.status, outcome.out) == (0, ""), outcome.err
    assert len(config.load_yaml((tmp_path / "new.yaml").read_bytes()).pools) == 2


def test_applied_at_once(api: FakeApi, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "pools.yaml").write_text(FULL)
    changes = [{"action": "add", "kind": "pool", "pool": "beefy", "name": "beefy", "diff": {}}]
    api.answers["POST /v1/apply"] = [Answer(200, {"changes": changes})]
    outcome = cli("import", "resalloc", str(tmp_path), "--apply")
    assert (outcome.status, outcome.out) == (0, "+ add pool beefy\n"), outcome.err
    (apply,) = api.requests
    assert len(config.load_yaml(apply.body).pools) == 2


def test_the_example_is_taken_over(cli: Cli) -> None:
    outcome = cli("import", "resalloc", str(ROOT / "examples" / "resalloc" / "etc"))
    assert (outcome.status, list(pools(outcome.out))) == (0, ["builders", "big_builders"])


def test_words_are_read_as_resalloc_reads_them(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "pools.yaml").write_text(
        "a: &a {cmd_new: x, cmd_delete: z, max: 010, start_delay: 1:30}\nb: {<<: *a, max_starting: 2}\n"
    )
    read = pools(cli("import", "resalloc", str(tmp_path)).out)
    assert read["a"].size == Size(max=8, min_free=2, create_delay=timedelta(seconds=90))
    assert read["b"].size.max_creating == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("vm: [", "pools.yaml: line 1, column 6: expected the node content"),
        ("a:\n  max: 1\n  max: 2\n", 'line 3, column 3: found duplicate key "max"'),
        ("\tvm: 1", "line 1, column 1: found character"),
        (b"\xff\xfe\xff", "pools.yaml: this is no YAML"),
        ("vm: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("vm: 2020-13-45", "this is no YAML: month must be in"),
        ("[" * 3000, "this is no YAML"),
        ("a: 1\n---\nb: 1", "line 2, column 1"),
        ("vm: &a [*a]", "vm: must have keys, and is a list (invalid)"),
        ("# nothing but this", "there is no pool in it (invalid)"),
        ("vm: {cmd_new: x, max: many}", "2 places are wrong (invalid)"),
        ("vm: {cmd_new: x, max: many}", "  vm.max: must be a number, 0 or more, and is 'many' (wrong_type)"),
        ("x" * (4 * 2**20 + 1), "is larger than 4 MiB"),
        (None, "cannot be read: No such file or directory"),
    ],
    ids=range(14),
)
def test_a_file_that_cannot_be_taken_leaves_nothing(cli: Cli, tmp_path: Path, content: Any, said: str) -> None:
    if content is not None:
        (tmp_path / "pools.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    made = tmp_path / "new.yaml"
    outcome = cli("import", "resalloc", str(tmp_path), "--output", str(made))
    assert (outcome.status, outcome.out) == (2, "")
    assert said in " ".join(outcome.err.replace("│", " ").split()) or said in outcome.err
    assert not made.exists()


def test_a_broken_server_file_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "pools.yaml").write_text(FULL)
    (tmp_path / "server.yaml").write_text("port: [")
    outcome = cli("import", "resalloc", str(tmp_path))
    assert (outcome.status, outcome.out) == (2, "")
    assert "server.yaml: line 1" in outcome.err


def test_resallocs_own_file_is_not_overwritten(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "pools.yaml"
    file.write_text(FULL)
    assert cli("import", "resalloc", str(tmp_path), "--output", str(file)).status == 2
    assert file.read_text() == FULL


def test_without_the_package_that_reads_yaml(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pools.yaml").write_text(FULL)
    monkeypatch.setitem(sys.modules, "ruamel.yaml", None)
    outcome = cli("import", "resalloc", str(tmp_path))
    assert (outcome.status, outcome.out) == (1, "")
    assert "pip install 'leasehold[service]'" in outcome.err
