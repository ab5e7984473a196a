# ruff: noqa: RUF012 - lists, as Langflow writes its components
from lfx.custom.custom_component.component import Component
from lfx.io import MessageTextInput, Output
from lfx.schema.data import Data


class MakeData(Component):
    display_name = "Make Data"
    description = "Answers with an object."
    name = "MakeData"

    inputs = [MessageTextInput(name="input_value", display_name="Input")]
    outputs = [Output(name="data_out", display_name="Data", method="make")]

    def make(self) -> Data:
        return Data(data={"text": f"data:{self.input_value}", "score": 0.5, "tags": ["a", "b"]})
