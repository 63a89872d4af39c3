"""The pools file: what it may say, and each kind of mistake with its place and reason."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold import config, durations
from leasehold.errors import Invalid, LeaseholdError, Malformed
from leasehold.hook_file import HookFile
from leasehold.http_hook import HttpFile
from leasehold.model import (
    Cadence,
    Hook,
    OnDegraded,
    Policy,
    PoolSpec,
    ResourceSpec,
    Reuse,
    Size,
    StageName,
)
from leasehold.store import specs

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


PERIODIC = {StageName.LIVECHECK: "10m", StageName.LIST: "30m"}
"""Stages of one hook that is run again and again, and how often if nothing is said."""


def stages_of(text: str, stage: StageName) -> PoolSpec:
    """A pool with one stage, and what that needs."""
    create = ", create: {run: new}" if stage in {StageName.DELETE, StageName.LIST} else ""
    return load(f"pools: [{{name: a{create}, {stage}: {text}}}]")


@pytest.mark.parametrize("stage", [stage for stage in StageName if stage not in PERIODIC])
def test_every_stage_may_be_one_hook_or_several(stage: StageName) -> None:
    assert stages_of("{run: 'true'}", stage).stages[stage] == (Hook(run="true"),)
    assert stages_of("[{run: a}, {run: b}]", stage).stages[stage] == (Hook(run="a"), Hook(run="b"))


@pytest.mark.parametrize("stage", PERIODIC)
def test_what_is_run_again_and_again_is_one_hook_that_ends_before_its_next_run(stage: StageName) -> None:
    usual, often, slow = [
        stages_of(f"{{run: 'true'{more}}}", stage) for more in ("", ", every: 1m", ", every: 1m, timeout: 5m")
    ]
    assert usual.stages[stage] == (Hook(run="true", timeout=durations.parse(PERIODIC[stage])),)
    assert often.stages[stage] == (Hook(run="true", timeout=timedelta(minutes=1)),)
    assert slow.stages[stage] == (Hook(run="true", timeout=timedelta(minutes=5)),)
    with pytest.raises(Invalid):
        stages_of("[{run: a}, {run: b}]", stage)


def test_a_livecheck_may_fail_some_times_and_a_listing_comes_again_anyway() -> None:
    both = "create: {run: new}, livecheck: {run: 'true', attempts: 5, parallel: 2}, list: {run: ls}"
    pool = load(f"pools: [{{name: a, {both}}}]")
    assert pool.livecheck == Cadence(every=timedelta(minutes=10), attempts=5, parallel=2)
    assert pool.listing == Cadence(every=timedelta(minutes=30))
    # What is made of failures is the cadence's: one run of the hook is one attempt.
    assert {hook.attempts for hooks in pool.stages.values() for hook in hooks} == {1}


DYNAMIC = """
pools:
- name: vm
  create: {run: new}
  delete: {run: gone}
  size: {max: 10, max_creating: 3, min_free: 2, create_delay: 5s, idle: 15m, age: 12h, keep_broken: 1}
  tags: [x86_64, {name: fast, priority: 10}]
  tags_on_demand: [gpu]
  properties: {instance_type: t3.medium}
  name_pattern: "{pool_name}-{id}"
  named_counters: [port]
  cost_per_hour: 0.05
  policy: {reuse: anyone, reuse_window: 1m, reuse_count: 3, reuse_time: null, on_degraded: replace}
"""


def test_a_pool_that_makes_its_resources_itself() -> None:
    pool = load(DYNAMIC)
    assert pool == PoolSpec(
        name="vm",
        stages={StageName.CREATE: (Hook(run="new"),), StageName.DELETE: (Hook(run="gone"),)},
        size=Size(
            max=10,
            max_creating=3,
            min_free=2,
            create_delay=timedelta(seconds=5),
            idle=timedelta(minutes=15),
            age=timedelta(hours=12),
            keep_broken=1,
        ),
        tags={"x86_64": 0, "fast": 10},
        tags_on_demand={"gpu": 0},
        properties={"instance_type": "t3.medium"},
        name_pattern="{pool_name}-{id}",
        named_counters=("port",),
        cost_per_hour=0.05,
        policy=Policy(
            reuse=Reuse.ANYONE,
            reuse_window=timedelta(minutes=1),
            reuse_count=3,
            reuse_time=None,
            on_degraded=OnDegraded.REPLACE,
        ),
    )
    assert pool.dynamic
    assert specs.from_text(json.dumps(specs.to_json(pool))) == pool


def test_a_pool_without_create_has_livechecks_and_tags_of_all_its_resources() -> None:
    text = b"pools: [{name: a, tags: [x], livecheck: {run: 'true'}, resources: [{name: r, tags: [y]}]}]"
    ((pool, (resource,)),) = config.load_yaml(text).pools
    assert (pool.dynamic, pool.is_tended, resource.tags) == (False, True, ("x", "y"))


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
    "no driver": ("pools:\n- name: a\n  wipe: {timeout: 5m}", 3, "pools[0].wipe[0]", "one_driver"),
    "two drivers": (
        "pools:\n- name: a\n  wipe:\n  - run: x\n  - run: x\n    http: {url: 'http://h'}",
        5,
        "pools[0].wipe[1]",
        "one_driver",
    ),
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
    "create beside resources": (
        "pools:\n- name: a\n  create: {run: x}\n  resources: [{name: r}]",
        2,
        "pools[0]",
        "dynamic",
    ),
    **{
        f"{key} without create": (f"pools:\n- name: a\n  {key}: {value}", 2, "pools[0]", "not_dynamic")
        for key, value in (
            ("delete", "{run: x}"),
            ("list", "{run: x}"),
            ("size", "{max: 1}"),
            ("tags_on_demand", "[x]"),
            ("properties", "{a: 1}"),
            ("name_pattern", "'{id}'"),
            ("named_counters", "[x]"),
            ("cost_per_hour", "1"),
        )
    },
    "a pattern that makes one name twice": (
        "pools:\n- name: a\n  create: {run: x}\n  name_pattern: vm",
        4,
        "pools[0].name_pattern",
        "name_pattern",
    ),
    "a pattern with something unknown": (
        "pools:\n- name: a\n  create: {run: x}\n  name_pattern: 'vm-{id}-{owner}'",
        4,
        "pools[0].name_pattern",
        "name_pattern",
    ),
    "a tag twice": ("pools:\n- name: a\n  tags: [x, {name: x, priority: 1}]", 2, "pools[0]", "duplicate"),
    "two attempts of a listing": (
        "pools:\n- name: a\n  create: {run: x}\n  list:\n    run: x\n    attempts: 2",
        6,
        "pools[0].list.attempts",
        "less_than_equal",
    ),
    "a livecheck with a limiter": (
        "pools:\n- name: a\n  livecheck:\n    run: x\n    limit: l",
        3,
        "pools[0].livecheck",
        "scope",
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


HTTP = "pools:\n- name: a\n  wipe:\n    http:\n      url: http://h/\n"

# Likewise, in the settings of an http hook: what follows its URL, and the rest below `pools[0].wipe[0].http`.
HTTP_MISTAKES = {
    "a typo": ("      methd: GET", 6, ".methd", "unknown_field"),
    "a typo in until": ("      until:\n        holds: 'true'\n        evry: 5s", 8, ".until.evry", "unknown_field"),
    "an unknown method": ("      method: BREW", 6, ".method", "literal_error"),
    "a method in small letters": ("      method: get", 6, ".method", "literal_error"),
    "two bodies": ("      json: {}\n      body: x", 4, "", "two_bodies"),
    "a header that is no name": ("      headers: {'X Y': z}", 6, ".headers", "header"),
    "a header with a line break in its name": ('      headers: {"X\\r\\nY": z}', 6, ".headers", "header"),
    "a header without a name": ("      headers: {'': z}", 6, ".headers", "header"),
    "a header of the connection": ("      headers: {Content-Length: '3'}", 6, ".headers", "header"),
    "the same header twice": ("      headers: {X-Y: a, x-y: b}", 6, ".headers", "duplicate"),
    "a header that is a number": ("      headers:\n        X-Y: 3", 7, ".headers.X-Y", "string_type"),
    "a broken template in a header": ("      headers:\n        X-Y: '{{ a'", 7, ".headers.X-Y", "template"),
    "a broken template in the body": ("      body: '{% if lease %}'", 6, ".body", "template"),
    "a broken template in JSON": ("      json: {x: [1, '{{ }}']}", 6, ".json", "template"),
    "a date in JSON": ("      json: {x: 2026-01-05}", 6, ".json", "not_json"),
    "NUL in JSON": ('      json: {x: "\\0"}', 6, ".json", "not_storable"),
    "NUL in the body": ('      body: "\\0"', 6, ".body", "nul"),
    "a body too long": (f"      body: {'x' * 70_000}", 6, ".body", "string_too_long"),
    "a status that is none": ("      expect: 99", 6, ".expect[0]", "greater_than_equal"),
    "a status that is a word": ("      expect: [200, ok]", 6, ".expect[1]", "int_parsing"),
    "no status": ("      expect: []", 6, ".expect", "too_short"),
    "nothing that must hold": ("      until: {every: 5s}", 6, ".until.holds", "missing"),
    "an expression in braces": ("      until: {holds: '{{ json.done }}'}", 6, ".until.holds", "template"),
    "a broken expression": ("      until: {holds: 'json.done =='}", 6, ".until.holds", "template"),
    "an expression over nothing known": ("      until: {holds: 'done'}", 6, ".until.holds", "template"),
    "a call in an expression": ("      until: {holds: 'json.get(1)'}", 6, ".until.holds", "template"),
    "a broken URL to wait for": ("      until: {holds: 'true', url: '/x'}", 6, ".until.url", "template"),
    "polling without a pause": ("      until: {holds: 'true', every: 0s}", 6, ".until.every", "duration"),
    "until that is a word": ("      until: done", 6, ".until", "not_an_object"),
    "verify that is a number": ("      verify: 1", 6, ".verify", "verify"),
    "verify that is empty": ("      verify: ''", 6, ".verify", "verify"),
    "a file that is no variable": ("      files: {a-b: /x}", 6, ".files", "variable"),
    "a file without a path": ("      files: {a: ''}", 6, ".files.a", "string_too_short"),
}


@pytest.mark.parametrize("mistake", HTTP_MISTAKES)
def test_a_mistake_in_an_http_hook_is_answered_with_its_line_key_and_reason(mistake: str) -> None:
    text, line, path, code = HTTP_MISTAKES[mistake]
    with pytest.raises(Invalid) as caught:
        config.load_yaml(f"{HTTP}{text}\n".encode())
    fault = caught.value.faults[0]
    assert (fault.path, fault.code) == (f"pools[0].wipe[0].http{path}", code)
    assert fault.detail.startswith(f"line {line}: ")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("''", "http:// or https://"),
        ("h/x", "http:// or https://"),
        ("'{{ resource.properties.url }}'", "http:// or https://"),
        ("http://user:pw@h/", "no user or password"),
        ("http:///x", "needs a host"),
        ("http://h/{{ x }}", "there is no 'x' here, only attempt, files, lease, resource, secrets, stage"),
        ("http://h/{{ json.id }}", "there is no 'json' here"),
        ("http://h/{{ lease.id", "unexpected end of template"),
        ("http://h/{% if stage %}{% endif %}", "alone"),
    ],
)
def test_a_url_that_cannot_be_one_is_refused_with_the_reason(url: str, why: str) -> None:
    with pytest.raises(Invalid) as caught:
        load(f"pools:\n- name: a\n  wipe:\n    http:\n      url: {url}")
    (fault,) = caught.value.faults
    assert fault.path == "pools[0].wipe[0].http.url"
    assert fault.detail.startswith("line 5: ")
    assert why in fault.detail


@pytest.mark.parametrize("settings", ["verify: ca.pem", "files: {token: ./token}", "files: {a: /etc/a, b: b}"])
def test_a_file_of_an_http_hook_with_a_relative_path_needs_a_folder(settings: str) -> None:
    hook = f"{{http: {{url: 'http://h', {settings}}}}}"
    with pytest.raises(Invalid) as caught:
        load(f"pools:\n- name: a\n- name: b\n  wipe: {hook}")
    (fault,) = caught.value.faults
    assert (fault.path, fault.code) == ("pools[1].wipe", "folder_missing")
    assert load(f"folder: /srv\npools: [{{name: a, wipe: {hook}}}]").folder == "/srv"
    assert load("pools: [{name: a, wipe: {http: {url: 'http://h', verify: /ca, files: {a: /a}}}}]").folder is None


def test_an_http_hook_keeps_what_was_written_and_comes_back_the_same() -> None:
    text = """
pools:
- name: a
  provision:
    http:
      url: https://{{ resource.properties.bmc }}/redfish/v1
      method: PATCH
      headers: {X-Auth-Token: "{{ files.token }}"}
      json: {Boot: {Target: Pxe, Tries: [1, null, "{{ attempt }}"]}}
      expect: [200, 202]
      until: {url: "https://{{ resource.properties.bmc }}{{ headers.location | path }}", every: 90s, holds: json.done}
      verify: false
      files: {token: /etc/token}
    timeout: 45m
    attempts: 2
"""
    (hook,) = load(text).stages[StageName.PROVISION]
    assert (hook.driver, hook.timeout, hook.attempts) == ("http", timedelta(minutes=45), 2)
    assert json.loads(json.dumps(hook.settings)) == hook.settings
    again = HookFile.model_validate({"http": hook.settings, "timeout": "45m", "attempts": 2}).hook()
    assert again == hook
    spec = PoolSpec(name="a", stages={StageName.PROVISION: (hook,)})
    assert specs.from_text(json.dumps(specs.to_json(spec))) == spec


def test_an_http_hook_can_be_lease_wide_and_limited_like_any_other() -> None:
    hook = "{http: {url: 'http://h'}, scope: lease, limit: foreman}"
    (found,) = load(f"limits: {{foreman: 2}}\npools: [{{name: a, configure: {hook}}}]").stages[StageName.CONFIGURE]
    assert (found.driver, found.scope, found.limit) == ("http", "lease", "foreman")


def test_an_http_hook_has_sensible_defaults() -> None:
    (get,) = load("pools: [{name: a, wipe: {http: {url: 'http://h'}}}]").stages[StageName.WIPE]
    assert (get.driver, get.settings) == ("http", {"url": "http://h"})
    assert HttpFile.model_validate({"url": "http://h"}).verb == "GET"
    assert HttpFile.model_validate({"url": "http://h", "json": None}).verb == "POST"
    assert HttpFile.model_validate({"url": "http://h", "body": ""}).verb == "POST"


def test_all_mistakes_are_answered_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        config.load_yaml(b"pools:\n- name: a\n  x: 1\n- name: b b\n  wipe: {}\n")
    found = [(fault.path, fault.detail.partition(":")[0]) for fault in caught.value.faults]
    assert found == [("pools[0].x", "line 3"), ("pools[1].name", "line 4"), ("pools[1].wipe[0]", "line 5")]


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


def test_merged_keys_cannot_keep_it_busy_for_ever() -> None:
    levels = "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))
    with pytest.raises(Malformed, match="more than 2000000 values"):
        config.load_yaml(f"a0: &a0 {{x: 1}}\n{levels}pools: []\n".encode())


def test_keys_can_be_merged_otherwise() -> None:
    text = "pools:\n  - &one {name: one, priority: 3}\n  - {<<: *one, name: two}\n"
    assert [spec.priority for spec, _ in config.load_yaml(text.encode()).pools] == [3, 3]


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


REDFISH = "pools:\n- name: a\n  wipe:\n    redfish:\n"

# Likewise, in the settings of a redfish hook: its keys, and the rest below `pools[0].wipe[0].redfish`.
REDFISH_GOOD = {
    "address": "'{{ resource.properties.bmc }}'",
    "user": "root",
    "password": "{file: /etc/bmc}",
    "do": "{power: cycle}",
}
REDFISH_MISTAKES: dict[str, tuple[dict[str, str | None], str, str]] = {
    "no address": ({"address": None}, "address", "missing"),
    "no user": ({"user": None}, "user", "missing"),
    "no password": ({"password": None}, "password", "missing"),
    "nothing to do": ({"do": None}, "do", "missing"),
    "a typo": ({"adress": "h"}, "adress", "unknown_field"),
    "an address with a path": ({"address": "https://h/redfish/v1"}, "address", "address"),
    "an address with a query": ({"address": "h?x"}, "address", "address"),
    "another scheme": ({"address": "ftp://h"}, "address", "template"),
    "an address without a host": ({"address": "''"}, "address", "template"),
    "a user in the address": ({"address": "root@h"}, "address", "template"),
    "a broken template in the address": ({"address": "'{{ resource.'"}, "address", "template"),
    "a template over nothing known": ({"user": "'{{ files.user }}'"}, "user", "template"),
    "a password as it is": ({"password": "hunter2"}, "password", "not_an_object"),
    "a password in two places": ({"password": "{file: /x, env: X}"}, "password", "one_place"),
    "a password nowhere": ({"password": "{}"}, "password", "one_place"),
    "a typo in the password": ({"password": "{fil: /x}"}, "password.fil", "unknown_field"),
    "a path of what people typed": ({"password": "{file: '/x/{{ resource.params.x }}'}"}, "password.file", "template"),
    "a path of the lease": ({"password": "{file: '/x/{{ lease.owner }}'}"}, "password.file", "template"),
    "a variable that is none": ({"password": "{env: 'A B'}"}, "password.env", "string_pattern_mismatch"),
    "a secret of the service": ({"password": "{env: LEASEHOLD_SECRET_KEY}"}, "password.env", "variable"),
    "a secret of Temporal's": ({"password": "{env: TEMPORAL_API_KEY}"}, "password.env", "variable"),
    "no steps": ({"do": "[]"}, "do", "too_short"),
    "a step that is a word": ({"do": "[cycle]"}, "do[0]", "not_an_object"),
    "an unknown step": ({"do": "[{power: off}, {reboot: now}]"}, "do[1].reboot", "unknown_field"),
    "two things in a step": ({"do": "[{power: off, boot: pxe}]"}, "do[0]", "one_action"),
    "nothing in a step": ({"do": "[{}]"}, "do[0]", "one_action"),
    "an unknown switch": ({"do": "[{power: reset}]"}, "do[0].power", "literal_error"),
    "a switch that is true": ({"do": "[{power: true}]"}, "do[0].power", "literal_error"),
    "an unknown device": ({"do": "[{power: off}, {boot: floppy}]"}, "do[1].boot", "literal_error"),
    "an unknown mode": ({"do": "[{boot: pxe, mode: fast}]"}, "do[0].mode", "literal_error"),
    "a mode without a device": ({"do": "[{power: on, mode: uefi}]"}, "do[0]", "mode"),
    "a state that is none": ({"do": "[{wait: booted}]"}, "do[0].wait", "literal_error"),
    "verify that is a number": ({"verify": "1"}, "verify", "verify"),
}


@pytest.mark.parametrize("mistake", REDFISH_MISTAKES)
def test_a_mistake_in_a_redfish_hook_is_answered_with_its_line_key_and_reason(mistake: str) -> None:
    changes, path, code = REDFISH_MISTAKES[mistake]
    keys = {key: value for key, value in {**REDFISH_GOOD, **changes}.items() if value is not None}
    with pytest.raises(Invalid) as caught:
        load(REDFISH + "".join(f"      {key}: {value}\n" for key, value in keys.items()))
    (fault,) = caught.value.faults
    assert (fault.path, fault.code) == (f"pools[0].wipe[0].redfish.{path}", code)
    top = re.split(r"[.\[]", path)[0]
    # What is missing is missed where the hook begins.
    line = 5 + list(keys).index(top) if top in keys else 4
    assert fault.detail.startswith(f"line {line}: "), fault.detail
    assert "hunter2" not in fault.detail


def test_a_redfish_hook_keeps_what_was_written_and_comes_back_the_same() -> None:
    text = """
pools:
- name: a
  wipe:
    redfish:
      address: "{{ resource.properties.bmc }}"
      user: "{{ resource.properties.bmc_user | default('root') }}"
      password: {file: "/etc/leasehold/bmc/{{ resource.pool }}/{{ resource.name }}"}
      system: "1"
      verify: /etc/leasehold/bmc-ca.pem
      do:
      - {boot: pxe, mode: uefi}
      - power: cycle
      - wait: off
    timeout: 45m
    attempts: 2
"""
    (hook,) = load(text).stages[StageName.WIPE]
    assert (hook.driver, hook.timeout, hook.attempts) == ("redfish", timedelta(minutes=45), 2)
    assert hook.settings["do"] == [{"boot": "pxe", "mode": "uefi"}, {"power": "cycle"}, {"wait": "off"}]
    again = HookFile.model_validate({"redfish": hook.settings, "timeout": "45m", "attempts": 2}).hook()
    assert again == hook
    spec = PoolSpec(name="a", stages={StageName.WIPE: (hook,)})
    assert specs.from_text(json.dumps(specs.to_json(spec))) == spec


@pytest.mark.parametrize("settings", ["password: {file: pw}", "password: {env: PW}, verify: ca.pem"])
def test_a_file_of_a_redfish_hook_with_a_relative_path_needs_a_folder(settings: str) -> None:
    hook = f"{{redfish: {{address: h, user: u, do: {{power: on}}, {settings}}}}}"
    with pytest.raises(Invalid) as caught:
        load(f"pools: [{{name: a, wipe: {hook}}}]")
    assert caught.value.faults[0].code == "folder_missing"
    hook = "{redfish: {address: h, user: u, do: {power: on}, password: {env: PW}, verify: false}}"
    assert load(f"pools: [{{name: a, wipe: {hook}}}]").folder is None


def test_the_published_schema_is_that_of_this_version() -> None:
    published = (ROOT / "docs" / "reference" / "pools.schema.json").read_text()
    assert json.loads(published) == config.json_schema()
    assert published == json.dumps(config.json_schema(), indent=2, ensure_ascii=False) + "\n"


EXAMPLES = {
    "ansible": [2],
    "baremetal": [24, 2, 3, 4, 2],
    "commands": [2, 1],
    "cq": [1],
    "dynamic": [0],
    "ec2": [0],
    "foreman": [2],
    "lab": [3],
    "policies": [3, 2, 2, 4, 1, 2],
    "power": [1],
    "selfservice": [4],
}
"""How many resources each pool has."""


def test_every_example_is_known_here() -> None:
    assert {file.parent.name for file in (ROOT / "examples").glob("*/pools.yaml")} == set(EXAMPLES)


@pytest.mark.parametrize(("example", "resources"), EXAMPLES.items())
def test_the_examples_are_good_files(example: str, resources: list[int]) -> None:
    folder = ROOT / "examples" / example
    inventory = config.load_yaml((folder / "pools.yaml").read_bytes(), str(folder))
    assert [len(found) for _, found in inventory.pools] == resources


SHOWN = [
    pytest.param(block, id=f"{document.stem}-{number}")
    for document in sorted((ROOT / "docs").rglob("*.md"))
    for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL))
]


@pytest.mark.parametrize("shown", SHOWN)
def test_what_the_documents_show_is_good(shown: str) -> None:
    # A whole file, or stages of a pool.
    text = shown if "pools:" in shown else "pools:\n- name: a\n" + indent(shown, "  ")
    assert config.load_yaml(text.encode(), "/srv").pools
