"""What the presets of `spec.flow.http` stand for: plain data, which the user's own fields override.

Each follows the product's public API for one run that is waited for:

    OpenAI     Create chat completion, of OpenAI and of any server with a compatible API
    Flowise    Prediction
    Dify       Send chat message, blocking
    LangGraph  Create run and wait for its output, stateless
    N8n        a Webhook node that responds when the workflow has ended
"""

from __future__ import annotations

from collections.abc import Mapping

from flowbinding_api.flow_http import Http, HttpMethod, Preset

_PLAIN = Http(
    method=HttpMethod.POST, path="", body={"input": "{{ input }}", "session": "{{ session }}"}
)

PRESETS: Mapping[Preset, Http] = {
    Preset.OPENAI: Http(
        path="/v1/chat/completions",
        body={"model": "{{ flow }}", "messages": [{"role": "user", "content": "{{ input }}"}]},
        text="/choices/0/message/content",
        # Some compatible servers answer 200 with an error in it.
        error="/error",
    ),
    Preset.FLOWISE: Http(
        path="/api/v1/prediction/{{ flow }}",
        body={
            "question": "{{ input }}",
            "streaming": False,
            "overrideConfig": {"sessionId": "{{ session }}"},
        },
        text="/text",
    ),
    Preset.DIFY: Http(
        path="/v1/chat-messages",
        body={
            "inputs": {},
            "query": "{{ input }}",
            "response_mode": "blocking",
            "user": "{{ session }}",
        },
        text="/answer",
    ),
    Preset.LANGGRAPH: Http(
        path="/runs/wait",
        body={
            "assistant_id": "{{ flow }}",
            "input": {"messages": [{"role": "user", "content": "{{ input }}"}]},
        },
        text="/messages/-1/content",
        # A run that fails answers 200.
        error="/__error__",
    ),
    Preset.N8N: Http(
        # A webhook's path may have several segments.
        path="/webhook/{{ flow | safe }}",
        body={"chatInput": "{{ input }}", "sessionId": "{{ session }}"},
    ),
}


def resolved(http: Http | None, url: str) -> Http:
    """What the HTTP backend sends and reads, with nothing left open but the pointers.

    Args:
        http: The user's fields.
        url: The server's. A preset's path does not repeat what it ends with: OpenAI's clients are
            given `https://api.openai.com/v1`, say.

    Returns:
        Fields with `method`, `path` and `headers`, and with `body` if the method has one.
    """
    given = http or Http()
    base = _PLAIN if given.preset is None else PRESETS[given.preset]
    method = given.method or base.method or HttpMethod.POST
    own = {name: getattr(given, name) for name in given.model_fields_set}
    fields = {name: value for name, value in own.items() if value is not None}
    changes = {
        "path": _without_overlap(url, base.path or ""),
        **fields,
        "method": method,
        "headers": {**base.headers, **given.headers},
        "body": _body(given, base) if method.has_body else None,
    }
    return base.model_copy(update=changes)


def _body(given: Http, base: Http) -> dict[str, object] | None:
    if given.body is None:
        return base.body
    return given.body if given.preset is None else {**(base.body or {}), **given.body}


def _without_overlap(url: str, path: str) -> str:
    # Not by a parser, which raises for what is no URL.
    there = url.partition("://")[2].partition("?")[0].rstrip("/")
    parts = path.split("/")
    for count in range(len(parts) - 1, 1, -1):
        if there.endswith("/".join(parts[:count])):
            return "/" + "/".join(parts[count:])
    return path
