"""The testbed's cache: what a build is found again by, and that half a build is never found."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testbed import cache, paths


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWBINDING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "testbed"


def sources(folder: Path, **content: str) -> list[Path]:
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    return [folder / name for name in content]


def test_the_hash_depends_on_names_and_content_only(tmp_path: Path) -> None:
    here = sources(tmp_path / "here", a="1", b="2")
    there = sources(tmp_path / "there", b="2", a="1")
    os.utime(there[0], (0, 0))

    assert cache.content_hash(tmp_path / "here", here) == cache.content_hash(
        tmp_path / "there", reversed(there)
    )


@pytest.mark.parametrize("other", [{"a": "1", "b": "3"}, {"a": "1", "c": "2"}, {"a": "1"}])
def test_the_hash_changes_with_any_source(tmp_path: Path, other: dict[str, str]) -> None:
    first = cache.content_hash(tmp_path / "x", sources(tmp_path / "x", a="1", b="2"))

    assert first != cache.content_hash(tmp_path / "y", sources(tmp_path / "y", **other))


def test_the_hash_keeps_further_inputs_apart(tmp_path: Path) -> None:
    assert cache.content_hash(tmp_path, [], "ab", "c") != cache.content_hash(
        tmp_path, [], "a", "bc"
    )


def test_an_entry_is_made_once(own_cache: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("content")

    first = cache.ensure("thing", "0", make)

    assert cache.ensure("thing", "0", make) == first == own_cache / "thing-0"
    assert len(made) == 1
    assert (first / "file").read_text() == "content"


def test_two_at_once_do_not_build_twice() -> None:
    made = []
    second_waits = threading.Event()

    def make(folder: Path) -> None:
        made.append(folder)
        second_waits.wait()

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(cache.ensure, "thing", "0", make) for _ in range(2)]
        second_waits.set()

    assert both[0].result() == both[1].result()
    assert len(made) == 1


def test_a_failed_build_leaves_nothing_and_is_tried_again(own_cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.ensure("thing", "0", fail)

    assert [path.name for path in own_cache.iterdir()] == ["locks"]
    assert cache.ensure("thing", "0", lambda _folder: None).is_dir()


def test_what_a_killed_build_left_is_not_mixed_into_the_next(own_cache: Path) -> None:
    leftover = own_cache / ".thing-0.part"
    leftover.mkdir(parents=True)
    (leftover / "half").touch()

    assert not list(cache.ensure("thing", "0", lambda _folder: None).iterdir())


def test_only_long_unused_entries_are_forgotten(own_cache: Path) -> None:
    for digest in ("old", "recent"):
        (own_cache / f"thing-{digest}").mkdir(parents=True)
    os.utime(own_cache / "thing-old", (0, 0))

    cache.ensure("thing", "new", lambda _folder: None)

    assert {path.name for path in own_cache.glob("thing-*")} == {"thing-recent", "thing-new"}


def test_where_the_cache_is() -> None:
    home = paths.cache_root({})

    assert home == Path.home() / ".cache" / "flowbinding" / "testbed"
    assert paths.cache_root({"XDG_CACHE_HOME": "/x"}) == Path("/x/flowbinding/testbed")
    assert paths.cache_root({"XDG_CACHE_HOME": "/x", "FLOWBINDING_CACHE": "/f"}) == Path(
        "/f/testbed"
    )
