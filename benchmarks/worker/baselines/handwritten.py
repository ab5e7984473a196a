"""The usual hand-written consumer: a semaphore, a gather per batch, then a commit. Safe.

python -m worker.baselines.handwritten BOOTSTRAP TOPIC OUTPUT GROUP URL SLOTS httpx|aiohttp
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import httpx
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from worker.cases import BATCH

Post = Callable[[dict[str, Any], dict[str, str]], Awaitable[Any]]


async def with_httpx(stack: AsyncExitStack, url: str, slots: int) -> Post:
    """As httpx's documentation has it."""
    limits = httpx.Limits(max_connections=slots, max_keepalive_connections=slots)
    client = await stack.enter_async_context(httpx.AsyncClient(limits=limits, timeout=60))

    async def post(body: dict[str, Any], headers: dict[str, str]) -> Any:
        response = await client.post(url, json=body, headers=headers)
        response.raise_for_status()
        return response.json()

    return post


async def with_aiohttp(stack: AsyncExitStack, url: str, slots: int) -> Post:
    """As aiohttp's documentation has it."""
    connector = aiohttp.TCPConnector(limit=slots)
    session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))

    async def post(body: dict[str, Any], headers: dict[str, str]) -> Any:
        async with session.post(url, json=body, headers=headers) as response:
            response.raise_for_status()
            return await response.json()

    return post


async def main(
    bootstrap: str, topic: str, output: str, group: str, url: str, slots: str, client: str
) -> None:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    async with AsyncExitStack() as stack:
        await consumer.start()
        stack.push_async_callback(consumer.stop)
        await producer.start()
        stack.push_async_callback(producer.stop)
        start = with_httpx if client == "httpx" else with_aiohttp
        post = await start(stack, url, int(slots))
        semaphore = asyncio.Semaphore(int(slots))

        async def handle(record: Any) -> None:
            async with semaphore:
                identity = f"{record.topic}-{record.partition}-{record.offset}"
                text = json.loads(record.value)["text"]
                body = {"input_value": text, "session_id": identity}
                answer = await post(body, {"X-Request-Id": identity})
                message = answer["outputs"][0]["outputs"][0]["results"]["message"]["text"]
                value = json.dumps({"result": message, "source": identity}).encode()
                await producer.send_and_wait(output, value, key=record.key)

        while True:
            batches = await consumer.getmany(timeout_ms=500, max_records=BATCH)
            records = [record for batch in batches.values() for record in batch]
            if records:
                await asyncio.gather(*map(handle, records))
                await consumer.commit()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
