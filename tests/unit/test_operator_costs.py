"""What an operator with a thousand bindings must not spend its time on, and how it is counted."""

from __future__ import annotations

import itertools
from typing import Any

import kopf
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.offset import OffsetRequest

from flowbinding_api.binding import parse_binding
from flowbinding_operator.app import App
from flowbinding_operator.kafka import ClusterError, KafkaLink
from flowbinding_operator.lag import Target
from flowbinding_operator.main import kopf_settings
from flowbinding_operator.metrics import PREFIX, Metrics
from flowbinding_operator.pod import BINDING_LABEL
from flowbinding_operator.poller import LagWatcher
from flowbinding_operator.referenced import SHARED_SECONDS, Referenced
from flowbinding_operator.references import Missing, references
from flowbinding_operator.settings import Settings
from flowbinding_operator.store import Cache
from operator_fakes import FakeKube, FakeLink, manifest


class Answering:
    """A connection that answers whatever it is asked."""

    host, port = "kafka", 9092

    def connected(self) -> bool:
        return True

    async def send(self, request: Any) -> str:
        return "answer"


async def test_requests_are_counted_by_kafka_s_names() -> None:
    asked: list[str] = []
    link = KafkaLink({"bootstrap_servers": "kafka:9092"}, asked=asked.append)
    link._connections[1] = Answering()
    for request in (OffsetRequest(-1, 0, []), OffsetFetchRequest("group", None)):
        assert await link._send(1, request) == "answer"
    assert asked == ["ListOffsets", "OffsetFetch"]


async def test_looks_and_requests_are_counted_by_cluster() -> None:
    metrics, down = Metrics(), FakeLink()
    down.down = ClusterError("nobody there")
    links: dict[str, FakeLink] = {"a:1": FakeLink(), "b:1": down}
    watcher = LagWatcher(
        lambda *_: None,
        metrics,
        failed=lambda _: None,
        connect=lambda options: links[options["bootstrap_servers"]],
    )
    for name in links:
        target = Target(name, name, ("orders",))
        watcher.watch(target, f"{name}#x", {"bootstrap_servers": name})
    for poller in watcher.pollers.values():
        await poller._try_tick()

    def value(name: str, cluster: str) -> float | None:
        return metrics.registry.get_sample_value(f"{PREFIX}{name}", {"cluster": cluster})

    assert (value("lag_polls_total", "a:1"), value("lag_poll_failures_total", "a:1")) == (1, None)
    assert (value("lag_polls_total", "b:1"), value("lag_poll_failures_total", "b:1")) == (None, 1)
    assert value("lag_poll_duration_seconds_count", "b:1") == 1
    await watcher.close()


async def test_a_secret_that_many_bindings_share_is_read_a_few_times() -> None:
    kube, now = FakeKube(), 1000.0
    referenced = Referenced(kube, lambda: now)
    reference = {"name": "langflow", "key": "api-key"}
    flow = {"backend": "Langflow", "url": "http://l:7860", "id": "x", "apiKeySecretRef": reference}
    secret = {"kind": "Secret", "metadata": {"namespace": "shop", "name": "langflow"}}

    async def read(name: str) -> Missing | None:
        binding = parse_binding(manifest(name, flow=flow))
        wanted = references(binding)
        return (await referenced.read(binding, wanted, believed=60)).missing(wanted, binding)

    kube.put({**secret, "data": {}})
    assert await read("first") is not None
    kube.put({**secret, "data": {"api-key": "eA=="}})
    # What is missing is looked for again, however lately anybody has looked.
    assert await read("second") is None
    kube.reads.clear()
    assert [await read(f"b{number}") for number in range(100)] == [None] * 100
    assert kube.reads == []
    now += SHARED_SECONDS
    assert [await read(f"c{number}") for number in range(100)] == [None] * 100
    assert kube.reads == ["Secret"]


async def test_what_a_deployment_s_controller_has_seen_is_no_news() -> None:
    app, told = App(Settings(), FakeKube()), list[str]()
    versions = itertools.count(1)

    def enqueue(key: str, *_: object, **__: object) -> None:
        told.append(key)

    app.enqueue = enqueue  # type: ignore[method-assign]

    def event(kind: str = "MODIFIED", *, labels: bool = True, **status: Any) -> int:
        metadata = {
            "namespace": "shop",
            "name": "risk-worker",
            "uid": "1",
            "resourceVersion": str(next(versions)),
            "labels": {BINDING_LABEL: "risk"} | ({} if labels else {"by": "hand"}),
            "annotations": {"deployment.kubernetes.io/revision": str(len(status))},
        }
        item = {"metadata": metadata, "spec": {"replicas": 1}, "status": status}
        app.child_event(kind, item, app.deployments)
        return len(told)

    assert event("ADDED") == 1
    assert event(observedGeneration=1) == 1
    assert event(observedGeneration=1, replicas=1) == 2
    assert event(observedGeneration=1, replicas=1, unavailableReplicas=1) == 2
    assert event(observedGeneration=1, replicas=1, readyReplicas=1) == 3
    assert event(observedGeneration=1, replicas=1, readyReplicas=1, updatedReplicas=1) == 3
    assert event(observedGeneration=1, replicas=1, readyReplicas=1, labels=False) == 4
    assert event("DELETED", observedGeneration=1, replicas=1, readyReplicas=1) == 5


def test_of_who_owns_what_only_the_replicas_owners_are_remembered() -> None:
    cache = Cache()
    entries = [
        {"manager": "one", "fieldsV1": {"f:spec": {"f:replicas": {}, "f:template": {}}}},
        {"manager": "two", "fieldsV1": {"f:status": {}}},
        {"manager": "three"},
    ]
    item = {"metadata": {"namespace": "shop", "name": "x", "managedFields": entries}, "spec": {}}
    assert cache.put("shop/x", item)
    (kept,) = (cache.get("shop/x") or {})["metadata"]["managedFields"]
    assert kept == {"manager": "one", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    assert item["metadata"]["managedFields"] == entries


def test_kopf_neither_copies_nor_writes_an_object() -> None:
    storage = kopf_settings().persistence.diffbase_storage
    body = kopf.Body({"metadata": {"name": "x"}, "spec": {"a": 1}})
    patch = kopf.Patch()
    essence = storage.build(body=body, extra_fields=None)
    storage.store(body=body, patch=patch, essence=essence)
    assert (dict(essence), storage.fetch(body=body), dict(patch)) == ({}, None, {})
