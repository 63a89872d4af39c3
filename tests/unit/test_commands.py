"""Commands: which patterns they fit, how names of resources get into them, and how their output travels."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.access import Role
from leasehold.commands import (
    ADMINS_ONLY,
    FRAME_HEAD,
    FRAME_LIMIT,
    KILL_GRACE,
    LONGEST_GRACE,
    SILENCE,
    CommandPolicy,
    CommandRule,
    CommandSpec,
    Frame,
    Stream,
    account_of,
    filled,
    frames,
)

FRAMES = st.builds(
    Frame,
    at_us=st.integers(min_value=0, max_value=2**64 - 1),
    stream=st.integers(min_value=Stream.END, max_value=Stream.SERVICE),
    data=st.binary(max_size=300),
)


def fits(pattern: str, *argv: str) -> bool:
    return CommandRule(run=(pattern,)).fits("joe", CommandSpec(argv=argv))


class TestPatterns:
    """Word by word: no word can be smuggled into another."""

    @pytest.mark.parametrize(
        ("pattern", "argv"),
        [
            ("make", ["make"]),
            ("make *", ["make"]),
            ("make *", ["make", "test", "-j", "a b"]),
            ("make te?t", ["make", "test"]),
            ("make [a-z]*", ["make", "test"]),
            ("* test", ["make", "test"]),
            ("*", ["anything", "at", "all"]),
            ("run 'a b'", ["run", "a b"]),
            ("/srv/*/deploy *", ["/srv/a/deploy", "../x"]),
            ("deploy * now", ["deploy", "x; rm -r /", "now"]),
        ],
    )
    def test_what_fits(self, pattern: str, argv: list[str]) -> None:
        assert fits(pattern, *argv)

    @pytest.mark.parametrize(
        ("pattern", "argv"),
        [
            ("make", ["make", "test"]),
            ("make", ["Make"]),
            ("make", ["/tmp/make"]),
            ("make *", ["make test"]),
            ("make *", ["makes", "x"]),
            ("make * -n", ["make", "a", "b", "-n"]),
            ("make test*", ["make", "test", "all"]),
            ("run a b", ["run", "a b"]),
            ("/srv/*", ["/srv/a/b"]),
            ("/srv/*/x", ["/srv/../x"]),
            ("./deploy.sh", ["./deploy.sh"]),
            ("scripts/*.sh", ["scripts/a.sh"]),
        ],
    )
    def test_what_does_not(self, pattern: str, argv: list[str]) -> None:
        assert not fits(pattern, *argv)

    @pytest.mark.parametrize(
        ("folder", "may"),
        [
            ("/srv/builds/a", True),
            ("/srv/builds/a/b", False),
            ("/srv/builds/..", False),
            ("/tmp/mine", False),
            (None, False),
        ],
    )
    def test_a_program_of_the_folder_runs_where_the_folder_is_one_of_them(self, folder: str | None, may: bool) -> None:
        rule = CommandRule(run=("./deploy.sh",), folders=("/srv/builds/*",))
        assert rule.fits("joe", CommandSpec(argv=("./deploy.sh",), folder=folder)) is may

    def test_owners_are_told_apart_by_case_and_whole(self) -> None:
        rule, command = CommandRule(users=("ci-*",)), CommandSpec(argv=("make",))
        assert [rule.fits(owner, command) for owner in ("ci-7", "CI-7", "xci-7", "ci")] == [True, False, False, False]

    def test_who_may_more_may_this_too(self) -> None:
        rule = CommandRule(role=Role.OPERATOR)
        allowed = {role for role in Role if rule.fits("joe", CommandSpec(argv=("make",), role=role))}
        assert allowed == {Role.OPERATOR, Role.ADMIN}

    def test_one_of_several_is_enough(self) -> None:
        rule = CommandRule(run=("make *", "ninja"))
        assert rule.fits("joe", CommandSpec(argv=("ninja",)))
        assert not rule.fits("joe", CommandSpec(argv=("ninja", "-v")))

    def test_a_line_for_a_shell_is_none_of_them_unless_shells_are(self) -> None:
        line = CommandSpec(argv=("make test",), shell=True)
        assert CommandRule().fits("joe", line)
        assert not CommandRule(run=("*",)).fits("joe", line)
        assert CommandRule(run=("make *",), shell=True).fits("joe", line)

    @pytest.mark.parametrize(
        ("rule", "variables", "fits"),
        [
            (CommandRule(), ("LD_PRELOAD",), True),
            (CommandRule(run=("*",)), (), True),
            (CommandRule(run=("*",)), ("CI",), False),
            (CommandRule(run=("*",), env=("CI_*",)), ("CI_JOB", "CI_X"), True),
            (CommandRule(run=("*",), env=("CI_*",)), ("CI_JOB", "LD_PRELOAD"), False),
            (CommandRule(env=()), ("CI",), False),
            (CommandRule(env=()), (), True),
        ],
    )
    def test_which_variables_may_be_set(self, rule: CommandRule, variables: tuple[str, ...], fits: bool) -> None:
        assert rule.fits("joe", CommandSpec(argv=("true",), variables=variables)) is fits


class TestPolicies:
    TRUE = CommandSpec(argv=("true",))

    def test_the_first_rule_that_fits_says_as_whom(self) -> None:
        first, second = CommandRule(users=("ci-*",), account="ci"), CommandRule(account="u-{owner}")
        policy = CommandPolicy(rules=(first, second))
        assert policy.rule_for("ci-1", self.TRUE) is first
        assert policy.rule_for("joe", self.TRUE) is second
        assert [account_of(rule, "joe") for rule in (first, second, CommandRule())] == ["ci", "u-joe", None]

    def test_without_one_nothing_runs(self) -> None:
        operators, admins = (CommandSpec(argv=("true",), role=role) for role in (Role.OPERATOR, Role.ADMIN))
        said = [CommandPolicy().rule_for("joe", command) is not None for command in (self.TRUE, operators, admins)]
        assert said == [False, True, True]
        unsaid = [ADMINS_ONLY.rule_for("joe", command) is not None for command in (self.TRUE, operators, admins)]
        assert unsaid == [False, False, True]


class TestLines:
    def test_are_what_people_would_type(self) -> None:
        assert CommandSpec(argv=("make", "a b", "$x")).line == "make 'a b' '$x'"
        assert CommandSpec(argv=("a | b",), shell=True).line == "a | b"


class TestNamesOfResources:
    POOLS: ClassVar[dict[str, list[str]]] = {"board": ["b1", "b2"], "licence": ["l1"], "x.y-z_0": ["q"]}

    @pytest.mark.parametrize(
        ("argument", "becomes"),
        [
            ("@RESOURCE", "b1,b2"),
            ("-r@RESOURCE,x", "-rb1,b2,x"),
            ("@RESOURCE:licence", "l1"),
            ("@RESOURCE:board", "b1,b2"),
            ("@RESOURCE:x.y-z_0", "q"),
            ("@RESOURCE:8080", "b1,b2:8080"),
            ("@RESOURCE:", "b1,b2:"),
            ("@RESOURCE:licence2", "b1,b2:licence2"),
            ("@RESOURCE@RESOURCE", "b1,b2b1,b2"),
            ("@resource RESOURCE", "@resource RESOURCE"),
        ],
    )
    def test_take_the_place_of_their_mark(self, argument: str, becomes: str) -> None:
        assert filled(["run", argument], ["b1", "b2"], self.POOLS) == ("run", becomes)

    def test_a_name_that_looks_like_the_mark_is_not_filled_again(self) -> None:
        assert filled(["@RESOURCE"], ["@RESOURCE:licence"], self.POOLS) == ("@RESOURCE:licence",)

    def test_they_stay_within_their_argument(self) -> None:
        assert filled(["ssh", "@RESOURCE", "x"], ["a b", "$(c)"], {}) == ("ssh", "a b,$(c)", "x")


class TestFrames:
    def test_the_layout(self) -> None:
        packed = Frame(at_us=1, stream=Stream.STDERR, data=b"abc").packed()
        assert packed == b"\0\0\0\0\0\0\0\1\2\0\0\0\3abc"

    @given(st.lists(FRAMES, max_size=5))
    def test_come_back_as_they_were_packed(self, sent: list[Frame]) -> None:
        packed = b"".join(one.packed() for one in sent)
        assert frames(packed) == sent
        assert len(packed) == sum(one.size for one in sent)

    @given(st.lists(FRAMES, min_size=1, max_size=4), st.data())
    def test_one_that_is_not_whole_is_left_out(self, sent: list[Frame], data: st.DataObject) -> None:
        packed = b"".join(one.packed() for one in sent)
        missing = data.draw(st.integers(min_value=1, max_value=sent[-1].size))
        assert frames(packed[:-missing]) == sent[:-1]

    @pytest.mark.parametrize(
        "packed",
        [
            bytes(8) + b"\x04" + bytes(4),
            bytes(8) + b"\x01" + (FRAME_LIMIT + 1).to_bytes(4, "big"),
        ],
    )
    def test_what_is_none_is_refused(self, packed: bytes) -> None:
        good = Frame(at_us=1, stream=Stream.STDOUT, data=b"x").packed()
        with pytest.raises(ValueError, match=f"no frame begins at byte {FRAME_HEAD + 1}"):
            frames(good + packed)


def test_a_command_is_dead_before_anybody_counts_on_it() -> None:
    assert timedelta(0) < KILL_GRACE <= LONGEST_GRACE <= SILENCE
