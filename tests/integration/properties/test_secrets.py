"""Credentials come out nowhere: logs at Debug, headers, metrics, commits, errors, tracebacks."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from flowbinding_api.offsets import decode
from integration.flow_server import Call, FlowServer
from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import TopicFactory, committed, create_topics, lag, produce, read_all, read_until
from testbed import KafkaBroker
from testbed.state import LOOPBACK

pytestmark = pytest.mark.timeout(120)

USER, PASSWORD = "canary-sasl-user", "canary-sasl-password"
API_KEY = "canary-api-key"
URL_USER, URL_PASSWORD = "canary-url-user", "canary-url-password"
BASIC = base64.b64encode(f"{URL_USER}:{URL_PASSWORD}".encode()).decode()

FAULTS = f"""
from flowbinding_worker.flows.langflow import LangflowFlow

sound = LangflowFlow.run

async def run(self, request):
    # As the frames of a real run hold it.
    headers = {{"x-api-key": {API_KEY!r}}}
    if request.input == "crash":
        raise RuntimeError("injected")
    if request.input == "crash-quoting":
        raise RuntimeError(f"cannot send {{headers}}")
    return await sound(self, request)

LangflowFlow.run = run
"""
"""Put into the worker: an error that nobody expects, in a frame that knows a secret."""


@dataclass
class Secured:
    """A broker that asks clients who they are, with a second door for the test itself."""

    broker: KafkaBroker
    plain: str
    secrets: Path
    canaries: list[str]

    def spec(self, flow: FlowServer, **more: Any) -> dict[str, Any]:
        def ref(key: str) -> dict[str, str]:
            return {"name": "all", "key": key}

        tls = {"caSecretRef": ref("ca"), "certificateSecretRef": ref("cert")}
        return {
            "kafka": {
                "tls": {"enabled": True, **tls, "keySecretRef": ref("tls-key")},
                "sasl": {
                    "mechanism": "SCRAM-SHA-512",
                    "usernameSecretRef": ref("user"),
                    "passwordSecretRef": ref("password"),
                },
            },
            "flow": flow.spec(apiKeySecretRef=ref("api-key")),
            "worker": {"logLevel": "Debug"},
            **more,
        }

    def held_by(self, texts: Iterable[str]) -> set[str]:
        """Canaries that are in any of the texts."""
        everything = "\n".join(texts)
        assert everything
        return {canary for canary in self.canaries if canary in everything}


@contextmanager
def secured(folder: Path) -> Iterator[Secured]:
    own = folder / "own"
    state = KafkaBroker(own).state
    plain = f"{LOOPBACK}:{state.port('plain')}"
    client = f"CLIENT://{LOOPBACK}:{state.port('kafka')}"
    controller = f"CONTROLLER://{LOOPBACK}:{state.port('kafka-controller')}"
    doors = {
        "listeners": f"{client},{controller},PLAIN://{plain}",
        "advertised.listeners": f"{client},PLAIN://{plain}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,CLIENT:SASL_SSL,PLAIN:PLAINTEXT",
    }
    broker = KafkaBroker(own, tls=True, sasl=True, users={USER: PASSWORD}, properties=doors)
    with broker:
        secrets = folder / "secrets" / "all"
        secrets.mkdir(parents=True)
        pair = broker.client_certificate("worker")
        key = pair.key.read_text()
        contents = {
            "ca": broker.ca.read_text(),
            "cert": pair.certificate.read_text(),
            "tls-key": key,
            "user": USER,
            "password": f"{PASSWORD}\n",
            "api-key": f"{API_KEY}\n",
        }
        for name, text in contents.items():
            (secrets / name).write_text(text)
        lines = [line for line in key.splitlines() if not line.startswith("-")]
        canaries = [USER, PASSWORD, API_KEY, *lines]
        yield Secured(broker, plain, secrets, [*canaries, str(secrets / "tls-key")])


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Secured]:
    with secured(tmp_path) as made:
        await create_topics(made.plain, "in", "out", "dead", partitions=1)
        yield made


def faults(folder: Path) -> str:
    """A folder for PYTHONPATH that puts FAULTS into a worker."""
    made = folder / "faults"
    made.mkdir()
    (made / "sitecustomize.py").write_text(FAULTS)
    return str(made)


def texts_of(records: Iterable[Any]) -> Iterator[str]:
    for record in records:
        for part in (record.key, record.value, *(value for _, value in record.headers)):
            yield (part or b"").decode(errors="replace")


def quoting(call: Call, status: int, kind: str = "application/json") -> web.Response:
    """An answer of a server that quotes the request's headers, as some proxies' pages do."""
    page = f'{{"detail": "x-api-key: {call.api_key}"}}'
    return web.Response(status=status, text=page, content_type=kind)


QUOTED = {
    "quoted-refusal": (422, "application/json"),
    "quoted-page": (422, "text/html"),
    "quoted-error": (500, "application/json"),
    "quoted-odd": (200, "application/json"),
}


async def said(cluster: Secured, worker: WorkerProcess) -> list[str]:
    """What a worker's metrics and commits say now."""
    seen = [(await worker.get("/metrics"))[1]]
    for offset, metadata in (await committed(cluster.plain, worker.group)).values():
        figures = decode(offset, metadata).figures
        assert figures is not None
        seen.append(f"{figures.reason}: {figures.message}")
    return seen


async def test_no_credential_comes_out(cluster: Secured, tmp_path: Path, flow: FlowServer) -> None:
    locked = True

    async def answer(call: Call) -> web.Response | None:
        if locked:
            return quoting(call, 401)
        if call.input == "quoted-elsewhere" and flow.inputs.count(call.input) == 1:
            return quoting(call, 200, "text/html")
        if call.input in QUOTED:
            return quoting(call, *QUOTED[call.input])
        return None

    flow.answer = answer
    spec = cluster.spec(
        flow,
        deadLetter={"topic": "dead"},
        output={"topic": "out", "value": "{{ result }}"},
        retry={"maxAttempts": 2},
        concurrency={"ordering": "None"},
    )
    document = manifest(cluster.broker.bootstrap, "in", spec)
    inputs = ["good", "crash", "quoted-elsewhere", *QUOTED]
    # Enough good ones that the bad ones are taken for bad, and not the flow.
    await produce(
        cluster.plain,
        "in",
        [(None, text.encode()) for name in inputs for text in (name, *["fine"] * 9)],
    )
    worker = WorkerProcess(tmp_path, document, PYTHONPATH=faults(tmp_path))
    seen: list[str] = []
    async with worker:

        async def refusing() -> bool:
            return '"FlowUnauthorized"' in worker.log.read_text()

        await until(refusing)
        seen += await said(cluster, worker)
        locked = False

        async def done() -> bool:
            return await lag(cluster.plain, worker.group, "in") == 0

        await until(done, 60)
        seen += await said(cluster, worker)
        assert await worker.terminate() == 0
    log = worker.log.read_text()
    results = await read_all(cluster.plain, "out")
    letters = await read_all(cluster.plain, "dead")
    assert {call.api_key for call in flow.calls} == {API_KEY}
    assert "injected" in log, "the fault was met"
    assert '"debug"' in log
    assert {letter.value.decode() for letter in letters} == {"crash", *QUOTED}
    everything = [log, *seen, *texts_of(results), *texts_of(letters)]
    assert not cluster.held_by(everything) - {USER}, "the user has a test of its own"


async def test_a_broken_answer_that_quotes_the_key(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    async def answer(call: Call) -> web.Response | None:
        broken = f'{{"detail": "x-api-key: {call.api_key}"'
        return web.Response(text=broken, content_type="application/json")

    flow.answer = answer
    log, letter = await one_dead_letter(kafka, topic, tmp_path, flow, b"broken")
    assert API_KEY not in log
    assert API_KEY not in "".join(texts_of([letter]))


async def test_an_unexpected_error_that_quotes_the_key(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    log, letter = await one_dead_letter(kafka, topic, tmp_path, flow, b"crash-quoting")
    assert "cannot send" in log
    assert API_KEY not in log
    assert API_KEY not in "".join(texts_of([letter]))


async def one_dead_letter(
    kafka: KafkaBroker, topic: TopicFactory, folder: Path, flow: FlowServer, value: bytes
) -> tuple[str, Any]:
    """The log of a worker with an API key, and the dead letter of its only message."""
    source, dead = await topic(1), await topic(1)
    secret = folder / "secrets" / "langflow" / "api-key"
    secret.parent.mkdir(parents=True)
    secret.write_text(API_KEY)
    spec = {
        "flow": flow.spec(apiKeySecretRef={"name": "langflow", "key": "api-key"}),
        "deadLetter": {"topic": dead},
        "retry": {"maxAttempts": 1},
        "worker": {"logLevel": "Debug"},
    }
    document = manifest(kafka.bootstrap, source, spec)
    await produce(kafka.bootstrap, source, [(None, value)])
    async with WorkerProcess(folder, document, PYTHONPATH=faults(folder)) as worker:
        [letter] = await read_until(kafka.bootstrap, dead, 1)
        assert await worker.terminate() == 0
    return worker.log.read_text(), letter


async def test_the_kafka_user_stays_out_of_the_log(
    cluster: Secured, tmp_path: Path, flow: FlowServer
) -> None:
    document = manifest(cluster.broker.bootstrap, "in", cluster.spec(flow))
    async with WorkerProcess(tmp_path, document) as worker:
        await until(worker.ready)
        assert await worker.terminate() == 0
    assert USER not in worker.log.read_text()


async def test_a_url_with_user_and_password_works_and_shows_neither(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source, dead = await topic(1), await topic(1)

    async def answer(call: Call) -> web.Response | None:
        told = web.Response(status=422, text=f"Authorization: Basic {BASIC}")
        return told if call.input == "quoted" else None

    flow.answer = answer
    url = flow.url.replace("://", f"://{URL_USER}:{URL_PASSWORD}@")
    spec = {
        "flow": flow.spec(url=url),
        "deadLetter": {"topic": dead},
        "worker": {"logLevel": "Debug"},
    }
    document = manifest(kafka.bootstrap, source, spec)
    await produce(kafka.bootstrap, source, [(None, b"good"), (None, b"quoted")])
    async with WorkerProcess(tmp_path, document) as worker:
        await until(lambda: "good" in flow.inputs, 20)
        letters = await read_until(kafka.bootstrap, dead, 1)
        assert await worker.terminate() == 0
    texts = "\n".join([worker.log.read_text(), *texts_of(letters)])
    assert not [secret for secret in (URL_USER, URL_PASSWORD, BASIC) if secret in texts]


async def test_errors_of_login_and_start_quote_no_credential(
    cluster: Secured, tmp_path: Path, flow: FlowServer
) -> None:
    (cluster.secrets / "password").write_text(f"{PASSWORD}-outdated")
    document = manifest(cluster.broker.bootstrap, "in", cluster.spec(flow))
    async with WorkerProcess(tmp_path, document) as refused_by_kafka:

        async def said() -> bool:
            return '"trouble"' in refused_by_kafka.log.read_text()

        await until(said)
        second = WorkerProcess(tmp_path, document, "worker-1")
        second.port = refused_by_kafka.port
        async with second:
            assert await second.process.wait() == 1
        (cluster.secrets / "tls-key").write_text("not a key, but canary-tls-key")
        cluster.canaries.append("canary-tls-key")
        third = WorkerProcess(tmp_path, document, "worker-2")
        async with third:

            async def unusable() -> bool:
                return '"trouble"' in third.log.read_text()

            await until(unusable)
            metrics = (await third.get("/metrics"))[1]
            assert await third.terminate() == 0
        assert await refused_by_kafka.terminate() == 0
    logs = [worker.log.read_text() for worker in (refused_by_kafka, second, third)]
    assert "Traceback" in logs[1] or '"exception"' in logs[1], "it gave up with a traceback"
    assert not cluster.held_by([*logs, metrics])
