"""`flowbinding produce --wait` without a server, and completion for kubectl."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator

import pytest
from aiokafka import ConsumerRecord

from flowbinding_api import FlowBinding, parse_binding
from flowbinding_api.errors import FlowBindingError
from flowbinding_api.headers import RESULT_BINDING, RESULT_SOURCE
from flowbinding_cli.answers import answers_to, check
from flowbinding_cli.kafka import Reader
from flowbinding_cli.main import complete
from flowbinding_cli.tail import Line
from manifests import manifest


class Topic(Reader):
    """Gives batches of records, then nothing more."""

    def __init__(self, *batches: list[ConsumerRecord]) -> None:
        super().__init__(None, [])
        self._batches = batches

    async def follow(self) -> AsyncGenerator[list[ConsumerRecord], None]:
        for batch in self._batches:
            yield batch
        await asyncio.Event().wait()


@pytest.fixture
def binding() -> FlowBinding:
    return parse_binding(manifest(output={"topic": "out"}))


def result(source: str, value: str, binding: str = "default/example") -> ConsumerRecord:
    headers = [(RESULT_BINDING, binding.encode()), (RESULT_SOURCE, source.encode())]
    return ConsumerRecord(
        "out", 0, 0, 1_000, 0, None, value.encode(), None, 0, len(value), tuple(headers)
    )


async def shown(binding: FlowBinding, topic: Topic, *sources: str, seconds: float) -> list[Line]:
    return [line async for line in answers_to(binding, topic, sources, seconds)]


async def test_it_ends_with_the_last_answer(binding: FlowBinding) -> None:
    topic = Topic(
        [result("in-0-1", "theirs", "default/other"), result("in-0-2", "second")],
        [result("in-0-7", "not asked for"), result("in-0-1", "first"), result("in-0-2", "again")],
    )
    lines = await shown(binding, topic, "in-0-1", "in-0-2", seconds=3600)
    assert [(line["source"], line["value"]) for line in lines] == [
        ("in-0-2", "second"),
        ("in-0-1", "first"),
    ]
    check(["in-0-1", "in-0-2"], lines, 3600)


async def test_what_has_no_answer_in_time_is_named(binding: FlowBinding) -> None:
    sources = [f"in-0-{n}" for n in range(6)]
    lines = await shown(binding, Topic([result("in-0-0", "one")]), *sources, seconds=0.05)
    assert [line["value"] for line in lines] == ["one"]
    with pytest.raises(
        FlowBindingError, match=r"^5 of 6 messages .* after 0\.05 s: in-0-1, in-0-2, in-0-3, … \("
    ):
        check(sources, lines, 0.05)


@pytest.mark.parametrize(
    ("words", "completed"),
    [(("dead-letters", "re"), "replay"), (("prod",), "produce"), (("run", "--val"), "--value")],
)
def test_kubectl_completes(
    words: tuple[str, ...],
    completed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-flowbinding", *words])
    for name in ("_FLOWBINDING_COMPLETE", "COMP_WORDS", "COMP_CWORD"):
        monkeypatch.setenv(name, "")
    with pytest.raises(SystemExit):
        complete()
    assert capsys.readouterr().out.split() == [completed]
