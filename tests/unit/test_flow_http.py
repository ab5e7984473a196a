"""The HTTP backend without a preset: what is sent. Answers: test_flow_http_answers."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from aiohttp import web
from hypothesis import assume, given
from hypothesis import strategies as st

from flow_fakes import MockServer
from flow_http_stand_ins import serving
from flowbinding_api import parse_binding
from flowbinding_api.flow import Flow
from flowbinding_api.templates import environment
from flowbinding_worker.files import Files
from flowbinding_worker.flows.http import HttpFlow
from flowbinding_worker.payload import Payload
from flowbinding_worker.payload.http import HttpTemplates
from flowbinding_worker.ports import Failure, FlowRequest, Partition, ProcessingError, Record
from manifests import manifest

NOTHING: Mapping[str, Any] = MappingProxyType({})
KEY = "sk-secret-of-http"
PATH = HttpTemplates(
    environment(),
    Flow.model_validate(
        {"backend": "HTTP", "url": "http://f", "http": {"path": "/a/{{ value }}/b"}}
    ),
)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "key").write_text(KEY + "\n")
    return Files(secrets=tmp_path)


def record(value: Any, key: bytes | None = b"k-1", topic: str = "in") -> Record:
    return Record(Partition(topic, 0), 7, key, json.dumps(value).encode(), (), 0)


def rendered(
    http: Mapping[str, Any], value: Any = NOTHING, key: bytes | None = b"k-1", **flow: Any
) -> FlowRequest:
    """The request that a worker makes of one message."""
    fields = {"backend": "HTTP", "url": "http://scores", "http": http, "input": "hi", **flow}
    request = Payload(parse_binding(manifest(flow=fields))).request(record(dict(value), key))
    assert request is not None
    return request


def poisoned(*args: Any, **fields: Any) -> str:
    with pytest.raises(ProcessingError) as raised:
        rendered(*args, **fields)
    assert (raised.value.failure, raised.value.reason) == (Failure.POISON, "TemplateFailed")
    return str(raised.value)


Handler = Callable[[httpx.Request], httpx.Response]


def client(files: Files, handler: Handler, **fields: Any) -> HttpFlow:
    flow = Flow.model_validate({"backend": "HTTP", "url": "http://scores", **fields})
    return HttpFlow(flow, files, transport=MockServer(handler))


async def sent(files: Files, request: FlowRequest, **fields: Any) -> httpx.Request:
    """What reaches the server."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"ok": True})

    flow = client(files, handler, **fields)
    await flow.start()
    await flow.run(request)
    await flow.close()
    (request_,) = seen
    return request_


async def test_nothing_but_an_address(files: Files) -> None:
    request = await sent(files, rendered({}), url="http://scores/run?v=1")
    assert (request.method, str(request.url)) == ("POST", "http://scores/run?v=1")
    assert json.loads(request.content) == {"input": "hi", "session": "k-1"}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-request-id"] == "in-0-7"


async def test_all_that_can_be_said(files: Files) -> None:
    http = {
        "method": "PUT",
        "path": "/v2/{{ value.kind }}/{{ flow }}?user={{ key }}&x=a%20b",
        "headers": {"X-Key": "{{ key }}", "content-type": "application/vnd.score+json"},
        "body": {
            "n": "{{ value.n }}",
            "text": "{{ input }} {{ session }}",
            "list": ["{{ value.tags }}", 1, {"deep": "{{ offset }}"}],
        },
    }
    value = {"kind": "a/b c", "n": 2.5, "tags": ["x"]}
    request = await sent(
        files, rendered(http, value, b"k&1", id="m:1"), url="http://scores/api?v=1", http=http
    )
    assert request.method == "PUT"
    assert request.url.raw_path == b"/api/v2/a%2Fb%20c/m%3A1?v=1&user=k%261&x=a%20b"
    assert request.headers["x-key"] == "k&1"
    assert request.headers.get_list("content-type") == ["application/vnd.score+json"]
    assert json.loads(request.content) == {
        "n": 2.5,
        "text": "hi k&1",
        "list": [["x"], 1, {"deep": 7}],
    }


async def test_a_path_that_a_message_made_and_is_not_there_is_that_messages_problem(
    files: Files,
) -> None:
    http = {"path": "/{{ value.kind }}"}

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if request.url.path == "/there" else 404, json={"ok": True})

    async def failure(kind: str) -> ProcessingError:
        with pytest.raises(ProcessingError) as raised:
            await flow.run(rendered(http, {"kind": kind}))
        return raised.value

    flow = client(files, handler, http=http)
    assert (await failure("nowhere")).failure is Failure.CONFIGURATION, "nothing has worked yet"
    await flow.run(rendered(http, {"kind": "there"}))
    error = await failure("nowhere")
    assert error.failure is Failure.POISON
    assert "spec.flow.http.path made this one of the message" in str(error)
    await flow.close()


async def test_a_path_that_worked_and_is_gone_is_a_configuration_failure(files: Files) -> None:
    statuses = iter([200, 404])
    flow = client(files, lambda _: httpx.Response(next(statuses), json={"ok": True}))
    await flow.run(rendered({}))
    with pytest.raises(ProcessingError) as raised:
        await flow.run(rendered({}))
    assert raised.value.failure is Failure.CONFIGURATION
    await flow.close()


def test_null_is_a_value_in_a_body_on_its_way_to_the_worker() -> None:
    document = manifest(flow={"backend": "HTTP", "url": "http://scores"})
    document["spec"]["flow"]["http"] = {"body": {"user": None, "deep": {"a": [None]}}}
    resolved_binding = parse_binding(parse_binding(document).document())
    request = Payload(resolved_binding).request(record({"message": "hi"}))
    assert request is not None
    assert request.http is not None
    assert request.http.body == {"user": None, "deep": {"a": [None]}}


async def test_a_method_without_a_body(files: Files) -> None:
    http = {"method": "GET", "path": "/scores/{{ key }}"}
    request = await sent(files, rendered(http), http=http)
    assert (request.method, request.content) == ("GET", b"")
    assert "content-type" not in request.headers


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("/a/{{ value.x }}", "/a/%2Fetc%2Fp%3Fa%23b%C3%A9%25"),
        ("/a/{{ value.x | safe }}", "/a//etc/p?a#bé%"),
        ("/a/{{ value.x ~ '/' }}", "/a/%2Fetc%2Fp%3Fa%23b%C3%A9%25%2F"),
        ("/a/{% if value.n %}{{ value.n }}{% endif %}", "/a/5"),
        ("/a/{{ value.t }}/{{ value.none }}", "/a/true/"),
        ("/a/{{ value.list }}", "/a/%5B1%5D"),
        ("/a/{{ value.x if value.n > 9 else value.n }}", "/a/5"),
        ("{# nothing #}", ""),
    ],
)
def test_what_expressions_give_stays_in_its_segment(template: str, path: str) -> None:
    value = {"x": "/etc/p?a#bé%", "n": 5, "t": True, "none": None, "list": [1]}
    parts = rendered({"path": template}, value).http
    assert parts is not None
    assert parts.path == path


@given(st.text(st.characters(codec="utf-8")))
def test_any_value_makes_one_segment_and_comes_out_again(text: str) -> None:
    assume(text not in (".", ".."))
    parts = PATH.render({"value": text}, "", "")
    before, segment, after = parts.path.removeprefix("/").split("/")
    assert (before, urllib.parse.unquote(segment), after) == ("a", text, "b")
    assert parts.path.isascii()


@pytest.mark.parametrize("key", [b"..", b"."])
def test_a_key_does_not_lead_to_another_resource(key: bytes) -> None:
    assert "another resource" in poisoned({"path": "/a/{{ key }}/b"}, key=key)


@pytest.mark.parametrize("value", ["a\nSet: b", "a\x00", "é"])
def test_a_header_that_cannot_be(value: str) -> None:
    said = poisoned({"headers": {"X-Name": "{{ value.x }}"}}, {"x": value})
    assert said == "spec.flow.http.headers.X-Name: gives characters that no header can carry"


@pytest.mark.parametrize(
    ("http", "field"),
    [
        ({"path": "/{{ value.gone }}"}, "spec.flow.http.path line 1"),
        ({"headers": {"X-A": "{{ value.gone }}"}}, "spec.flow.http.headers.X-A line 1"),
        ({"body": {"a": ["{{ value.gone }}"]}}, "spec.flow.http.body.a[0] line 1"),
        ({"path": "/{{ flow }}"}, "spec.flow.http.path line 1"),
    ],
)
def test_a_template_that_fails_names_its_field(http: dict[str, Any], field: str) -> None:
    assert poisoned(http).startswith(field)


async def test_what_is_no_json_is_not_sent(files: Files) -> None:
    http = {"body": {"n": "{{ value.n * 1e308 }}"}}
    flow = client(files, lambda _: pytest.fail("nothing may be sent"), http=http)
    with pytest.raises(ProcessingError, match=r"spec\.flow\.http\.body: not JSON data") as raised:
        await flow.run(rendered(http, {"n": 1e308}))
    assert raised.value.failure is Failure.POISON


async def test_a_path_that_no_url_can_have_is_not_sent(files: Files) -> None:
    http = {"path": "/{{ value.x | safe }}"}
    flow = client(files, lambda _: pytest.fail("nothing may be sent"), http=http)
    with pytest.raises(ProcessingError, match=r"spec\.flow\.http\.path") as raised:
        await flow.run(rendered(http, {"x": "a#b"}))
    assert raised.value.failure is Failure.POISON


@pytest.fixture
async def echo() -> AsyncIterator[str]:
    """A server that answers with the path as it came over the wire, and hangs when asked to."""

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/hang":
            await asyncio.Event().wait()
        parts = request.raw_path.partition("?")[0].split("/")
        path = [urllib.parse.unquote(part) for part in parts]
        return web.json_response({"path": path, "query": dict(request.query)})

    app = web.Application()
    app.add_routes([web.route("*", "/{any:.*}", handle)])
    async with serving(app) as url:
        yield url


async def test_a_value_arrives_in_its_segment_and_in_its_parameter(files: Files, echo: str) -> None:
    http = {"path": "/x/{{ key }}/y?q={{ key }}&r=1"}
    flow = HttpFlow(Flow.model_validate({"backend": "HTTP", "url": echo, "http": http}), files)
    key = "a/b?c&d=e+f %é#~"
    result = await flow.run(rendered(http, key=key.encode()))
    await flow.close()
    assert result.value == {"path": ["", "x", key, "y"], "query": {"q": key, "r": "1"}}


async def test_no_answer_in_time_is_an_unknown_outcome(files: Files, echo: str) -> None:
    fields = {"backend": "HTTP", "url": f"{echo}/hang", "timeoutSeconds": 0.2}
    flow = HttpFlow(Flow.model_validate(fields), files)
    with pytest.raises(ProcessingError) as raised:
        await flow.run(rendered({}))
    await flow.close()
    assert (raised.value.reason, raised.value.outcome_unknown) == ("FlowTimeout", True)
