# ruff: noqa: RUF012 - lists, as Langflow writes its components
from lfx.custom.custom_component.component import Component
from lfx.io import MessageTextInput, Output
from lfx.schema.dataframe import DataFrame


class MakeFrame(Component):
    display_name = "Make Frame"
    description = "Answers with rows."
    name = "MakeFrame"

    inputs = [MessageTextInput(name="input_value", display_name="Input")]
    outputs = [Output(name="data_out", display_name="Rows", method="make")]

    def make(self) -> DataFrame:
        return DataFrame([{"text": self.input_value, "n": 1}, {"text": "row2", "n": 2}])
