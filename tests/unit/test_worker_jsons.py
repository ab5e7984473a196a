"""JSON is what the standard library says it is, whoever reads and writes it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowbinding_worker import jsons

texts = st.text(st.characters(exclude_categories=()))
"""With control characters, and halves of surrogate pairs."""
numbers = st.one_of(
    st.integers(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False)
)
data = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=20,
)
WORDS = r"""{ } [ ] , : " "a" "a":1 1 -0 -1 0.5 1e5 1E+2 1e400 -1e400 1e-400 01 1. .5 - +
12345678901234567 18446744073709551616 -9223372036854775809 99999999999999999999999999.5 NaN
Infinity -Infinity null true false nul "\ud800" "\ud83d\ude00" "\u0000" "\x" "é" // 'a' \ud800"""
BYTES = [" ", "\n", "\x0b", "\ufeff", "\x00", "\ud800", '"\x01"', '"\x7f"', '"a b"', "\u00a0"]
fragments = st.sampled_from([*WORDS.split(), *BYTES])
broken = st.one_of(
    st.lists(fragments, max_size=12).map("".join),
    st.tuples(data, st.integers(0, 60), fragments).map(
        lambda made: (text := json.dumps(made[0]))[: made[1]] + made[2] + text[made[1] :]
    ),
)


def same(left: Any, right: Any) -> bool:
    """Equal in types, the order of keys and the sign of zero as well."""
    return repr(left) == repr(right)


def judged(text: str) -> Any:
    """What the standard library says: data, or the text of its error."""
    try:
        return json.JSONDecoder().decode(text)
    except ValueError as error:
        return str(error)


def holds_infinity(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(holds_infinity, value.values()))
    if isinstance(value, list):
        return any(map(holds_infinity, value))
    return isinstance(value, float) and not math.isfinite(value)


@given(broken)
@example('{"a": 1, "b": 2, "a": 3}')
@example("9" * 5000)
def test_reading_gives_what_the_standard_library_gives(text: str) -> None:
    expected = judged(text)
    try:
        found = jsons.parse(text)
    except ValueError as error:
        found = str(error)
    assert same(found, expected)


@given(broken)
@example("[1e400]")
def test_strict_reading_takes_no_more_and_no_less_but_infinities(text: str) -> None:
    expected = judged(text)
    try:
        found = jsons.strict(text)
    except ValueError as error:
        assert isinstance(expected, str) or holds_infinity(expected)
        if isinstance(expected, str):
            assert str(error) == expected or " is not JSON" in str(error) or "large" in str(error)  # noqa: PT017
    else:
        assert same(found, expected)


@given(data)
def test_what_is_written_reads_as_what_it_was(value: Any) -> None:
    for text in (jsons.dump(value), jsons.dump_finite(value), jsons.line(value).encode(*LENIENT)):
        assert same(json.loads(text.decode(*LENIENT)), value)
    assert same(jsons.parse(jsons.dump(value).decode()), value)


LENIENT = ("utf-8", "surrogatepass")


@given(data, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_numbers_that_json_lacks_become_null_or_are_refused(value: Any, number: float) -> None:
    assert same(json.loads(jsons.dump([value, {"x": number}])), [value, {"x": None}])
    with pytest.raises(ValueError, match="not JSON compliant"):
        jsons.dump_finite([value, {"x": number}])


@pytest.mark.parametrize("read", [jsons.parse, jsons.strict])
def test_nesting_without_an_end_is_an_error_like_any_other(read: Any) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        read("[" * 100_000 + "]" * 100_000)
    assert read("[" * 200 + "]" * 200)


@pytest.mark.parametrize("write", [jsons.dump, jsons.dump_finite])
def test_nor_can_it_be_written(write: Any) -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="nested too deeply"):
        write(value)


@pytest.mark.parametrize("key", [None, True, 1, 0.5])
def test_keys_that_are_no_text(key: Any) -> None:
    assert json.loads(jsons.dump({key: 1})) == json.loads(json.dumps({key: 1}))


@given(st.dictionaries(texts, st.one_of(texts, st.integers(), st.lists(texts))))
def test_lines_of_the_log_are_as_the_standard_library_writes_them(event: Any) -> None:
    assert jsons.line(event) == json.dumps(event, ensure_ascii=False)


def test_what_is_no_data_is_refused_but_in_the_log() -> None:
    with pytest.raises(TypeError):
        jsons.dump({"x": object})
    assert json.loads(jsons.line({"error": ValueError("no")})) == {"error": "no"}
