"""Loan applications, as a web form would send them."""

from __future__ import annotations

import json
import random
import uuid
from typing import Any

import kafkaio
from demo.observed import Observed

APPLICANTS = ("Ada", "Alan", "Barbara", "Donald", "Edsger", "Grace", "Margaret", "Tony")


async def send(observed: Observed, topic: str, count: int) -> None:
    """Send `count` new applications at once and tell `observed` which."""
    burst = [application(uuid.uuid4().hex[:12]) for _ in range(count)]
    observed.sent([item["applicationId"] for item in burst])
    await kafkaio.produce(
        observed.bootstrap,
        topic,
        ((item["applicationId"].encode(), json.dumps(item).encode()) for item in burst),
    )


def application(application_id: str) -> dict[str, Any]:
    """One application; the same id always gives the same one."""
    chance = random.Random(application_id)
    return {
        "applicationId": application_id,
        "name": chance.choice(APPLICANTS),
        "purpose": chance.choice(("car", "house", "studies")),
        "amount": f"EUR {chance.randrange(1_000, 50_000, 500):,}",
        "termMonths": chance.choice((12, 24, 36, 48, 60)),
        "annualIncome": chance.randrange(20_000, 110_000, 1_000),
        "monthlyDebt": chance.randrange(0, 900, 50),
        "historyYears": chance.randrange(0, 20),
    }
