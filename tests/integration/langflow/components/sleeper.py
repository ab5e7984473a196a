# ruff: noqa: RUF012 - lists, as Langflow writes its components
import asyncio

from lfx.custom.custom_component.component import Component
from lfx.io import FloatInput, MessageTextInput, Output
from lfx.schema.message import Message


class Sleeper(Component):
    display_name = "Sleeper"
    description = "Takes its time."
    name = "Sleeper"

    inputs = [
        MessageTextInput(name="input_value", display_name="Input"),
        FloatInput(name="seconds", display_name="Seconds", value=0.2),
    ]
    outputs = [Output(name="out", display_name="Out", method="run_it")]

    async def run_it(self) -> Message:
        await asyncio.sleep(self.seconds)
        return Message(text=f"slept:{self.input_value}")
