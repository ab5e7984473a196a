"""Loan applications, as a web form would send them."""

from __future__ import annotations

import json
import random
import uuid
from typing import Any

import kafkaio
from demo.observed import Observed

APPLICANTS = ("Ada", "Alan", "Barbara", "Donald", "Edsger", "Grace", "Margaret", "Tony")


async def send(observed: Observed, count: int) -> None:
    """Send `count` new applications at once and tell `observed` which."""
    burst = [application(uuid.uuid4().hex[:12]) for _ in range(count)]
    observed.sent([item["application_id"] for item in burst])
    await kafkaio.produce(
        observed.bootstrap,
        observed.requests_topic,
        ((item["application_id"].encode(), json.dumps(item).encode()) for item in burst),
    )


def application(application_id: str) -> dict[str, Any]:
    """One application; the same id always gives the same one."""
    chance = random.Random(application_id)
    return {
        "application_id": application_id,
        "applicant": chance.choice(APPLICANTS),
        "amount": f"EUR {chance.randrange(1_000, 50_000, 500):,}",
        "monthly_income": chance.randrange(1_500, 9_000, 100),
        "existing_debt": chance.randrange(0, 20_000, 250),
        "term_months": chance.choice((12, 24, 36, 48, 60)),
    }
