# ruff: noqa: RUF012 - lists, as Langflow writes its components
from lfx.custom.custom_component.component import Component
from lfx.io import MessageTextInput, Output
from lfx.schema.message import Message


class Weather(Component):
    display_name = "Weather"
    description = "Answers with its global variables."
    name = "Weather"

    inputs = [
        MessageTextInput(name="input_value", display_name="Input"),
        MessageTextInput(name="token", display_name="Token", value="TOKEN", load_from_db=True),
        MessageTextInput(name="city", display_name="City", value="THE_CITY", load_from_db=True),
    ]
    outputs = [Output(name="out", display_name="Out", method="run_it")]

    def run_it(self) -> Message:
        return Message(text=f"{self.city}, {self.token}: {self.input_value}")
