"""FastStream's Kafka subscriber with a publisher, committing safely or first.

Committing first (`ACK_FIRST`) runs `max_workers` messages at once and loses those that were running
in a crash. Committing safely, FastStream runs at most one message of each partition at a time.

    python faststream_app.py BOOTSTRAP TOPIC OUTPUT GROUP URL SLOTS first|safe
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import aiohttp
import uvloop
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker, KafkaMessage


async def main(
    bootstrap: str, topic: str, output: str, group: str, url: str, slots: str, mode: str
) -> None:
    broker = KafkaBroker(bootstrap, acks="all", enable_idempotence=True, logger=None)
    connector = aiohttp.TCPConnector(limit=int(slots))

    async with aiohttp.ClientSession(connector=connector) as session:

        async def handle(body: dict[str, Any], message: KafkaMessage) -> dict[str, Any]:
            raw = message.raw_message
            identity = f"{raw.topic}-{raw.partition}-{raw.offset}"
            question = {"input_value": body["text"], "session_id": identity}
            headers = {"X-Request-Id": identity}
            async with session.post(url, json=question, headers=headers) as response:
                response.raise_for_status()
                answer = await response.json()
            text = answer["outputs"][0]["outputs"][0]["results"]["message"]["text"]
            return {"result": text, "source": identity}

        subscriber = broker.subscriber(
            topic,
            group_id=group,
            auto_offset_reset="earliest",
            max_workers=int(slots),
            ack_policy=AckPolicy.ACK_FIRST if mode == "first" else AckPolicy.NACK_ON_ERROR,
        )
        subscriber(broker.publisher(output)(handle))
        await FastStream(broker, logger=None).run(log_level=logging.WARNING)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
