"""What the operator asks flow servers, and what it makes of their answers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import aiohttp.web
import pytest

from flowbinding_api import parse_binding
from flowbinding_operator.probe import FLOW_SECONDS, Prober, Target, target_of
from flowbinding_operator.references import Objects
from operator_fakes import manifest
from operator_harness import Operator

UUID = "ab8d1f21-37b9-4734-95cf-b60e829c7baa"
KEY = "sk-good"
BINDING = "shop/risk"
SECRETS: Objects = {
    ("Secret", "langflow"): {"kind": "Secret", "data": {"key": "c2stZ29vZAo=", "bad": "w6TDtg=="}}
}
REF = {"apiKeySecretRef": {"name": "langflow", "key": "key"}}


class Langflow:
    """A server that knows one flow; `answers` says otherwise, by path."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.answers: dict[str, aiohttp.web.Response] = {}

    async def handle(self, request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        self.asked.append(request.path)
        if request.path in self.answers:
            known = self.answers[request.path]
            return aiohttp.web.Response(
                status=known.status, body=known.body, content_type=known.content_type
            )
        documents = {
            "/health_check": {"status": "ok", "chat": "ok", "db": "ok"},
            "/health": {"status": "healthy", "flow_count": 1},
            "/api/v1/version": {"version": "1.13.0", "package": "Langflow"},
        }
        if request.path in documents:
            assert "x-api-key" not in request.headers
            return aiohttp.web.json_response(documents[request.path])
        if request.headers.get("x-api-key") != KEY:
            return aiohttp.web.json_response({"detail": "Invalid or missing API key"}, status=403)
        if request.path in (f"/api/v1/flows/{UUID}", "/flows/risk/info"):
            return aiohttp.web.json_response({"id": UUID})
        return aiohttp.web.json_response({"detail": "Flow not found"}, status=404)


@pytest.fixture
async def langflow() -> AsyncIterator[Langflow]:
    server = Langflow()
    runner = aiohttp.web.ServerRunner(aiohttp.web.Server(server.handle), shutdown_timeout=0.1)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    server.url = f"http://{host}:{port}"
    yield server
    await runner.cleanup()


class Asking:
    """A prober whose time is made by the test."""

    def __init__(self) -> None:
        self.now = 0.0
        self.news: list[str] = []
        self.prober = Prober(self.news.append, seconds=60, clock=lambda: self.now)

    async def about(self, target: Target | None, key: str = "shop/risk") -> tuple[str, str, str]:
        """Status, reason and message."""
        self.prober.watch(key, target)
        await self.prober.ask()
        found = self.prober.result(key)
        assert found is not None
        return found.status.value, found.reason.value, found.message


def target(url: str, **flow: Any) -> Target | None:
    flow = {"backend": "Langflow", "url": url, "id": UUID, **flow}
    return target_of(parse_binding(manifest(flow=flow)), SECRETS)


async def test_a_flow_that_is_there(langflow: Langflow) -> None:
    found = await Asking().about(target(f"{langflow.url}/", **REF))
    assert found == ("True", "ServerHealthy", "Langflow 1.13.0 has the flow")


async def test_lfx_serve(langflow: Langflow) -> None:
    found = await Asking().about(target(langflow.url, id="risk", api="Serve", **REF))
    assert found == ("True", "ServerHealthy", "lfx serve has the flow")
    assert langflow.asked == ["/health", "/flows/risk/info"]
    langflow.answers["/flows/none/info"] = aiohttp.web.json_response(
        {"detail": {"error": "flow not found", "flow_id": "none"}}, status=404
    )
    found = await Asking().about(target(langflow.url, id="none", api="Serve", **REF))
    assert found[:2] == ("False", "FlowNotFound")


@pytest.mark.parametrize("flow", [{"id": "risk-agent", **REF}, {}])
async def test_what_cannot_be_asked_is_left_to_the_workers(
    langflow: Langflow, flow: dict[str, Any]
) -> None:
    found = await Asking().about(target(langflow.url, **flow))
    assert found[:2] == ("True", "ServerHealthy")
    assert found[2] == "Langflow 1.13.0 answers; whether it has the flow is not known"
    assert langflow.asked == ["/health_check", "/api/v1/version"]


async def test_an_unknown_flow(langflow: Langflow) -> None:
    other = "00000000-0000-4000-8000-000000000000"
    found = await Asking().about(target(langflow.url, id=other, **REF))
    assert found[:2] == ("False", "FlowNotFound")


async def test_a_wrong_key_and_its_repair(langflow: Langflow) -> None:
    asking, path = Asking(), f"/api/v1/flows/{UUID}"
    langflow.answers[path] = aiohttp.web.json_response({"detail": "Invalid API key"}, status=403)
    found = await asking.about(target(langflow.url, **REF))
    assert found[:2] == ("False", "FlowUnauthorized")
    assert KEY not in found[2]
    del langflow.answers[path]
    asking.now += 60
    assert (await asking.about(target(langflow.url, **REF)))[0] == "True"
    assert asking.news == ["shop/risk", "shop/risk"]


@pytest.mark.parametrize(
    "answer",
    [
        aiohttp.web.Response(status=404, text="<html>", content_type="text/html"),
        aiohttp.web.json_response({"detail": "Not Found"}, status=404),
        aiohttp.web.Response(status=403, text="<html>", content_type="text/html"),
        aiohttp.web.json_response({"message": "no"}, status=403),
        aiohttp.web.json_response({"detail": "Internal Server Error"}, status=500),
        aiohttp.web.Response(status=404, text="{", content_type="application/json"),
    ],
    ids=["page", "unknown-path", "forbidden-page", "gateway", "error", "broken"],
)
async def test_nobody_but_the_flow_server_speaks_against_a_binding(
    langflow: Langflow, answer: aiohttp.web.Response
) -> None:
    langflow.answers[f"/api/v1/flows/{UUID}"] = answer
    found = await Asking().about(target(langflow.url, **REF))
    assert found[:2] == ("True", "ServerHealthy")
    assert "not known" in found[2]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (aiohttp.web.Response(status=503, text="no"), "GET /health_check was answered with 503"),
        (aiohttp.web.Response(status=302, text=""), "GET /health_check was answered with 302"),
        (
            aiohttp.web.Response(text="<html>", content_type="text/html"),
            "GET /health_check was answered with 200, a web page",
        ),
    ],
)
async def test_a_server_that_is_none_leaves_it_unknown(
    langflow: Langflow, answer: aiohttp.web.Response, message: str
) -> None:
    langflow.answers = {"/health_check": answer, "/api/v1/version": answer}
    found = await Asking().about(target(langflow.url, **REF))
    assert found[:2] == ("Unknown", "ProbeFailed")
    assert found[2] == f"the operator has no answer from {langflow.url}: {message}; workers may"


async def test_an_ingress_for_the_api_alone(langflow: Langflow) -> None:
    langflow.answers["/health_check"] = aiohttp.web.Response(status=404, text="no")
    assert (await Asking().about(target(langflow.url, **REF)))[0] == "True"


async def test_nobody_there(unused_tcp_port: int) -> None:
    url = f"http://user:secret@127.0.0.1:{unused_tcp_port}"
    found = await Asking().about(target(url, **REF))
    assert found[:2] == ("Unknown", "ProbeFailed")
    assert "cannot connect" in found[2]
    assert "secret" not in found[2]


async def test_a_server_that_restarts_is_no_news(langflow: Langflow) -> None:
    asking = Asking()
    asked = target(langflow.url, **REF)
    await asking.about(asked)
    langflow.answers["/health_check"] = aiohttp.web.Response(status=503)
    asking.now += 60
    assert (await asking.about(asked))[0] == "True"
    del langflow.answers["/health_check"]
    asking.now += 60
    await asking.about(asked)
    assert asking.news == ["shop/risk"]
    langflow.answers["/health_check"] = aiohttp.web.Response(status=503)
    for _ in range(2):
        asking.now += 60
        found = await asking.about(asked)
    assert found[:2] == ("Unknown", "ProbeFailed")


async def test_bindings_share_what_is_asked_about_a_server(langflow: Langflow) -> None:
    asking = Asking()
    for number in range(3):
        asking.prober.watch(f"shop/{number}", target(langflow.url, **REF))
    await asking.prober.ask()
    await asking.prober.ask()
    assert sorted(langflow.asked) == ["/api/v1/flows/" + UUID] * 3 + [
        "/api/v1/version",
        "/health_check",
    ]
    asking.now += 60
    await asking.prober.ask()
    assert langflow.asked[5:] == ["/health_check", "/api/v1/version"]
    asking.now += FLOW_SECONDS
    await asking.prober.ask()
    assert len(langflow.asked) == 12
    assert len(asking.news) == 3


async def test_a_change_is_asked_about_anew(langflow: Langflow) -> None:
    asking = Asking()
    await asking.about(target(langflow.url, **REF))
    asking.prober.watch("shop/risk", target(langflow.url))
    assert asking.prober.result("shop/risk") is None
    asking.prober.forget("shop/risk")
    await asking.prober.ask()
    assert asking.prober.result("shop/risk") is None


def test_nothing_is_asked_when_it_is_switched_off() -> None:
    prober = Prober(lambda _: None, seconds=0)
    prober.watch("shop/risk", target("http://langflow:7860"))
    assert prober.result("shop/risk") is None
    assert not prober._watched


@pytest.mark.parametrize(
    "flow",
    [{"backend": "Echo"}, {"backend": "Langflow", "url": "http://langflow:7860"}],
    ids=["another-backend", "no-flow"],
)
def test_bindings_without_a_server(flow: dict[str, Any]) -> None:
    assert target_of(parse_binding(manifest(flow=flow)), {}) is None


def test_a_flow_behind_another_proof_is_not_asked_for() -> None:
    auth = {"bearerTokenSecretRef": {"name": "langflow", "key": "key"}}
    found = target("http://langflow", id=UUID, auth=auth, **REF)
    assert found is not None
    assert (found.flow_path, found.headers) == (None, ())


def test_a_target_does_not_show_its_key() -> None:
    asked = target("http://user:pass@langflow:7860/x/?a=b#c", **REF)
    assert asked is not None
    assert asked.url == "http://langflow:7860/x"
    assert dict(asked.headers) == {"x-api-key": KEY}
    assert KEY not in repr(asked)
    bad = target("http://langflow", apiKeySecretRef={"name": "langflow", "key": "bad"})
    assert bad is not None
    assert bad.flow_path is None


async def test_an_authority_of_ones_own(langflow: Langflow) -> None:
    url = langflow.url.replace("http:", "https:")
    asked = target(url, tls={"caSecretRef": {"name": "langflow", "key": "key"}})
    assert asked is not None
    assert asked.ca == b"sk-good\n"
    found = await Asking().about(asked)
    assert found[:2] == ("Unknown", "ProbeFailed")
    assert "TLS failed" in found[2]


async def test_what_is_new_is_asked_about_at_once(langflow: Langflow) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    prober = Prober(told.put_nowait, seconds=3600)
    running = asyncio.create_task(prober.run())
    async with asyncio.timeout(30):
        for key in ("shop/one", "shop/two"):
            prober.watch(key, target(langflow.url, **REF))
            assert await told.get() == key
    running.cancel()
    await asyncio.wait([running])


async def probed(operator: Operator) -> list[str]:
    """Ask, and reconcile if that has told anything new; returns the writes."""
    operator.queued.clear()
    await operator.prober.ask()
    if BINDING not in operator.queued:
        return []
    await operator.reconcile()
    return operator.kube.writes


async def test_a_binding_at_rest_shows_what_the_server_says(langflow: Langflow) -> None:
    operator = Operator()
    operator.kube.put(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "langflow", "namespace": "shop"},
            "data": {"key": "c2stZ29vZAo="},
        }
    )
    operator.submit(flow={"backend": "Langflow", "url": langflow.url, "id": UUID, **REF})
    await operator.reconcile()
    await operator.poll()
    assert operator.condition("FlowReachable") == ("Unknown", "NotCalledYet")
    assert await probed(operator)
    assert operator.condition("FlowReachable") == ("True", "ServerHealthy")
    assert operator.status["flowVersion"] == "1.13.0"
    assert not await probed(operator)

    operator.restart()
    await operator.reconcile()
    await operator.poll()
    assert operator.condition("FlowReachable") == ("True", "ServerHealthy")
    assert not await probed(operator), "what is known already is written again"

    gone = aiohttp.web.json_response({"detail": "Flow not found"}, status=404)
    langflow.answers[f"/api/v1/flows/{UUID}"] = gone
    operator.now += FLOW_SECONDS
    assert await probed(operator)
    assert operator.condition("FlowReachable") == ("False", "FlowNotFound")
    assert operator.condition("Ready") == ("False", "FlowNotFound")


async def test_asking_many_servers_can_be_ended_at_any_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asking, begun = Asking(), asyncio.Event()

    async def hang(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(asking.prober, "_ask_server", hang)
    for number in range(30):
        asking.prober.watch(f"shop/{number}", target(f"http://langflow-{number}:7860"))
    asked = asyncio.create_task(asking.prober.ask())
    await begun.wait()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    # A question that was made and not begun is a warning, and so an error here.
    gc.collect()
