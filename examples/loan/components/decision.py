# ruff: noqa: RUF012 - lists, as Langflow writes its components
import asyncio
import json

from lfx.custom.custom_component.component import Component
from lfx.io import FloatInput, IntInput, MessageTextInput, Output, StrInput
from lfx.schema.data import Data


class LoanDecision(Component):
    display_name = "Loan Decision"
    description = "Decides on a loan by its risk score."
    icon = "gavel"
    name = "LoanDecision"

    inputs = [
        MessageTextInput(name="risk", display_name="Risk", info="The scored risk as JSON."),
        IntInput(name="approve_at", display_name="Approve from score", value=700),
        IntInput(name="review_at", display_name="Review from score", value=600),
        StrInput(name="model_name", display_name="Model", value="rules-v1"),
        FloatInput(name="temperature", display_name="Temperature", value=0.0),
        FloatInput(name="seconds", display_name="Seconds of work", value=0.0),
    ]
    outputs = [Output(name="decision", display_name="Decision", method="decide")]

    async def decide(self) -> Data:
        await asyncio.sleep(self.seconds)
        risk = json.loads(self.risk)
        score = risk["score"]
        if score >= self.approve_at:
            decision, why = "approved", f"score {score} reaches {self.approve_at}"
        elif score >= self.review_at:
            decision, why = "review", f"score {score} is below {self.approve_at}"
        else:
            decision, why = "declined", f"score {score} is below {self.review_at}"
        return Data(
            data={
                "application_id": risk["application_id"],
                "decision": decision,
                "reason": why,
                "score": score,
                "amount": risk["amount"],
                "model": self.model_name,
                "temperature": self.temperature,
            }
        )
