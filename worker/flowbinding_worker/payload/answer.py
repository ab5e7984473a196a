"""What counts as data in a flow's answer.

Chains need it: a flow's data reaches a chat output as text (Langflow writes an object into a
```json block), and the next binding wants `{{ value.result.score }}`, not a text to parse. The
rule: text that as a whole is a JSON object or array, bare or in one fenced block, is that object
or array. Anything else is text: prose around a block, two blocks, and scalars (`42` stays "42", so
that an answer does not change its type from message to message).
"""

from __future__ import annotations

import re
from typing import Any

from flowbinding_worker import jsons

_FENCE = re.compile(r"```(?:json|JSON)?[ \t]*\r?\n(?P<body>.*)\r?\n?```", re.DOTALL)


def as_data(answer: Any) -> Any:
    """The JSON object or array that a text answer consists of; any other answer as it is."""
    if not isinstance(answer, str):
        return answer
    text = answer.strip()
    if text.startswith("```"):
        fenced = _FENCE.fullmatch(text)
        text = fenced["body"].strip() if fenced else ""
    if not text.startswith(("{", "[")):
        return answer
    try:
        return jsons.strict(text)
    except ValueError:
        return answer
