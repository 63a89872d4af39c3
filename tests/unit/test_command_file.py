"""What a pools file says of commands: whose, as whom, where, within which bounds; and each kind of mistake."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from leasehold import config
from leasehold.access import Role
from leasehold.commands import OUTPUT_LIMIT, CommandPolicy, CommandRule, account_of
from leasehold.errors import Invalid
from leasehold.model import HolderMay, PoolSpec
from leasehold.store import specs

WHOLE = """
pools:
- name: r640
  commands:
    runner: build01
    labels: [x86_64, metal]
    allow:
    - {users: ["ci-*", bot], role: user, run: ["make *", "./t.sh 'a b'"], shell: true, env: ["CI_*"], as: ci}
    - {role: operator, as: "{owner}"}
    - {}
    output: 16MiB
    grace: 5s
    timeout: 6h
  policy: {holder_may: [offline]}
"""


def load(text: str) -> PoolSpec:
    """The only pool of a file."""
    ((pool, _),) = config.load_yaml(text.encode()).pools
    return pool


def commands(**said: Any) -> CommandPolicy:
    """What a pool's `commands` mean."""
    pool = {"name": "a", "commands": said}
    found = load(json.dumps({"pools": [pool]})).commands
    assert found is not None
    return found


def rule(**said: Any) -> CommandRule:
    """What the only rule of a pool means."""
    (found,) = commands(allow=[said]).rules
    return found


def refused(**said: Any) -> tuple[str, str, str]:
    """The place below `commands`, the code and the words with which a pool's are refused."""
    with pytest.raises(Invalid) as caught:
        commands(**said)
    fault = caught.value.faults[0]
    return fault.path.removeprefix("pools[0].commands"), fault.code, fault.detail


def test_all_that_a_pool_can_say() -> None:
    pool = load(WHOLE)
    assert pool.commands == CommandPolicy(
        runner="build01",
        labels=("x86_64", "metal"),
        rules=(
            CommandRule(
                users=("ci-*", "bot"),
                role=Role.USER,
                run=("make *", "./t.sh 'a b'"),
                shell=True,
                env=("CI_*",),
                account="ci",
            ),
            CommandRule(role=Role.OPERATOR, account="{owner}"),
            CommandRule(),
        ),
        output=16 * 1024 * 1024,
        grace=timedelta(seconds=5),
        timeout=timedelta(hours=6),
    )
    assert pool.policy.holder_may == (HolderMay.OFFLINE,)


def test_it_is_kept_as_it_was_said() -> None:
    pool = load(WHOLE)
    assert specs.from_text(json.dumps(specs.to_json(pool))) == pool


def test_a_pool_that_says_nothing_has_no_rules_of_its_own() -> None:
    pool = load("pools: [{name: a}]")
    assert (pool.commands, pool.policy.holder_may) == (None, ())


def test_a_pool_that_says_nothing_more_lets_operators_run_anything() -> None:
    found = commands()
    assert found == CommandPolicy(rules=(CommandRule(role=Role.OPERATOR),))
    assert (found.output, found.grace, found.timeout) == (OUTPUT_LIMIT, timedelta(seconds=10), None)


def test_an_empty_list_lets_nobody_run_anything() -> None:
    assert commands(allow=[]).rules == ()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1KiB", 1024),
        ("64MiB", 64 * 1024**2),
        ("100GiB", 100 * 1024**3),
        ("999999KiB", 999_999 * 1024),
        (4096, 4096),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert commands(output=text).output == size


@pytest.mark.parametrize(
    "size",
    ["", "64", "64MB", "64 MiB", "0MiB", "-1MiB", "1.5GiB", "101GiB", "1000000KiB", "1MiB\n", 0, -1, True, 2**60],
)
def test_what_is_no_size(size: str | int) -> None:
    path, code, detail = refused(output=size)
    assert (path, code) == (".output", "size")
    assert "must be a size like 64MiB, at most 100GiB" in detail


@pytest.mark.parametrize("pattern", ["make", "make *", "*", "./run 'a b' [0-9]*", "make test ?"])
def test_patterns(pattern: str) -> None:
    assert rule(run=[pattern]).run == (pattern,)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("make 'test", "is no line of words: No closing quotation"),
        ("make \\", "is no line of words: No escaped character"),
        ("", "has no word"),
        ("  ", "has no word"),
        ("a\0b", "NUL"),
        ("x" * 1025, "1024"),
    ],
)
def test_what_is_no_pattern(pattern: str, why: str) -> None:
    path, _, detail = refused(allow=[{"run": [pattern]}])
    assert path == ".allow[0].run[0]"
    assert why in detail


@pytest.mark.parametrize("account", ["ci", "_apt", "a-b.c_d", "x" * 32, "samba$", "{owner}"])
def test_accounts(account: str) -> None:
    assert rule(**{"as": account}).account == account


@pytest.mark.parametrize(
    "account", ["", "CI", "1ci", "-ci", "a b", "a/b", "root:x", "x" * 33, "{owner}x", "{user}", "ci\n", 0, True]
)
def test_what_is_no_account(account: Any) -> None:
    path, code, _ = refused(allow=[{"as": account}])
    assert path == ".allow[0].as"
    assert code in {"string_pattern_mismatch", "string_type"}


def test_as_whom_a_command_runs() -> None:
    assert account_of(rule(), "joe") is None
    assert account_of(rule(**{"as": "ci"}), "joe") == "ci"
    assert account_of(rule(**{"as": "{owner}"}), "joe") == "joe"


def test_the_grace_has_a_bound_that_the_sweep_counts_on() -> None:
    assert commands(grace="30s").grace == timedelta(seconds=30)
    path, code, _ = refused(grace="31s")
    assert (path, code) == (".grace", "less_than_equal")


@pytest.mark.parametrize(
    ("said", "path", "code"),
    [
        ({"alow": []}, ".alow", "unknown_field"),
        ({"allow": [{"account": "ci"}]}, ".allow[0].account", "unknown_field"),
        ({"allow": [{"user": ["joe"]}]}, ".allow[0].user", "unknown_field"),
        ({"allow": [{"users": []}]}, ".allow[0].users", "too_short"),
        ({"allow": [{"users": [""]}]}, ".allow[0].users[0]", "string_too_short"),
        ({"allow": [{"role": "runner"}]}, ".allow[0].role", "literal_error"),
        ({"allow": [{"role": "viewer"}]}, ".allow[0].role", "literal_error"),
        ({"allow": [{"shell": "yes"}]}, ".allow[0].shell", "bool_type"),
        ({"allow": [{"run": "make *"}]}, ".allow[0].run", "not_a_list"),
        ({"allow": [{}] * 101}, ".allow", "too_long"),
        ({"runner": "a b"}, ".runner", "string_pattern_mismatch"),
        ({"labels": "x86_64"}, ".labels", "not_a_list"),
        ({"timeout": "soon"}, ".timeout", "duration"),
        ({"timeout": "-1h"}, ".timeout", "duration"),
        ({"grace": 10.5}, ".grace", "duration"),
    ],
)
def test_a_mistake_is_answered_with_its_place_and_reason(said: dict[str, Any], path: str, code: str) -> None:
    assert refused(**said)[:2] == (path, code)
