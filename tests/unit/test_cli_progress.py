"""What a replay's commit says about done dead letters."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbinding_api.offsets import MAX_METADATA, Progress
from flowbinding_cli.progress import Ledger, ProgressError, decode, encode

offsets = st.integers(0, 2**40)
marks = st.lists(st.booleans(), max_size=300)


def progress_of(offset: int, done: list[bool]) -> Progress:
    """Flags of the letters from `offset` on; those after the last done one say nothing."""
    while done and not done[-1]:
        done = done[:-1]
    return Progress(offset + len(done), tuple(offset + n for n, is_ in enumerate(done) if not is_))


@given(offsets, marks)
def test_what_is_written_is_read(offset: int, done: list[bool]) -> None:
    progress = progress_of(offset, done)
    assert decode(offset, encode(offset, progress)) == progress


@given(offsets, marks.filter(any), st.integers(1, 100))
def test_metadata_counts_for_its_own_offset_only(offset: int, done: list[bool], by: int) -> None:
    text = encode(offset, progress_of(offset, done))
    with pytest.raises(ProgressError, match="not written by a replay"):
        decode(offset + by, text)


@pytest.mark.parametrize("text", ["FB1AAAA", "hello", "FBR1", "FBR1ä", "FBR1AAAAAAAA", "FBR1A"])
def test_foreign_metadata_is_refused_and_not_ignored(text: str) -> None:
    with pytest.raises(ProgressError):
        decode(7, text)


def test_twenty_thousand_letters_fit_however_they_alternate() -> None:
    draw = random.Random(1)
    done = [draw.random() < 0.5 for _ in range(20_000)]
    text = encode(5, progress_of(5, done))
    assert len(text) <= MAX_METADATA
    assert decode(5, text) == progress_of(5, done)


def test_a_million_letters_fit_when_a_few_runs_are_done() -> None:
    done = [n % 100_000 > 50_000 for n in range(1_000_000)]
    assert len(encode(0, progress_of(0, done))) <= MAX_METADATA


def test_what_does_not_fit_is_refused_and_not_forgotten() -> None:
    draw = random.Random(2)
    done = [draw.random() < 0.5 for _ in range(60_000)]
    with pytest.raises(ProgressError, match="does not fit"):
        encode(0, progress_of(0, done))


@given(st.data())
def test_scans_with_filters_settle_every_letter_exactly_once(data: st.DataObject) -> None:
    """Scans that choose some letters, some of them cut short, then one that takes all."""
    places = sorted(data.draw(st.sets(st.integers(3, 400), min_size=1, max_size=60)))
    offset, text = places[0], ""
    settled: list[int] = []
    rounds = data.draw(st.integers(0, 4))
    for number in range(rounds + 1):
        ledger = Ledger(offset, text)
        last = number == rounds
        stop = 1_000 if last else data.draw(st.integers(3, 401))
        for place in places:
            if place < ledger.start or place >= stop:
                continue
            before = ledger.is_done(place)
            taken = not before and (last or data.draw(st.booleans()))
            settled += [place] * taken
            ledger.note(place, done=before or taken)
        offset, text = ledger.commit()
    assert sorted(settled) == places
    assert (offset, text) == (places[-1] + 1, "")
    assert all(Ledger(offset, text).is_done(place) for place in places)


def test_a_ledger_that_saw_nothing_keeps_what_it_knew() -> None:
    first = Ledger(10)
    for offset, done in ((10, False), (11, True), (12, False), (13, True), (14, False)):
        first.note(offset, done=done)
    kept = first.commit()
    assert Ledger(*kept).commit() == kept
    assert [Ledger(*kept).is_done(n) for n in range(9, 16)] == [
        *(True, False, True, False, True, False, False)
    ]


def test_letters_that_are_gone_do_not_hold_the_offset_back() -> None:
    first = Ledger(0)
    first.note(0, done=False)
    first.note(5, done=True)
    again = Ledger(*first.commit())
    assert again.start == 0
    # Retention took the letter at 0 meanwhile.
    again.note(5, done=True)
    assert again.commit() == (6, "")
