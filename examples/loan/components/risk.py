# ruff: noqa: RUF012 - lists, as Langflow writes its components
import asyncio
import json

from lfx.custom.custom_component.component import Component
from lfx.io import FloatInput, MessageTextInput, Output, StrInput
from lfx.schema.data import Data


class RiskScore(Component):
    display_name = "Risk Score"
    description = "Scores a loan application from 300 (worst) to 850 (best)."
    icon = "gauge"
    name = "RiskScore"

    inputs = [
        MessageTextInput(name="application", display_name="Application", info="As JSON."),
        FloatInput(name="annual_rate", display_name="Annual interest rate", value=0.08),
        StrInput(name="model_name", display_name="Model", value="rules-v1"),
        FloatInput(name="temperature", display_name="Temperature", value=0.0),
        FloatInput(name="seconds", display_name="Seconds of work", value=0.0),
    ]
    outputs = [Output(name="risk", display_name="Risk", method="score")]

    async def score(self) -> Data:
        await asyncio.sleep(self.seconds)
        application = json.loads(self.application)
        payment = self._payment(application["amount"], application["term_months"])
        # Old debt is assumed to cost 2 % of itself a month.
        old = application["existing_debt"] * 0.02
        burden = (payment + old) / application["monthly_income"]
        score = round(max(300.0, min(850.0, 850 - 700 * burden)))
        return Data(
            data={
                "application_id": application["application_id"],
                "amount": application["amount"],
                "score": score,
                "band": "low" if score >= 700 else "medium" if score >= 600 else "high",
                "factors": {
                    "monthly_payment": round(payment, 2),
                    "debt_service": round(old, 2),
                    "share_of_income": round(burden, 4),
                },
                "model": self.model_name,
                "temperature": self.temperature,
            }
        )

    def _payment(self, amount: float, months: float) -> float:
        monthly = self.annual_rate / 12
        if monthly == 0:
            return amount / months
        return amount * monthly / (1 - (1 + monthly) ** -months)
