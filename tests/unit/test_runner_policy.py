"""What a runner runs at all, by its policy file."""

from __future__ import annotations

from dataclasses import replace

import pytest

from leasehold.commands import Begun
from leasehold.errors import Invalid, Malformed
from leasehold.runner_file import load_policy
from leasehold.runner_policy import RunnerPolicy

BEGUN = Begun(
    lease="a",
    number=1,
    owner="joe",
    pool="r640",
    argv=("make", "test"),
    shell=False,
    env={},
    folder=None,
    account=None,
    timeout_s=None,
    grace_s=10,
    output_limit=1000,
)


def test_without_accounts_it_runs_as_itself_alone() -> None:
    policy = RunnerPolicy()
    assert policy.refusal(BEGUN, "ci") is None
    assert policy.refusal(replace(BEGUN, account="ci"), "ci") is None
    assert policy.refusal(replace(BEGUN, account="joe"), "ci") == "this runner runs no commands as joe"


def test_roots_runner_runs_as_whom_the_pools_say_but_nobody_becomes_root_by_it() -> None:
    policy = RunnerPolicy()
    # Whoever started the runner as root decided that; a rule like `as: "{owner}"` did not.
    assert policy.refusal(BEGUN, "root") is None
    assert policy.refusal(replace(BEGUN, account="joe"), "root") is None
    assert policy.refusal(replace(BEGUN, account="root"), "root") == "this runner runs no commands as root"


def test_what_it_runs_cannot_be_made_another_by_its_environment() -> None:
    policy = RunnerPolicy(run=("make *",))
    assert policy.refusal(replace(BEGUN, env={"PATH": "/tmp/evil", "DCI_QUEUE": "a"}), "ci") is None, "the service's"
    given = replace(BEGUN, env={"PATH": "/tmp/evil"}, given=("PATH",))
    assert policy.refusal(given, "ci") == "this runner does not run such commands"
    assert RunnerPolicy(run=("make *",), env=("PATH",)).refusal(given, "ci") is None


def test_with_accounts_these_alone_count() -> None:
    policy = RunnerPolicy(accounts=("ci",))
    assert policy.refusal(BEGUN, "root") == "this runner runs no commands as root"
    assert policy.refusal(replace(BEGUN, account="ci"), "root") is None
    assert RunnerPolicy(accounts=("root",)).refusal(replace(BEGUN, account="root"), "root") is None


@pytest.mark.parametrize(
    ("policy", "refusal"),
    [
        (RunnerPolicy(pools=("r6*",)), None),
        (RunnerPolicy(pools=("vm",)), "this runner runs no commands of pool r640"),
        (RunnerPolicy(owners=("ann", "j*")), None),
        (RunnerPolicy(owners=("ann",)), "this runner runs no commands of joe"),
        (RunnerPolicy(run=("make *",)), None),
        (RunnerPolicy(run=("make", "ninja *")), "this runner does not run such commands"),
    ],
)
def test_whose_and_which_commands(policy: RunnerPolicy, refusal: str | None) -> None:
    assert policy.refusal(BEGUN, "ci") == refusal


def test_shell_lines_are_none_of_the_patterns() -> None:
    shell = replace(BEGUN, argv=("make test",), shell=True)
    assert RunnerPolicy().refusal(shell, "ci") is None
    assert RunnerPolicy(run=("*",)).refusal(shell, "ci") is not None
    assert RunnerPolicy(run=("*",), shell=True).refusal(shell, "ci") is None


def test_a_file_says_it() -> None:
    text = b"""
accounts: [ci, joe]
pools: [r640, "vm*"]
owners: ["ci-*"]
run: ["make *"]
"""
    assert load_policy(text) == RunnerPolicy(
        accounts=("ci", "joe"), pools=("r640", "vm*"), owners=("ci-*",), run=("make *",)
    )
    assert load_policy(b"") == load_policy(b"{}") == RunnerPolicy()


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("accounts: [ci]\naccount: ci\n", "line 2: account: there is no such field"),
        ("\npools:\n  - r640\n  - 7\n", "line 4: pools[1]: Input should be a valid string"),
        ('run: ["make \'x"]\n', "line 1: run[0]: is no line of words: No closing quotation"),
        ("run: ['']", "line 1: run[0]: has no word"),
        ("accounts: []", "line 1: accounts: List should have at least 1 item"),
        ("shell: 1", "line 1: shell: Input should be a valid boolean"),
        ("[ci]", "line 1: must be an object"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(text: str, detail: str) -> None:
    with pytest.raises(Invalid) as error:
        load_policy(text.encode())
    assert error.value.detail.startswith(detail)


def test_what_is_no_yaml_is_said_too() -> None:
    with pytest.raises(Malformed, match="line 2"):
        load_policy(b"accounts: [ci\npools: x")
