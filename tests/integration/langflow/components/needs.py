# ruff: noqa: RUF012 - lists, as Langflow writes its components
from lfx.custom.custom_component.component import Component
from lfx.io import MessageTextInput, Output
from lfx.schema.message import Message


class Needs(Component):
    display_name = "Needs"
    description = "Needs a package that nobody has."
    name = "Needs"

    inputs = [MessageTextInput(name="input_value", display_name="Input")]
    outputs = [Output(name="out", display_name="Out", method="run_it")]

    def run_it(self) -> Message:
        import flowbinding_no_such_package  # noqa: F401

        return Message(text=self.input_value)
