"""The messages that `flowbinding produce` makes of arguments, files and templates."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import pytest

from flowbinding_api.errors import FlowBindingError
from flowbinding_cli import messages
from flowbinding_cli.messages import Text
from flowbinding_cli.produce import Pace


def texts(found: Iterable[Text]) -> list[str]:
    return [item.text for item in found]


def test_json_is_sent_as_it_was_written() -> None:
    assert texts(messages.json_texts(['{"a": 1}', "[2]"])) == ['{"a": 1}', "[2]"]


def test_wrong_json_is_named() -> None:
    with pytest.raises(FlowBindingError, match="message 2: not JSON"):
        texts(messages.json_texts(["1", "{"]))


def test_lines_of_text_may_be_anything() -> None:
    assert texts(messages.lines(["one\n", "\r\n", "  two {\r\n"], "f.txt")) == ["one", "  two {"]


@pytest.mark.parametrize("name", ["f.jsonl", "f.ndjson"])
def test_lines_of_json_files_are_checked(name: str) -> None:
    with pytest.raises(FlowBindingError, match=f"{name}:3: not JSON"):
        texts(messages.lines(["1\n", "\n", "two\n"], name))


def test_csv_rows_become_objects_of_texts() -> None:
    rows = texts(messages.rows(["id,name\n", '7,"Müller, Eva"\n', "8,\n"], "f.csv"))
    assert [json.loads(row) for row in rows] == [
        {"id": "7", "name": "Müller, Eva"},
        {"id": "8", "name": ""},
    ]


@pytest.mark.parametrize("row", ["1\n", "1,2,3\n", '1,"2'])
def test_a_csv_row_that_does_not_fit_is_named(row: str) -> None:
    with pytest.raises(FlowBindingError, match=r"f\.csv:[123]: "):
        texts(messages.rows(["a,b\n", row], "f.csv"))


def test_keys_come_from_a_field() -> None:
    found = [Text('{"user": {"id": "u1"}}', "1"), Text('{"user": {"id": 7}}', "2")]
    assert [key for key, _ in messages.keyed(found, None, "user.id")] == [b"u1", b"7"]


@pytest.mark.parametrize("text", ["hello", "[]", "{}", '{"id": null}'])
def test_a_message_without_the_keys_field_is_named(text: str) -> None:
    with pytest.raises(FlowBindingError, match="f:9: no field id for the key"):
        list(messages.keyed([Text(text, "f:9")], None, "id"))


def test_one_key_for_all_or_none() -> None:
    assert list(messages.keyed([Text("a", "1")], "k", None)) == [(b"k", b"a")]
    assert list(messages.keyed([Text("a", "1")], None, None)) == [(None, b"a")]


def test_templates_make_each_message_anew() -> None:
    found = list(messages.generated('{"n": {{ n }}, "id": "{{ uuid }}"}', "k{{ n % 2 }}", None, 4))
    assert [key for key, _ in found] == [b"k0", b"k1", b"k0", b"k1"]
    values = [json.loads(value) for _, value in found]
    assert [value["n"] for value in values] == [0, 1, 2, 3]
    assert len({value["id"] for value in values}) == 4


@pytest.mark.parametrize("template", ["{{ n", "{{ nobody }}", "{{ n / 0 }}", "{{ n + 'x' }}"])
def test_a_template_that_fails_is_told_in_a_sentence(template: str) -> None:
    with pytest.raises(FlowBindingError, match="template"):
        list(messages.generated(template, None, None, 1))


def test_headers() -> None:
    assert messages.headers(["a=1", "b=", "c=x=y"]) == [("a", b"1"), ("b", b""), ("c", b"x=y")]
    for wrong in ("a", "=1"):
        with pytest.raises(FlowBindingError, match="expected name=value"):
            messages.headers([wrong])


class Clock:
    """Time that passes by sleeping, and while a message is made."""

    def __init__(self, work: Iterator[float]) -> None:
        self.now = 0.0
        self._work = work

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def busy(self) -> None:
        self.now += next(self._work)


@pytest.mark.parametrize(
    ("work", "sent"),
    [
        ([0.0, 0.0, 0.0, 0.0], [0.0, 0.5, 1.0, 1.5]),
        ([0.1, 0.4, 0.1, 0.1], [0.0, 0.5, 1.0, 1.5]),
        # What was late stays late: no burst makes up for it.
        ([2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 2.5, 3.0]),
    ],
)
async def test_messages_keep_their_pace(work: list[float], sent: list[float]) -> None:
    clock = Clock(iter(work))
    pace = Pace(2.0, clock, clock.sleep)
    times = []
    for _ in work:
        await pace.turn()
        times.append(clock.now)
        clock.busy()
    assert times == pytest.approx(sent)
