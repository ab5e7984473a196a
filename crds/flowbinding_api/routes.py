"""`spec.output.routes`: which results go to other topics."""

from __future__ import annotations

from flowbinding_api.base import ApiModel, ResultExpression, ResultTemplate, TopicName


class Route(ApiModel):
    """Results that go to a topic of their own."""

    when: ResultExpression
    """Jinja2 expression over the variables of the output, e.g. result.score >= 700."""
    topic: TopicName
    """Topic of the results for which `when` holds."""
    key: ResultTemplate | None = None
    """Template of their key; output.key when absent."""
