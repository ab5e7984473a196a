"""Where `flowbinding produce` gets its messages from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from flowbinding_api.errors import FlowBindingError
from flowbinding_cli.source import source_of


def read(**options: Any) -> list[tuple[bytes | None, bytes]]:
    with source_of(**options).open() as found:
        return list(found)


def test_each_source(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\n\nb\n")
    (tmp_path / "c").write_text("k,v\n1,2\n", encoding="utf-8-sig")
    assert read(json=["1"], key="k") == [(b"k", b"1")]
    assert read(text=["a", "b"]) == [(None, b"a"), (None, b"b")]
    assert read(file=str(tmp_path / "f")) == [(None, b"a"), (None, b"b")]
    assert read(csv=str(tmp_path / "c"), key_field="k") == [(b"1", b'{"k": "1", "v": "2"}')]
    assert read(template="{{ n }}", count=2) == [(None, b"0"), (None, b"1")]


@pytest.mark.parametrize(
    ("options", "total"),
    [({"text": ["a", "b"]}, 2), ({"template": "x", "count": 9}, 9), ({"file": "f"}, None)],
)
def test_how_many_there_are(options: dict[str, Any], total: int | None) -> None:
    assert source_of(**options).total == total


@pytest.mark.parametrize(
    "options",
    [{}, {"json": ["1"], "text": ["a"]}, {"text": ["a"], "key": "k", "key_field": "f"}],
)
def test_options_that_say_nothing_or_two_things(options: dict[str, Any]) -> None:
    with pytest.raises(typer.BadParameter, match="say"):
        source_of(**options)


@pytest.mark.parametrize("kind", ["file", "csv"])
def test_a_file_that_is_no_text_is_told_after_what_is(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a\nb\n" * 10_000 + b"\xff\n")
    seen: list[object] = []
    options: dict[str, Any] = {kind: str(path)}
    with (
        source_of(**options).open() as found,
        pytest.raises(FlowBindingError, match="f: not UTF-8"),
    ):
        seen.extend(found)
    assert len(seen) > 1000


def test_an_argument_that_is_no_text_is_told() -> None:
    with pytest.raises(FlowBindingError, match="message 1: not UTF-8"):
        read(text=["\udcff"])


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(FlowBindingError, match=r"No such file|Is a directory"):
        read(file=str(tmp_path / name))
