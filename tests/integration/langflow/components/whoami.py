# ruff: noqa: RUF012 - lists, as Langflow writes its components
from lfx.custom.custom_component.component import Component
from lfx.io import MessageTextInput, Output
from lfx.schema.message import Message


class WhoAmI(Component):
    display_name = "Who Am I"
    description = "Answers with its session."
    name = "WhoAmI"

    inputs = [MessageTextInput(name="input_value", display_name="Input")]
    outputs = [Output(name="out", display_name="Out", method="run_it")]

    def run_it(self) -> Message:
        return Message(text=f"{self.graph.session_id}|{self.input_value}")
