"""Templates that would fill the memory are refused, at once."""

from __future__ import annotations

import pytest

from flowbinding_api.templates import (
    MAX_SIZE,
    MAX_TEMPLATE,
    checked_expression,
    checked_leaves,
    checked_template,
    environment,
)
from flowbinding_worker.payload.render import NativeTemplate, TextTemplate, single_expression
from flowbinding_worker.ports import Failure, ProcessingError

TEXT = "x" * 100_000

BOMBS = {
    "repeated text": '{{ "x" * 10**8 }}',
    "repeated text, reversed": '{{ 10**8 * "x" }}',
    "repeated list": "{{ [text] * 10**8 }}",
    "repeated output": "{% for i in range(1000) %}{{ text }}{% endfor %}",
    "repeated output in a block": (
        "{% set x %}{% for i in range(1000) %}{{ text }}{% endfor %}{% endset %}{{ x | length }}"
    ),
    "repeated output of a macro": (
        "{% macro m() %}{% for i in range(1000) %}{{ text }}{% endfor %}{% endmacro %}"
        "{{ m() | length }}"
    ),
    "range": "{% for i in range(10**9) %}{% endfor %}",
    "power": "{{ 10 ** 10000000 }}",
    "tower": "{{ (9 ** 9999) ** 9999 }}",
    "power by multiplication": (
        "{% set n = namespace(x=10) %}{% for i in range(64) %}{% set n.x = n.x * n.x %}"
        "{% endfor %}{{ n.x }}"
    ),
    "doubling with ~": (
        '{% set n = namespace(x="abcdefgh") %}{% for i in range(64) %}{% set n.x = n.x ~ n.x %}'
        "{% endfor %}"
    ),
    "doubling with +": (
        '{% set n = namespace(x="abcdefgh") %}{% for i in range(64) %}{% set n.x = n.x + n.x %}'
        "{% endfor %}"
    ),
    "doubling lists": (
        "{% set n = namespace(x=[1]) %}{% for i in range(64) %}{% set n.x = n.x + n.x %}"
        "{% endfor %}"
    ),
    "a list within itself": (
        "{% set n = namespace(x=[1]) %}{% for i in range(64) %}{% set n.x = [n.x, n.x] %}"
        "{% endfor %}{{ n.x }}"
    ),
    "many references as JSON": "{{ ([text] * 1000) | tojson }}",
    "join filter": '{{ ([text] * 1000) | join(",") }}',
    "join filter with attribute": "{{ range(1000) | join(text) }}",
    "join method": '{{ ",".join([text] * 1000) }}',
    "replace filter": '{{ text | replace("x", text) }}',
    "replace method": '{{ text.replace("x", text) }}',
    "center filter": '{{ "x" | center(10**9) }}',
    "indent filter": '{{ "x\\nx" | indent(10**9) }}',
    "batch filter": '{{ [1] | batch(10**9, "x") | list }}',
    "slice filter": "{{ [1] | slice(10**9) | list }}",
    "round filter": "{{ 1.5 | round(10**9) }}",
    "format filter": '{{ "%1000000000d" | format(1) }}',
    "percent width": '{{ "%1000000000d" % 1 }}',
    "percent star": '{{ "%*d" % (10**9, 1) }}',
    "percent precision": '{{ "%.1000000000f" % 1.5 }}',
    "percent many": '{{ ("%s" * 1000) % ((text,) * 1000) }}',
    "brace width": '{{ "{:1000000000}".format(1) }}',
    "brace nested": '{{ "{:{}}".format(1, 10**9) }}',
    "brace many": '{{ ("{0}" * 1000).format(text) }}',
    "ljust": '{{ "x".ljust(10**9) }}',
    "zfill": '{{ "x".zfill(10**9) }}',
    "expandtabs": '{{ "\t".expandtabs(10**9) }}',
    "to_bytes": '{{ (1).to_bytes(10**9, "big") }}',
    "many wide percents": '{{ ("%999999d" * 1000) % ((1,) * 1000) }}',
    "many wide stars": '{{ ("%*d" * 100) % ((999999, 1) * 100) }}',
    "percent with names": """{{ ("%(a)999999d" * 1000) % {"a": 1} }}""",
    "many wide braces": '{{ ("{0:999999}" * 1000).format(1) }}',
    "indent of many lines": '{{ ("x\\n" * 100000) | indent(100000) }}',
    "indent by text": '{{ ("x\\n" * 1000) | indent(width=text) }}',
    "replace filter with names": '{{ text | replace(old="x", new=text) }}',
    "replace nothing": '{{ text | replace("", text) }}',
    "batch of large texts": "{{ [1] | batch(100000, text) | list }}",
    "slice of large texts": "{{ [1] | slice(100000, text) | list }}",
    "round to many digits": "{{ 1.5 | round(999999) }}",
    "bytes": '{{ "x".encode().ljust(10**9) | length }}',
    "bits": '{{ ("1" * 10**7) | int(base=2) % 7 }}',
    "sum of lists": "{{ ([[1] * 13] * 1000) | sum(start=[]) | length }}",
    "repeated references": "{{ [[text] * 100] * 100000 == 1 }}",
    "two trees compared": (
        "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(64) %}"
        "{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}"
    ),
    "a tree as a key": (
        "{% set n = namespace(x=(1,)) %}{% for i in range(64) %}{% set n.x = (n.x, n.x) %}"
        "{% endfor %}{{ {n.x: 1} }}"
    ),
    "a tree by calls": (
        "{% set n = namespace(x=[1]) %}{% for i in range(64) %}"
        "{% set n.x = dict(a=n.x, b=n.x) %}{% endfor %}{{ n.x == 1 }}"
    ),
    "garbage in a macro": (
        "{% macro m() %}{% for i in range(1000) %}{{ text ~ i }}{% endfor %}{% endmacro %}{{ m() }}"
    ),
    "garbage thrown away": (
        "{% for i in range(100000) %}{% if (text * 50) ~ i %}{% endif %}{% endfor %}"
    ),
    "garbage by slices": (
        "{% for i in range(100000) %}{% if (text * 50)[1:] %}{% endif %}{% endfor %}"
    ),
    "markup": '{{ ("<!---->" * 1000000 | safe).striptags() }}',
    "loops within loops": (
        "{% for i in range(100000) %}{% for j in range(100000) %}{% for k in range(100000) %}"
        "{% endfor %}{% endfor %}{% endfor %}"
    ),
    "loops whose filter refuses": (
        "{% for i in range(100000) %}{% for j in range(100000) if false %}x{% endfor %}{% endfor %}"
    ),
    "loops within a recursive loop": (
        "{% for i in range(100000) recursive %}{{ loop(range(100000)) }}{% endfor %}"
    ),
    "a tree of calls": (
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}"
    ),
    "a search for every item": (
        "{{ range(100000) | select('in', range(-100000, 0) | list) | list | length }}"
    ),
    "a long way for every item": (
        "{{ range(100000) | map(attribute='a' ~ '.a' * 10000, default=1) | list | length }}"
    ),
    "filters for every item": (
        "{% for i in range(100000) %}{{ range(100000) | sort | length }}{% endfor %}"
    ),
    "endless macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
}


UNKNOWN = {
    "lipsum": "{{ lipsum(n=10**7) }}",
    "urlize": "{{ text | urlize(target=text) }}",
    "wordwrap": "{{ text | wordwrap(1, wrapstring=text) }}",
    "striptags": "{{ text | striptags }}",
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused(bomb: str) -> None:
    template = TextTemplate(environment(seconds=0.2), "spec.flow.input", bomb)
    with pytest.raises(ProcessingError) as raised:
        template.render({"text": TEXT})
    assert raised.value.failure is Failure.POISON
    assert str(raised.value).startswith("spec.flow.input line 1: ")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_nothing_is_computed_while_compiling(bomb: str) -> None:
    # The operator compiles every tenant's templates.
    assert checked_template(bomb) == bomb


@pytest.mark.parametrize("text", UNKNOWN.values(), ids=UNKNOWN)
def test_what_cannot_be_bounded_does_not_exist(text: str) -> None:
    with pytest.raises(ValueError, match=r"template line 1: (No filter named|unknown name) '"):
        checked_template(text)


LONG = "x " * (MAX_SIZE // 2)


@pytest.mark.parametrize(
    "bomb",
    [
        *(f"{{{{ long | {name} | length }}}}" for name in ("list", "sort", "title", "max")),
        *("{{ long | unique | first }}", "{{ long | groupby(0) }}", "{{ long | batch(2) | list }}"),
        *("{{ long | join(',') }}", "{{ long | map('upper') | list }}", "{{ ','.join(long) }}"),
        *("{{ long.split() }}", "{{ long.rsplit(none, 9) }}", "{{ long.splitlines() }}"),
    ],
)
def test_a_long_text_is_not_taken_apart(bomb: str) -> None:
    # 21 s and 1.6 GB before this was refused.
    with pytest.raises(ProcessingError, match="10,485,760 characters is too long to be taken"):
        TextTemplate(environment(), "f", bomb).render({"long": LONG})


@pytest.mark.parametrize(
    "bomb",
    [
        "{{ long.split(' ') }}",
        "{{ long.rsplit(sep='x') }}",
        "{{ (long[:1000000] * 8).split('x ') }}",
        "{{ long | urlencode }}",
        "{{ {'a': long} | urlencode }}",
        "{{ short | length }}",
    ],
)
def test_very_many_short_texts_are_too_large(bomb: str) -> None:
    variables = {"long": LONG, "short": ["x"] * (MAX_SIZE // 8)}
    with pytest.raises(ProcessingError, match="a value would exceed 10 MiB"):
        TextTemplate(environment(), "f", bomb).render(variables)


def test_what_fits_a_message_of_kafkas_default_size_is_taken_apart() -> None:
    template = (
        "{{ text | list | length }} {{ text.split() | length }} {{ text.split(' ') | length }}"
    )
    text = "x " * 500_000
    rendered = TextTemplate(environment(seconds=30), "f", template).render({"text": text})
    assert rendered == "1000000 500000 500001"


def test_a_tree_of_templates_is_as_long_as_one_template() -> None:
    half = "{{ 1 }}".ljust(MAX_TEMPLATE // 2)
    tree = {"a": [half, "no template".ljust(MAX_TEMPLATE)], "b": {"c": half}}
    assert checked_leaves(tree) == tree
    # 13 s and 850 MB for the operator, which compiles every tenant's templates, if it could be
    # a megabyte.
    with pytest.raises(ValueError, match="the templates have more than 65,536 characters in all"):
        checked_leaves({**tree, "d": "{{ 1 }}"})


def test_a_number_that_python_does_not_read_is_a_problem_of_the_manifest() -> None:
    with pytest.raises(ValueError, match=r"^the template has a number of too many digits$"):
        checked_template("{{ " + "9" * 5_000 + " }}")


ESCAPES = {
    "a class": "{{ ''.__class__ }}",
    "a class as an item": "{{ ''['__class__'] }}",
    "a class by filter": "{{ value | attr('__class__') }}",
    "a class by map": "{{ [value] | map(attribute='__class__') | list }}",
    "a class by a filter's name": "{{ ['x'] | map('attr', '__class__') | list }}",
    "a class by groupby": "{{ ['x'] | groupby('__class__') }}",
    "a class by format": "{{ '{0.__class__}'.format(1) }}",
    "a class by format_map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "a class by a kept format": "{% set f = '{0.__class__.__mro__}'.format %}{{ f(1) }}",
    "a class by safe text": "{{ ('{0.__class__}' | safe).format(1) }}",
    "a base": "{{ dict.__base__ }}",
    "the template": "{{ self._TemplateReference__context }}",
    "its constructor": "{{ self.__init__.__globals__ }}",
    "a cycler's module": "{{ cycler.__init__.__globals__.os }}",
    "a joiner's module": "{{ joiner.__init__.__globals__.os }}",
    "a namespace's module": "{{ namespace.__init__.__globals__ }}",
    "a loop's list": "{% for i in [1] %}{{ loop._iterable }}{% endfor %}",
    "a macro's function": "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "a macro's environment": "{% macro m() %}{% endmacro %}{{ m._environment }}",
    "a generator's frame": "{{ ([1] | map('string')).gi_frame }}",
    "a generator's code": "{{ ([1] | select).gi_code }}",
    "a list that is changed": "{{ value.append(1) }}",
}


@pytest.mark.parametrize("text", ESCAPES.values(), ids=ESCAPES)
def test_there_is_no_way_out(text: str) -> None:
    template = TextTemplate(environment(), "f", checked_template(text))
    with pytest.raises(
        ProcessingError, match=r"access to attribute '\w+' of '\w+' object is unsafe"
    ):
        template.render({"value": [1]})


@pytest.mark.parametrize("name", ["environment", "request", "config", "context", "resolve"])
def test_names_of_the_generated_code_are_unknown(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown name '{name}'"):
        checked_template(f"{{{{ {name} }}}}")


@pytest.mark.parametrize("bomb", ["{{ [text] * 1000 }}", "{{ [[text] * 10] * 100 }}"])
def test_native_values_are_bounded_as_well(bomb: str) -> None:
    env = environment()
    expression = single_expression(env, bomb)
    assert expression is not None
    with pytest.raises(ProcessingError, match="a value would exceed"):
        NativeTemplate(env, "spec.flow.tweaks.M.a", expression).render({"text": TEXT})


def test_bombs_in_expressions_are_refused() -> None:
    expression = NativeTemplate.of_expression(environment(), "spec.source.filter", '"x" * 10**8')
    with pytest.raises(
        ProcessingError, match=r"^spec\.source\.filter line 1: a value would exceed"
    ):
        expression.truth({})


@pytest.mark.parametrize(
    "text",
    ["{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", "{{ 1" + "+1" * 20_000 + " }}"],
    ids=["parentheses", "sums"],
)
def test_templates_nested_too_deeply_are_problems_of_the_manifest(text: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        checked_template(text)
    with pytest.raises(ValueError, match="nested too deeply"):
        checked_expression(text[3:-3])


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ('{{ "ab" * 3 }}', "ababab"),
        ("{{ 2 ** 10 }} {{ 7 % 3 }} {{ 1.5 * 2 }} {{ [1] + [2] }}", "1024 1 3.0 [1,2]"),
        ('{{ "%05d|%-3s|%.2f" % (7, "a", 3.14159) }}', "00007|a  |3.14"),
        ('{{ "order 12345678: %s" % 1 }}', "order 12345678: 1"),
        ('{{ "{:>5}|{a:.1f}|{{x}}".format(7, a=2.25) }}', "    7|2.2|{x}"),
        ('{{ [1, 2] | join("-") }} {{ "-".join(["a", "b"]) }}', "1-2 a-b"),
        ("{{ [{'a': 1}, {'a': 2}] | map(attribute='a') | join('+') }}", "1+2"),
        ("{{ [{'a': 1}] | join('+', attribute='a') }}", "1"),
        ('{{ "aXb" | replace("X", "-") }} {{ "aXb".replace("X", "+") }}', "a-b a+b"),
        ("{{ 2.567 | round(1) }} {{ 'x' | center(3) }}|", "2.6  x |"),
        ("{{ big | length }}", str(MAX_SIZE)),
        ("{{ amount | default(100000000) }}", "100000000"),
        ('{{ "a\nb" | indent(2) }}', "a\n  b"),
        ("{{ ['b', 'a'] | sort | first | upper }}", "A"),
        ("{{ {'a': 1} | dictsort | tojson }}", '[["a",1]]'),
        ("{{ '%s' | format('x') }}", "x"),
        ("{{ ['a'] | map('upper') }}", '["A"]'),
        (
            "{% for n in range(6) if n is odd %}{{ loop.index }}={{ n }} {% endfor %}",
            "1=1 2=3 3=5 ",
        ),
        ("{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}", "a1b2"),
        ("{% for x in [] %}{% else %}none{% endfor %}", "none"),
        (
            "{% for n in [[1, []], [2, [[3, []]]]] recursive %}"
            "{{ n[0] }}{% if n[1] %}({{ loop(n[1]) }}){% endif %}{% endfor %}",
            "12(3)",
        ),
        ("{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, b=3) }}", "1-2 1-3"),
        (
            "{% macro m() %}<{{ caller(7) }}>{% endmacro %}{% call(n) m() %}{{ n }}{% endcall %}",
            "<7>",
        ),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x | upper }}", "A1"),
        ("{% filter upper %}a{% if true %}b{% endif %}{% endfilter %}", "AB"),
        (
            "{% set n = namespace(c=0) %}{% for i in [1, 2] %}{% set n.c = n.c + i %}{% endfor %}"
            "{{ n.c }}",
            "3",
        ),
        ("{% set a, b = (1, 2) %}{{ b }}{{ [1, 2, 3][1:] }}{{ 'abc'[::-1] }}", "2[2,3]cba"),
        ("{% with a = {'x': (1,)} %}{{ a.x[0] }}{{ a }}{% endwith %}", '1{"x":[1]}'),
        ("{% block b %}{{ 1 if big else 2 }}{% endblock %}{{ self.b() }}", "11"),
        (
            "{{ [3, 1] | select('gt', 1) | list }}{{ [1, 2] | sum }}{{ [1] | sum(start=2) }}",
            "[3]33",
        ),
        ("{{ '12' | int + 1 }}{{ 'ff' | int(base=16) }}{{ '1.5' | float }}", "132551.5"),
        ("{{ 'x' ~ 1 ~ [1] }}{{ 'a' in 'abc' }}{{ 1 < 2 < 3 }}", "x1[1]truetrue"),
    ],
)
def test_ordinary_templates_work(template: str, text: str) -> None:
    variables = {"big": "x" * MAX_SIZE}
    assert TextTemplate(environment(), "f", template).render(variables) == text


def test_a_text_of_the_largest_size_passes_and_one_more_does_not() -> None:
    template = TextTemplate(environment(), "f", "{{ text }}{{ more }}")
    assert len(template.render({"text": "x" * MAX_SIZE, "more": ""})) == MAX_SIZE
    with pytest.raises(ProcessingError, match="would exceed 10 MiB"):
        template.render({"text": "x" * MAX_SIZE, "more": "x"})
