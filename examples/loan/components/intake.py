# ruff: noqa: RUF012 - lists, as Langflow writes its components
import asyncio
import json
import re
from typing import Any

from lfx.custom.custom_component.component import Component
from lfx.io import FloatInput, MessageTextInput, Output
from lfx.schema.data import Data


class LoanIntake(Component):
    display_name = "Loan Intake"
    description = "Normalizes a loan request and says what is wrong with it."
    icon = "clipboard-check"
    name = "LoanIntake"

    inputs = [
        MessageTextInput(name="request", display_name="Request", info="The request as JSON."),
        FloatInput(name="seconds", display_name="Seconds of work", value=0.0),
    ]
    outputs = [Output(name="application", display_name="Application", method="normalize")]

    async def normalize(self) -> Data:
        await asyncio.sleep(self.seconds)
        request = json.loads(self.request)
        if not isinstance(request, dict):
            request = {}
        application: dict[str, Any] = {
            "application_id": str(request.get("application_id") or "").strip(),
            "applicant": " ".join(str(request.get("applicant") or "").split()).title(),
            "amount": self._number(request.get("amount")),
            "term_months": self._number(request.get("term_months", 36)),
            "monthly_income": self._number(request.get("monthly_income")),
            "existing_debt": self._number(request.get("existing_debt", 0)),
        }
        problems = self._problems(application)
        return Data(data={**application, "valid": not problems, "problems": problems})

    def _number(self, value: Any) -> float | None:
        """Numbers as people write them: 25,000 or "EUR 1 200.50"."""
        try:
            return float(re.sub(r"[^0-9.\-]", "", str(value)))
        except ValueError:
            return None

    def _problems(self, application: dict[str, Any]) -> list[str]:
        names = ("application_id", "applicant")
        problems = [f"{name}: missing" for name in names if not application[name]]
        for name, low, high in (
            ("amount", 500, 1_000_000),
            ("term_months", 6, 480),
            ("monthly_income", 1, 10_000_000),
            ("existing_debt", 0, 100_000_000),
        ):
            value = application[name]
            if value is None or not low <= value <= high:
                problems.append(f"{name}: expected {low} to {high}")
        return problems
