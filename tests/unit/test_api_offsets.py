"""Commit metadata: what goes in comes out; what is wrong is refused; it always fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbinding_api.offsets import (
    MAX_METADATA,
    Figures,
    MetadataError,
    Progress,
    decode,
    encode,
)

figures = st.builds(
    Figures,
    instance=st.integers(0, 2**32 - 1),
    slots=st.integers(0, 10_000),
    busy=st.integers(0, 1000).map(lambda n: n / 1000),
    seconds_per_message=st.none() | st.integers(0, 10**10).map(lambda n: n / 1e6),
    oldest_timestamp_ms=st.none() | st.integers(0, 2**45),
    reason=st.sampled_from(["", "FlowUnauthorized"]),
    message=st.text(max_size=100),
)


@st.composite
def progress(draw: st.DrawFn) -> tuple[int, Progress]:
    base = draw(st.integers(0, 2**60))
    unfinished = draw(st.sets(st.integers(0, 10**7), max_size=1000))
    above = draw(st.integers(1, 10**7))
    offsets = tuple(sorted(base + item for item in unfinished))
    return base, Progress((offsets[-1] if offsets else base) + above, offsets)


@given(progress(), st.none() | figures)
def test_round_trip(given_progress: tuple[int, Progress], given_figures: Figures | None) -> None:
    offset, expected = given_progress
    text = encode(offset, expected, given_figures)
    assert len(text) <= MAX_METADATA
    metadata = decode(offset, text)
    assert metadata.progress == expected
    assert metadata.figures == given_figures


def test_a_thousand_unfinished_fit_with_figures_and_message() -> None:
    expected = Progress(10**6, tuple(range(5, 10**6 - 5, 1000)))
    text = encode(5, expected, Figures(1, 400, message="x" * 240))
    assert len(text) <= MAX_METADATA
    assert decode(5, text).progress == expected


@given(st.integers(2000, 6000), st.integers(1, 2**14))
def test_what_does_not_fit_forgets_what_is_done_and_never_what_is_not(
    count: int, step: int
) -> None:
    full = Progress(10 + count * step, tuple(range(10, 10 + count * step, step)))
    text = encode(10, full, Figures(1, 1))
    assert len(text) <= MAX_METADATA
    cut = decode(10, text).progress
    assert cut.hi_done <= full.hi_done
    assert not [offset for offset in full.unfinished if cut.is_done(offset)]


@given(progress(), st.data())
def test_done_is_what_is_below_and_not_unfinished(
    given_progress: tuple[int, Progress], data: st.DataObject
) -> None:
    offset, expected = given_progress
    near = st.sampled_from((offset, *expected.unfinished, expected.hi_done))
    at = data.draw(near) + data.draw(st.integers(-1, 1))
    assert expected.is_done(at) == (at < expected.hi_done and at not in set(expected.unfinished))


@given(progress(), st.integers(1, 10**6))
def test_metadata_never_speaks_for_another_offset(
    given_progress: tuple[int, Progress], moved: int
) -> None:
    offset, expected = given_progress
    text = encode(offset, expected)
    with pytest.raises(MetadataError):
        decode(offset + moved, text)


@given(progress(), st.data())
def test_damage_is_noticed(given_progress: tuple[int, Progress], data: st.DataObject) -> None:
    offset, expected = given_progress
    text = encode(offset, expected)
    at = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("AZaz09-_!é"))
    damaged = text[:at] + letter + text[at + 1 :]
    try:
        # The last base64 letter may carry unused bits: only the same content is acceptable.
        assert decode(offset, damaged).progress == expected
    except MetadataError:
        assert damaged != text


@pytest.mark.parametrize("text", ["", "FB1", "FB1!", "other", "FB1AAAA", "FB2AAAAAAAA"])
def test_foreign_text_is_refused(text: str) -> None:
    with pytest.raises(MetadataError):
        decode(0, text)
