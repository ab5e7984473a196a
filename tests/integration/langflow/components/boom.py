# ruff: noqa: RUF012 - lists, as Langflow writes its components
from lfx.custom.custom_component.component import Component
from lfx.io import MessageTextInput, Output
from lfx.schema.message import Message


class Boom(Component):
    display_name = "Boom"
    description = "Always fails."
    name = "Boom"

    inputs = [
        MessageTextInput(name="input_value", display_name="Input"),
        MessageTextInput(name="says", display_name="Says", value="boom on purpose"),
    ]
    outputs = [Output(name="out", display_name="Out", method="run_it")]

    def run_it(self) -> Message:
        raise ValueError(f"{self.says}: {self.input_value}")
