"""The pools file: what it may say, and each kind of mistake with its place and reason."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold import config
from leasehold.errors import Invalid, LeaseholdError, Malformed
from leasehold.model import Hook, Policy, PoolSpec, ResourceSpec, StageName

ROOT = Path(__file__).parents[2]

WHOLE = """
name: lab
folder: /srv/lab
pools:
  - name: r640
    description: Dell R640
    priority: 10
    resources:
      - name: host01
        tags: [x86_64, metal]
        properties: {model: R640, disks: [{disk_type: nvme, size_gb: 2000}]}
      - name: host02
    wipe: {run: ./wipe.sh, timeout: 30m, attempts: 3}
    provision:
      - {run: [/bin/provision, --fast]}
      - {run: ./more.sh}
    policy:
      default_duration: 24h
      max_duration: 48h
      max_total: 5d
      on_release: [wipe]
      keep_logs: 7d
  - name: names
"""


def load(text: str) -> PoolSpec:
    """The only pool of a file."""
    ((pool, _),) = config.load_yaml(text.encode()).pools
    return pool


def test_a_whole_file() -> None:
    inventory = config.load_yaml(WHOLE.encode())
    (r640, hosts), (names, none) = inventory.pools
    assert inventory.name == "lab"
    assert r640 == PoolSpec(
        name="r640",
        description="Dell R640",
        priority=10,
        folder="/srv/lab",
        stages={
            StageName.WIPE: (Hook(run="./wipe.sh", timeout=timedelta(minutes=30), attempts=3),),
            StageName.PROVISION: (Hook(run=("/bin/provision", "--fast")), Hook(run="./more.sh")),
        },
        policy=Policy(
            default_duration=timedelta(hours=24),
            max_duration=timedelta(hours=48),
            max_total=timedelta(days=5),
            on_release=(StageName.WIPE,),
            keep_logs=timedelta(days=7),
        ),
    )
    properties = {"model": "R640", "disks": [{"disk_type": "nvme", "size_gb": 2000}]}
    assert hosts == (
        ResourceSpec(name="host01", tags=("x86_64", "metal"), properties=properties),
        ResourceSpec(name="host02"),
    )
    assert (names, none) == (PoolSpec(name="names", folder="/srv/lab"), ())


def test_the_same_in_json_means_the_same() -> None:
    plain = {"name": "lab", "pools": [{"name": "r640", "validate": {"run": "true", "timeout": "5m"}}]}
    assert config.load_json(json.dumps(plain).encode()) == config.load_yaml(json.dumps(plain).encode())


def test_a_file_without_a_name_is_the_default_one() -> None:
    assert config.load_yaml(b"pools: []").name == "default"


def test_the_folder_given_is_used_where_the_file_names_none() -> None:
    text = b"pools: [{name: a, wipe: {run: ./wipe.sh}}]"
    assert config.load_yaml(text, "/srv").pools[0][0].folder == "/srv"
    assert config.load_yaml(b"folder: /own\n" + text, "/srv").pools[0][0].folder == "/own"


def test_every_stage_may_be_one_hook_or_several() -> None:
    for stage in StageName:
        assert load(f"pools: [{{name: a, {stage}: {{run: 'true'}}}}]").stages == {stage: (Hook(run="true"),)}
        several = load(f"pools: [{{name: a, {stage}: [{{run: a}}, {{run: b}}]}}]")
        assert several.stages == {stage: (Hook(run="a"), Hook(run="b"))}


@pytest.mark.parametrize("run", ["./wipe.sh", "scripts/wipe.sh now", "['./wipe.sh', x]"])
def test_a_relative_hook_needs_a_folder(run: str) -> None:
    with pytest.raises(Invalid) as caught:
        load(f"pools:\n- name: a\n- name: b\n  wipe: {{run: {run}}}")
    (fault,) = caught.value.faults
    assert (fault.path, fault.code) == ("pools[1].wipe", "folder_missing")
    assert fault.detail.startswith("line 4: ")


@pytest.mark.parametrize("run", ["/opt/wipe.sh", "wipe", "wipe --what ./this", "[wipe, ./this]"])
def test_other_hooks_need_none(run: str) -> None:
    assert load(f"pools: [{{name: a, wipe: {{run: {run}}}}}]").folder is None


# Each mistake: the file, and the line, the path and the code that the error names.
MISTAKES = {
    "an unknown key at the top": ("pools: []\npool: []", 2, "pool", "unknown_field"),
    "a typo in a pool": ("pools:\n- name: a\n  polcy: {}", 3, "pools[0].polcy", "unknown_field"),
    "a typo in a policy": ("pools:\n- name: a\n  policy:\n    max: 1h", 4, "pools[0].policy.max", "unknown_field"),
    "a typo in a hook": (
        "pools:\n- name: a\n  wipe:\n    run: x\n    timout: 5m",
        5,
        "pools[0].wipe[0].timout",
        "unknown_field",
    ),
    "a typo in the second hook": (
        "pools:\n- name: a\n  wipe:\n  - run: x\n  - run: x\n    attempt: 5",
        6,
        "pools[0].wipe[1].attempt",
        "unknown_field",
    ),
    "a typo in a resource": (
        "pools:\n- name: a\n  resources:\n  - name: r\n    tag: x",
        5,
        "pools[0].resources[0].tag",
        "unknown_field",
    ),
    "no pools": ("name: lab", 1, "pools", "missing"),
    "no name": ("pools:\n- description: x", 2, "pools[0].name", "missing"),
    "no run": ("pools:\n- name: a\n  wipe: {timeout: 5m}", 3, "pools[0].wipe[0].run", "missing"),
    "an empty file": ("", 1, "", "not_an_object"),
    "a list": ("- pools", 1, "", "not_an_object"),
    "pools that are no list": ("pools: {a: 1}", 1, "pools", "not_a_list"),
    "a pool that is a word": ("pools:\n- name: a\n- b", 3, "pools[1]", "not_an_object"),
    "tags that are a word": (
        "pools:\n- name: a\n  resources:\n  - name: r\n    tags: x",
        5,
        "pools[0].resources[0].tags",
        "not_a_list",
    ),
    "a bad name": ("pools:\n- name: a b", 2, "pools[0].name", "string_pattern_mismatch"),
    "a name that starts with a dash": ("pools:\n- name: -a", 2, "pools[0].name", "string_pattern_mismatch"),
    "a name too long": (f"pools:\n- name: {'a' * 129}", 2, "pools[0].name", "string_pattern_mismatch"),
    "a number for a name": ("pools:\n- name: 1", 2, "pools[0].name", "string_type"),
    "a bad duration": (
        "pools:\n- name: a\n  policy:\n    max_duration: 1 day",
        4,
        "pools[0].policy.max_duration",
        "duration",
    ),
    "a duration without unit": (
        "pools:\n- name: a\n  wipe: {run: x, timeout: 90}",
        3,
        "pools[0].wipe[0].timeout",
        "duration",
    ),
    "a negative duration": (
        "pools:\n- name: a\n  wipe: {run: x, timeout: -5m}",
        3,
        "pools[0].wipe[0].timeout",
        "duration",
    ),
    "an absurd duration": (
        "pools:\n- name: a\n  wipe: {run: x, timeout: 366d}",
        3,
        "pools[0].wipe[0].timeout",
        "duration",
    ),
    "a default longer than the most": (
        "pools:\n- name: a\n  policy:\n    default_duration: 2h\n    max_duration: 1h",
        3,
        "pools[0].policy",
        "too_long",
    ),
    "no attempt": (
        "pools:\n- name: a\n  wipe:\n    run: x\n    attempts: 0",
        5,
        "pools[0].wipe[0].attempts",
        "greater_than_equal",
    ),
    "no hook in a list": ("pools:\n- name: a\n  wipe: []", 3, "pools[0].wipe", "too_short"),
    "an unknown stage after a lease": (
        "pools:\n- name: a\n  policy:\n    on_release: [clean]",
        4,
        "pools[0].policy.on_release[0]",
        "enum",
    ),
    "a folder that is not absolute": ("pools: []\nfolder: lab", 2, "folder", "string_pattern_mismatch"),
    "the same pool twice": ("pools:\n- name: a\n- name: a", 1, "", "duplicate"),
    "the same resource twice": (
        "pools:\n- name: b\n- name: a\n  resources: [{name: r}, {name: r}]",
        3,
        "pools[1]",
        "duplicate",
    ),
    "a date in the properties": (
        "pools:\n- name: a\n  resources:\n  - name: r\n    properties: {bought: 2026-01-05}",
        5,
        "pools[0].resources[0].properties",
        "not_json",
    ),
    "not a number in the properties": (
        "pools:\n- name: a\n  resources:\n  - name: r\n    properties: {x: .nan}",
        5,
        "pools[0].resources[0].properties",
        "not_json",
    ),
    "NUL in a description": ('pools:\n- name: a\n  description: "x\\0"', 3, "pools[0].description", "nul"),
    "NUL in the properties": (
        'pools:\n- name: a\n  resources:\n  - name: r\n    properties: {x: "\\0"}',
        5,
        "pools[0].resources[0].properties",
        "not_storable",
    ),
    "NUL in a command": ('pools:\n- name: a\n  wipe: {run: "x\\0"}', 3, "pools[0].wipe[0].run", "nul"),
    "NUL in an argument": ('pools:\n- name: a\n  wipe: {run: [x, "\\0"]}', 3, "pools[0].wipe[0].run[1]", "nul"),
    "NUL in the folder": ('pools: []\nfolder: "/\\0"', 2, "folder", "nul"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_with_its_line_key_and_reason(mistake: str) -> None:
    text, line, path, code = MISTAKES[mistake]
    with pytest.raises(Invalid) as caught:
        config.load_yaml(text.encode())
    fault = caught.value.faults[0]
    assert (fault.path, fault.code) == (path, code)
    assert fault.detail.startswith(f"line {line}: ")
    assert path in fault.detail
    assert caught.value.detail == fault.detail


def test_all_mistakes_are_answered_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        config.load_yaml(b"pools:\n- name: a\n  x: 1\n- name: b b\n  wipe: {}\n")
    found = [(fault.path, fault.detail.partition(":")[0]) for fault in caught.value.faults]
    assert found == [("pools[0].x", "line 3"), ("pools[1].name", "line 4"), ("pools[1].wipe[0].run", "line 5")]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b"pools: [", "line 1, column 9"),
        (b"pools:\n\t- name: a", "line 2, column 1"),
        (b"pools: []\npools: []", "line 2, column 1"),
        (b"pools:\n- name: a\n  name: b", "line 3, column 3"),
        (b"pools: []\n---\npools: []", "line 2, column 1"),
        (b"pools: *nowhere", "line 1, column 8"),
        (b"pools: !!python/object:os.system []", "line 1, column 8"),
        (b"pools: !custom []", "line 1, column 8"),
        (b"pools: \xff\xfe", ""),
        (b"pools: \x01", ""),
        # Words that look like a date or a number, and are none.
        (b"pools: 2026-99-99", ""),
        (b"pools: !!int abc", ""),
        (b"pools: !!float abc", ""),
        (b"pools: !!timestamp abc", ""),
        (b"pools: " + b"1" * 5000, ""),
    ],
)
def test_what_is_no_yaml_is_answered_with_its_place(text: bytes, place: str) -> None:
    with pytest.raises(Malformed) as caught:
        config.load_yaml(text)
    assert place in caught.value.detail
    assert len(caught.value.detail) < 1000


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"",
        b"\xff",
        b'{"pools": ]}',
        b'{"pools": [], "pools": []}',
        b'{"pools": ' + b"1" * 5000 + b"}",
        b"[" * 100_000,
        b'{"pools": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda text: text[:12].decode(errors="replace"),
)
def test_what_is_no_json_is_answered_so(text: bytes) -> None:
    with pytest.raises(Malformed):
        config.load_json(text)


def bomb(levels: int) -> bytes:
    """A file of a few lines that says 10 to the power of `levels` things."""
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join([*lines, f"pools: *a{levels - 1}"]).encode()


@pytest.mark.parametrize("text", [bomb(9), b"pools: &a [*a]", b"pools: &a [{name: x, resources: *a}]"])
def test_aliases_cannot_make_a_file_endless(text: bytes) -> None:
    with pytest.raises(LeaseholdError):
        config.load_yaml(text)


def test_aliases_are_fine_otherwise() -> None:
    text = b"pools:\n- {name: a, wipe: &w {run: x}}\n- {name: b, wipe: *w}\n"
    first, second = config.load_yaml(text).pools
    assert first[0].stages == second[0].stages


@pytest.mark.parametrize("depth", [50, 100, 150, 200, 250, 300, 350, 400, 450, 500, 900])
def test_deep_nesting_is_answered_not_died_of(depth: int) -> None:
    for opening, closing in (("[", "]"), ("{a: ", "}")):
        nested = f"pools: [{{name: a, x: {opening * depth}{closing * depth}}}]"
        with pytest.raises(LeaseholdError):
            config.load_yaml(nested.encode())
        deep = f"pools: [{{name: a, resources: [{{name: r, properties: {{x: {opening * depth}{closing * depth}}}}}]}}]"
        with suppress(Malformed, Invalid):
            config.load_yaml(deep.encode())


@given(st.binary(max_size=200) | st.text(alphabet="pols: []{}-\n&*!'\"#x1", max_size=60).map(str.encode))
def test_any_bytes_are_a_file_or_an_error_of_ours(text: bytes) -> None:
    for read in (config.load_yaml, config.load_json):
        with suppress(Malformed, Invalid):
            read(text)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "pools", "wipe", "run", "policy", "resources", "x"]), inner, max_size=3
        )
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(["name", "folder", "pools"]), PLAIN))
def test_any_values_are_a_file_or_an_error_of_ours(plain: dict[str, Any]) -> None:
    with suppress(Invalid):
        config.load(plain)


def test_the_published_schema_is_that_of_this_version() -> None:
    published = (ROOT / "docs" / "reference" / "pools.schema.json").read_text()
    assert json.loads(published) == config.json_schema()
    assert published == json.dumps(config.json_schema(), indent=2, ensure_ascii=False) + "\n"


def test_the_example_is_a_good_file() -> None:
    folder = ROOT / "examples" / "lab"
    inventory = config.load_yaml((folder / "pools.yaml").read_bytes(), str(folder))
    assert [len(resources) for _, resources in inventory.pools] == [3]
