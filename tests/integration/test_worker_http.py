"""The real worker with a flow server that is no Langflow: results, retries and dead letters."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from flow_http_stand_ins import TOKEN, openai, stand_in
from integration.worker_process import WorkerProcess, manifest
from kafkaio import TopicFactory, produce, read_until
from testbed import KafkaBroker

pytestmark = pytest.mark.timeout(120)


async def test_a_model_answers_and_what_it_cannot_answer_is_a_dead_letter(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path
) -> None:
    source, output, dead = await asyncio.gather(topic(1), topic(1), topic(1))
    (tmp_path / "secrets" / "openai").mkdir(parents=True)
    (tmp_path / "secrets" / "openai" / "key").write_text(TOKEN)
    async with stand_in(openai) as server:
        flow = {
            "backend": "HTTP",
            "url": server.url,
            "id": "gpt-4o-mini",
            "auth": {"bearerTokenSecretRef": {"name": "openai", "key": "key"}},
            "http": {"preset": "OpenAI"},
        }
        spec = {"flow": flow, "output": {"topic": output}, "deadLetter": {"topic": dead}}
        document = manifest(kafka.bootstrap, source, spec)
        # The first message is refused for what it is, the second is asked to wait, and then runs.
        said = f"maximum context length; you sent {TOKEN}"
        server.misbehave(400, {"error": {"message": said, "code": "context_length_exceeded"}})
        server.misbehave(429, {"error": {"message": "slow down"}}, **{"Retry-After": "0.1"})
        await produce(kafka.bootstrap, source, [(b"k", b"too long"), (b"k", b"fits")])
        async with WorkerProcess(tmp_path, document) as worker:
            (letter,) = await read_until(kafka.bootstrap, dead, 1)
            (result,) = await read_until(kafka.bootstrap, output, 1)
            assert await worker.metric('tokens_total{kind="output"}') == 12
            assert await worker.terminate() == 0
    assert letter.value == b"too long"
    headers = {name: value.decode() for name, value in letter.headers}
    assert headers["__connect.errors.exception.message"] == (
        "the server answered 400: maximum context length; you sent ***"
    )
    document = json.loads(result.value or b"")
    assert (document["result"], document["flow"]) == ("fits", "gpt-4o-mini")
    assert TOKEN not in worker.log.read_text()
