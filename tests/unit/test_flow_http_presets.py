"""Each preset against a stand-in that follows the product's public API: requests and failures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from flow_http_stand_ins import stand_in
from flowbinding_api import parse_binding
from flowbinding_api.flow_http import Preset
from flowbinding_api.presets import PRESETS, resolved
from flowbinding_worker.files import Files
from flowbinding_worker.ports import Failure, Tokens
from manifests import manifest
from preset_bench import (
    DIFY,
    FLOWISE,
    LANGGRAPH,
    N8N,
    OPENAI,
    Product,
    named,
    refused,
    run,
    token_files,
)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return token_files(tmp_path)


@pytest.mark.parametrize(
    ("product", "answer", "tokens", "asked"),
    [
        (
            OPENAI,
            "hi",
            Tokens(9, 12),
            {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]},
        ),
        (
            FLOWISE,
            "hi",
            None,
            {
                "question": "hi",
                "streaming": False,
                "overrideConfig": {"sessionId": "customer-1"},
            },
        ),
        (
            DIFY,
            "hi",
            Tokens(3, 4),
            {"inputs": {}, "query": "hi", "response_mode": "blocking", "user": "customer-1"},
        ),
        (
            LANGGRAPH,
            "hi",
            None,
            {
                "assistant_id": "agent",
                "input": {"messages": [{"role": "user", "content": "hi"}]},
            },
        ),
        (N8N, {"output": "hi"}, None, {"chatInput": "hi", "sessionId": "customer-1"}),
    ],
    ids=named,
)
async def test_a_run(
    files: Files,
    product: Product,
    answer: Any,
    tokens: Tokens | None,
    asked: dict[str, Any],
) -> None:
    make, fields = product
    async with stand_in(make) as server:
        result = await run(files, server.url, fields)
    assert (result.value, result.tokens) == (answer, tokens)
    assert server.bodies == [asked]


@pytest.mark.parametrize("base", ["", "/", "/v1", "/v1/"])
async def test_a_base_url_with_and_without_its_version(files: Files, base: str) -> None:
    make, fields = OPENAI
    async with stand_in(make) as server:
        assert (await run(files, server.url + base, fields)).value == "hi"


async def test_a_users_keys_are_added_to_the_body(files: Files) -> None:
    make, fields = OPENAI
    body = {
        "temperature": 0,
        "messages": [
            {"role": "system", "content": "Answer {{ key }} briefly."},
            {"role": "user", "content": "{{ input }}"},
        ],
    }
    async with stand_in(make) as server:
        await run(files, server.url, fields, {"body": body})
    assert server.bodies == [
        {
            "model": "gpt-4o-mini",
            "temperature": 0,
            "messages": [
                {"role": "system", "content": "Answer customer-1 briefly."},
                {"role": "user", "content": "hi"},
            ],
        }
    ]


async def test_the_whole_answer_when_the_pointer_is_empty(files: Files) -> None:
    make, fields = LANGGRAPH
    async with stand_in(make) as server:
        result = await run(files, server.url, fields, {"text": ""})
    assert [message["type"] for message in result.value["messages"]] == ["human", "ai"]


def test_a_users_field_wins_over_the_presets() -> None:
    for preset, defaults in PRESETS.items():
        own = type(defaults).model_validate(
            {"preset": preset, "path": "/mine", "text": "/my/text", "method": "PUT"}
        )
        found = resolved(own, "http://server")
        assert (found.path, found.text, found.method) == ("/mine", "/my/text", "PUT")
        assert (found.body, found.error) == (defaults.body, defaults.error)


def documented() -> list[tuple[str, dict[str, Any]]]:
    """The manifests of the guide's chapter about other flow servers, by preset."""
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")
    chapter = guide.partition("## Other flow servers")[2].partition("\n## ")[0]
    blocks = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", chapter, re.DOTALL)]
    flows = [block["flow"] for block in blocks if "flow" in block]
    return [(flow["http"].get("preset", ""), flow) for flow in flows]


def test_the_guide_has_every_preset_and_nothing_that_is_refused() -> None:
    assert {name for name, _ in documented()} == {"", *map(str, Preset)}
    for _, flow in documented():
        assert parse_binding(manifest(flow=flow)).spec.flow.runs


@pytest.mark.parametrize("product", [OPENAI, FLOWISE, DIFY, LANGGRAPH, N8N], ids=named)
async def test_the_guides_manifests_work(files: Files, product: Product) -> None:
    """As they are, but for the address, the id and the Secret, which are the stand-in's."""
    flow = next(flow for name, flow in documented() if name == product.fields["preset"])
    asked = {name: flow[name] for name in ("auth", "apiKeySecretRef") if name in flow}
    assert asked.keys() == {"auth", "apiKeySecretRef"} & product.fields.keys()
    async with stand_in(product.make) as server:
        result = await run(files, server.url, product.fields, flow["http"])
    assert result.value in ("hi", {"output": "hi"})


async def test_a_failed_workflow_of_dify_answers_200(files: Files) -> None:
    http = next(flow["http"] for _, flow in documented() if "status" in flow["http"])
    make, fields = DIFY
    async with stand_in(make) as server:
        done = {"data": {"status": "succeeded", "outputs": {"score": 7}, "error": None}}
        failed = {"data": {"status": "failed", "outputs": None, "error": "node 2: no credit"}}
        server.misbehave(200, done)
        server.misbehave(200, failed)
        http = {**http, "path": "/v1/chat-messages", "body": {"inputs": {"amount": "{{ offset }}"}}}
        assert (await run(files, server.url, fields, http)).value == {"score": 7}
        error = await refused(files, server.url, fields, http)
    assert server.bodies[0]["inputs"] == {"amount": 7}
    assert (error.failure, str(error)) == (
        Failure.TRANSIENT,
        "the run failed: node 2: no credit",
    )
