"""Templates of a pools file: what they can say, that they leave nothing but text behind, and that they always end."""

from __future__ import annotations

import json
import resource
import time
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold import templates
from leasehold.templates import BadTemplate, NotRendered

NAMES = frozenset({"a", "b", "json"})
DATA: dict[str, Any] = {
    "a": {"text": "x y", "number": 3, "list": ["p", "q"], "none": None, "yes": True, "items": "mine", "class-id": "c"},
    "b": [{"name": "one", "role": None}, {"name": "two", "role": "lead"}],
    "json": templates.missing("the answer is no JSON"),
}


def text(source: str, **values: Any) -> str:
    return templates.text_template(source, NAMES).render({**DATA, **values})


def value(source: str, **values: Any) -> Any:
    return templates.expression(source, NAMES).value({**DATA, **values})


def url(source: str, **values: Any) -> str:
    return templates.url_template(source, NAMES).render({**DATA, **values})


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        ("plain\n", "plain\n"),
        ("{{ a.number }}\n\n", "3\n\n"),
        ("{{ a.text }}-{{ a['text'] }}-{{ a.number + 1 }}", "x y-x y-4"),
        ("{{ a.items }} {{ a['class-id'] }} {{ a.list[1] }} {{ a.list[-1] }} {{ a.text[2:] }}", "mine c q q y"),
        ("{{ a.yes }} {{ a.yes and not a.yes }} {{ 1 < 2 }}", "true false true"),
        ("{{ a.nope | default('-') }} {{ a.none | default('-', true) }} {{ a.nope.deeper is defined }}", "- - false"),
        ("{{ a.list | join(',') }} {{ b | map(attribute='name') | join('+') }} {{ b | length }}", "p,q one+two 2"),
        ("{{ b | selectattr('role', 'eq', 'lead') | map(attribute='name') | first }}", "two"),
        ("{{ b | rejectattr('role') | list | tojson }}", '[{"name": "one", "role": null}]'),
        ("{{ a.list | tojson }} {{ a.none | tojson }} {{ 'ä\"</x>' | tojson }}", '["p", "q"] null "\\u00e4\\"</x>"'),
        ("{% if a.number > 2 %}many{% elif a.number %}some{% else %}none{% endif %}", "many"),
        ("{% for k in a.list %}{{ loop.index }}{{ k }}{{ ',' if not loop.last }}{% endfor %}", "1p,2q"),
        ("{% for k, v in {'x': 1} | items %}{{ k }}={{ v }}{% else %}nothing{% endfor %}", "x=1"),
        ("{{ a.text ~ a.number ~ a.yes }} {{ 'x' in a.text }} {{ (a.list + ['r']) | length }}", "x y3true true 3"),
        ("{{ ' Ab ' | trim | lower }}{{ 'b' | upper }}{{ 'aba' | replace('a', 'cc') }}", "abBccbcc"),
        ("{{ 'user:ä' | b64encode }} {{ 'dXNlcjrDpA==' | b64decode }}", "dXNlcjrDpA== user:ä"),
        ("{{ ('{\"id\": 5}' | from_json).id }} {{ 7 // 2 }} {{ 7 % 4 }} {{ 1 / 2 }} {{ -3 | abs }}", "5 3 3 0.5 3"),
        ("{{ a.text | urlencode }} {{ {'x y': 'ä&', 'n': 1} | urlencode }}", "x%20y x%20y=%C3%A4%26&n=1"),
        ("{# a note #}{% raw %}{{ raw }}{% endraw %}", "{{ raw }}"),
        ("<b>&'\" {{ '<i>&' }}", "<b>&'\" <i>&"),
    ],
)
def test_what_a_template_makes(source: str, rendered: str) -> None:
    assert text(source) == rendered


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{ a.text", "unexpected end of template"),
        ("{{ a.text }", "unexpected '}'"),
        ("one\ntwo {{ }}", "line 2 of the template: Expected an expression"),
        ("{% if a %}", "end of template"),
        ("{% nonsense %}", "unknown tag 'nonsense'"),
        ("{{ c }}", "there is no 'c' here, only a, b, json"),
        ("{{ a | nonsense }}", "there is no filter 'nonsense'"),
        ("{{ a is nonsense }}", "there is no test 'nonsense'"),
        ("{{ a if true else b | nonsense }}", "there is no filter 'nonsense'"),
        ("{{ " + "(" * 5000 + " }}", "nested too deeply"),
        ("{{ a" + ".b" * 5000 + " }}", "nested too deeply"),
        ("{{ " + "not " * 5000 + "a }}", "nested too deeply"),
        ("{{ " + "9" * 5000 + " }}", "cannot be read"),
        ("{% for x in b %}" * 60 + "{% endfor %}" * 60, "nested too deeply"),
        ("x" * 70_000, "at most 65536 characters"),
    ],
)
def test_what_is_no_template_is_answered_with_the_reason(source: str, why: str) -> None:
    with pytest.raises(BadTemplate, match=why):
        text(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ a() }}",
        "{{ a.text.upper() }}",
        "{{ range(10**9) }}",
        "{{ range(1000000000) }}",
        "{{ a.text.format(1) }}",
        "{{ lipsum() }}",
        "{{ cycler }}",
        "{{ namespace(x=1) }}",
        "{{ 10 ** 10 ** 10 }}",
        "{% set x = 'a' %}",
        "{% set x %}a{% endset %}",
        "{% macro m() %}{% endmacro %}",
        "{% call a() %}{% endcall %}",
        "{% filter upper %}x{% endfilter %}",
        "{% with x = 1 %}{% endwith %}",
        "{% block x %}{% endblock %}",
        "{% extends 'x' %}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{% from '/etc/passwd' import x %}",
        "{% for x in a recursive %}{{ loop(x) }}{% endfor %}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x' | indent(1000000000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ 'x' | wordwrap(1) }}",
        "{{ 5 | round(-1000000000) }}",
        "{{ b | batch(1000000000) }}",
        "{{ b | slice(1000000000) }}",
        "{{ b | sum(start=[]) }}",
        "{{ a | attr('__class__') }}",
        "{{ 'x' | safe }}",
        "{{ 'x' | xmlattr }}",
        "{{ a | pprint }}",
        "{{ b | random }}",
        "{{ b | join(*a.list) }}",
        "{{ b | join(**a) }}",
        "{{ a is callable }}",
        "{{ a is sameas b }}",
        "{{ 'upper' is filter }}",
        "{{ caller }}",
        "{{ varargs }}",
    ],
)
def test_what_could_run_away_or_look_around_is_no_part_of_the_language(source: str) -> None:
    with pytest.raises(BadTemplate):
        text(source)


@pytest.mark.parametrize(
    "name", ["__class__", "__init__", "__globals__", "__mro__", "gi_frame", "upper", "keys", "real"]
)
@pytest.mark.parametrize("of", ["a", "b", "a.text", "a.number", "a.yes", "a.none", "(1.5)", "('x' | trim)", "self"])
def test_objects_have_no_attributes(of: str, name: str) -> None:
    for source in (
        f"{of}.{name}",
        f"{of}['{name}']",
        f"({of})[a.text ~ '']",
        f"[{of}] | map(attribute='{name}') | first",
    ):
        with pytest.raises(NotRendered):
            text(f"{{{{ {source} }}}}")
    assert text(f"{{{{ {of}.{name} is defined }}}}") == "false"


def test_nothing_of_a_loop_can_be_called_or_looked_into() -> None:
    for name in ("cycle", "changed", "previtem", "__class__", "_iterator", "_iterable"):
        with pytest.raises(NotRendered):
            text("{% for x in a.list %}{{ loop." + name + " }}{% endfor %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 1000000000 }}",
        "{{ a.text * a.number }}",
        "{{ a.list * 1000000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ a.text % 1 }}",
        "{{ true * 5 }}",
        "{{ 1 - none }}",
        "{{ a.number * 1" + "0" * 80 + " * 1" + "0" * 80 + " }}",
    ],
)
def test_arithmetic_is_for_numbers_of_a_reasonable_size(source: str) -> None:
    with pytest.raises(NotRendered):
        text(source)


LONG = "x" * 60_000
MANY = ["x"] * 3000


@pytest.mark.parametrize(
    "source",
    [
        "{% for x in b %}{% for y in b %}{% for z in b %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for x in b %}{{ a }}{% endfor %}",
        "{% for x in b %}{% if a | upper == 'x' %}{% endif %}{% endfor %}",
        "{% for x in b %}{{ b | tojson }}{% endfor %}",
        "{% for x in b %}{% for y in b | map('upper') %}{{ y }}{% endfor %}{% endfor %}",
        "{{ a | replace('x', a) }}",
        "{{ a | replace('', a) }}",
        "{{ b | join(a) }}",
        "{{ b | map('replace', 'x', a) | join }}",
        "{{ [" + ",".join(["a ~ a"] * 50) + "] | join }}",
        "{{ (" + " ~ ".join(["a"] * 90) + ") | length }}",
        "{{ " + " + ".join(["a"] * 48) + " }}",
    ],
)
def test_a_hostile_rendering_ends_soon_and_takes_little_memory(source: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    with pytest.raises(NotRendered, match="too much"):
        text(source, a=LONG, b=MANY)
    assert time.process_time() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_what_is_rendered_together_is_bounded_together() -> None:
    source = "{{ a }}" * 10
    for _ in range(20):
        text(source, a=LONG)
    with templates.metered():
        for _ in range(6):
            text(source, a=LONG)
        with pytest.raises(NotRendered, match="too much"):
            text(source, a=LONG)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{ a.secret_name }}", "'secret_name' is missing"),
        ("{{ a['secret_name'] }}", "'secret_name' is missing"),
        ("{{ json.x }}", "the answer is no JSON"),
        ("{{ a[a.password] }}", "a key or element is missing"),
        ("{{ b[a.password] }}", "a key or element is missing"),
        ("{{ b | map(attribute=a.password) | join }}", "a key or element is missing"),
        ("{{ b | map(a.password) | list }}", "it fails"),
        ("{{ b | selectattr('name', a.password) | list }}", "it fails"),
        ("{{ a.password + 1 }}", "`\\+` needs numbers"),
        ("{{ a.password < 1 }}", "values are of types that do not go together"),
        ("{{ a.password | from_json }}", "no JSON"),
        ("{{ a.password | b64decode }}", "no text in base64"),
        ("{{ a.none }}", "a value is null"),
        ("{{ a.list }}", "a list or an object"),
        ("{{ 1 / 0 }}", "it fails"),
        ("{{ a.surrogate | urlencode }}", "it fails"),
    ],
)
def test_an_error_quotes_no_value(source: str, why: str) -> None:
    hostile = {"password": "hunter2", "none": None, "list": ["hunter2"], "surrogate": "hunter2\ud800"}
    with pytest.raises(NotRendered, match=why) as caught:
        text(source, a=hostile, b=[{"name": "hunter2"}])
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


class TestExpressions:
    @pytest.mark.parametrize(
        ("source", "found"),
        [("a.number == 3 and 'p' in a.list", True), ("a.list", ["p", "q"]), ("json is defined", False), ("none", None)],
    )
    def test_it_has_a_value(self, source: str, found: object) -> None:
        assert value(source) == found

    @pytest.mark.parametrize("source", ["a.number", "a.text", "a.list", "none", "a.nope", "json", "0", "''"])
    def test_what_must_hold_is_true_or_false(self, source: str) -> None:
        with pytest.raises(NotRendered):
            templates.expression(source, NAMES).holds(DATA)

    @pytest.mark.parametrize(
        ("source", "why"),
        [
            ("{{ a }}", "without {{ }}"),
            ("a b", "more after the expression"),
            ("a ==", "Expected an expression|unexpected"),
            ("", "Expected an expression|unexpected"),
            ("a()", "no calls"),
            ("c", "no 'c'"),
            ("a = 1", "more after the expression"),
        ],
    )
    def test_what_is_none_is_answered_with_the_reason(self, source: str, why: str) -> None:
        with pytest.raises(BadTemplate, match=why):
            templates.expression(source, NAMES)


class TestUrls:
    @pytest.mark.parametrize(
        ("source", "rendered"),
        [
            (" http://h\n", "http://h"),
            ("https://{{ a.host }}:{{ a.port }}/x", "https://bmc-1.lab:8443/x"),
            ("https://{{ a.six }}/x", "https://[fe80::1]:443/x"),
            ("http://h/{{ a.typed }}", "http://h/a%2Fb%3Fc%23d%20%26"),
            ("http://h/p-{{ a.port }}.{{ a.host }}/x", "http://h/p-8443.bmc-1.lab/x"),
            ("http://h/x?q={{ a.typed }}&r={{ a.empty }}", "http://h/x?q=a%2Fb%3Fc%23d%20%26&r="),
            ("http://h?{{ a.query | urlencode }}", "http://h?x%20y=%26&n=1"),
            ("http://h/{{ a.typed | urlencode }}", "http://h/a%2Fb%3Fc%23d%20%26"),
            ("http://h{{ a.location | path }}/more", "http://h/redfish/v1/Tasks/9%20b/more"),
            ("http://h/v1/{{ a.deep | path }}?x={{ a.port }}", "http://h/v1/Systems/1/Reset?x=8443"),
            ("http://h{{ a.asked | path }}&x={{ a.typed }}", "http://h/tasks?id=1&x=a%2Fb%3Fc%23d%20%26"),
            ("http://h{{ a.elsewhere | path }}", "http://h/x?y=1"),
            ("http://h/x?to={{ a.asked | path }}", "http://h/x?to=%2Ftasks%3Fid%3D1"),
            ("http://h/{{ 'on' if a.port else 'off' }}", "http://h/on"),
        ],
    )
    def test_every_value_stays_in_its_place(self, source: str, rendered: str) -> None:
        values = {
            "host": "bmc-1.lab",
            "port": 8443,
            "six": "[fe80::1]:443",
            "typed": "a/b?c#d &",
            "empty": "",
            "query": {"x y": "&", "n": 1},
            "location": "/redfish/v1/Tasks/9 b",
            "deep": "Systems/1/Reset",
            "asked": "/tasks?id=1#frag",
            "elsewhere": "https://user:pw@evil.example:8/x?y=1#z",
        }
        assert url(source, a=values) == rendered

    @pytest.mark.parametrize(
        "source",
        [
            "",
            "h/x",
            "ftp://h/",
            "HTTP://h/",
            "//h/x",
            "{{ a.url }}",
            "{{ a.scheme }}://h/",
            "http{{ a.s }}://h/",
            "http:{{ a.rest }}",
            "http://",
            "http:///x",
            "http://?x",
            "http://u:p@h/",
            "http://{{ a.user }}@h/",
            "http://h/ x",
            "http://h/x\ny",
            "http://h\\x",
            "http://h/#x",
            "http://h/{% if a %}x{% endif %}",
            "http://h/{{ a() }}",
            "http://h/{{ c }}",
            "http://h/{{",
        ],
    )
    def test_what_can_be_no_url_is_refused_beforehand(self, source: str) -> None:
        with pytest.raises(BadTemplate):
            templates.url_template(source, NAMES)

    @given(st.text(max_size=20) | st.text(alphabet="./\\%2ef;?#@:&= \r\n", max_size=12))
    def test_whatever_people_type_names_one_segment_or_nothing(self, typed: str) -> None:
        try:
            rendered = url("http://h/hosts/{{ a }}/power?who={{ a }}&n=1", a=typed)
        except NotRendered:
            return
        parts = urlsplit(rendered)
        assert (parts.scheme, parts.netloc, parts.fragment) == ("http", "h", "")
        assert [unquote(part) for part in parts.path.split("/")] == ["", "hosts", typed, "power"]
        assert [unquote(part) for part in parts.query.split("&")] == [f"who={typed}", "n=1"]
        assert typed not in ("", ".", "..")

    @given(st.text(max_size=20) | st.text(alphabet="./\\%2ef;?#@:&=[]x \r\n", max_size=12))
    def test_whatever_is_said_to_be_a_path_stays_on_the_server(self, typed: str) -> None:
        try:
            rendered = url("http://h{{ a | path }}", a=typed)
        except NotRendered:
            return
        parts = urlsplit(rendered)
        assert (parts.scheme, parts.netloc, parts.fragment) == ("http", "h", "")
        assert ".." not in unquote(parts.path).split("/")

    @given(st.text(max_size=20) | st.text(alphabet="./\\%2ef;?#@:&=[]x \r\n", max_size=12))
    def test_whatever_is_typed_for_a_host_is_a_host_or_nothing(self, typed: str) -> None:
        try:
            rendered = url("http://{{ a }}.lab/x", a=typed)
        except NotRendered:
            return
        assert rendered == f"http://{typed}.lab/x"
        assert not set(typed) & set("/\\?#@% \r\n")


@given(st.text(max_size=60) | st.text(alphabet="{}%# ab.|()[]'\"-+*~0123=,", max_size=40))
def test_any_text_is_a_template_or_an_error_of_ours(source: str) -> None:
    for compile in (templates.text_template, templates.expression, templates.url_template):
        try:
            found = compile(source, NAMES)
            found.value(DATA) if isinstance(found, templates.Expression) else found.render(DATA)
        except (BadTemplate, NotRendered):
            pass


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=8))
def test_tojson_writes_any_value_as_it_is(data: Any) -> None:
    if "nan" in repr(data) or "inf" in repr(data):
        return
    assert json.loads(text("{{ a | tojson }}", a=data)) == data
