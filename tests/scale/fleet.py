"""A fleet on the testbed: bindings, their topics, bursts, and the operator that serves them."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Self

import httpx
import yaml
from aiokafka import AIOKafkaProducer

import kafkaio
from flowbinding_operator.kafka import LATEST, KafkaLink
from flowbinding_operator.lag import Commit
from flowbinding_operator.pod import BINDING_LABEL
from manifests import manifest
from scale.figures import Scrape
from testbed import Testbed
from testbed.bed import OPERATOR_NAMESPACE
from testbed.controlplane import PAPER, PAPER_TAINT

PARTITIONS = 6
WANTED = 4
"""Workers that a burst asks for."""
MESSAGES = 600
"""Of a burst into one topic: some two minutes' work for one worker."""
TOGETHER = 16
BINDINGS = "/apis/flowbinding.io/v1alpha1/namespaces/{}/flowbindings"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments"
WRITES = ("POST", "PUT", "PATCH", "APPLY", "DELETE")
OWN = "flowbinding_operator_"
ASKED = [
    *(f"{OWN}{name}_total" for name in ("kubernetes_writes", "kafka_requests", "lag_polls")),
    *(f"{OWN}{name}" for name in ("offset_fetches_total", "reconcile_total", "workqueue_depth")),
    *(f"{OWN}{name}_seconds_bucket" for name in ("lag_poll_duration", "event_loop_lag")),
    *("process_resident_memory_bytes", "process_cpu_seconds_total"),
]
"""What is asked of the operator's metrics."""


class Fleet:
    """Bindings in a namespace of their own, several to a topic. Use as an async context manager.

    Args:
        bed: A testbed that is up, with its paper node.
        bindings: How many there are.
        topics: Topics that they share.
        name: Of the namespace, and what the topics' names begin with.
    """

    def __init__(self, bed: Testbed, bindings: int, topics: int, name: str = "fleet") -> None:
        self.bed, self.name = bed, name
        self.topics = [f"{name}-{n}" for n in range(topics)]
        self.bindings = [f"b{n}" for n in range(bindings)]
        self._client = api_client(bed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    def topic_of(self, binding: str) -> str:
        """Whose messages a binding gets."""
        return self.topics[int(binding[1:]) % len(self.topics)]

    def of_topics(self, topics: Iterable[str]) -> list[str]:
        """The bindings of some topics."""
        wanted = set(topics)
        return [binding for binding in self.bindings if self.topic_of(binding) in wanted]

    async def create(self) -> None:
        """Make topics and bindings."""
        for start in range(0, len(self.topics), 100):
            some = self.topics[start : start + 100]
            await kafkaio.create_topics(self.bed.bootstrap, *some, partitions=PARTITIONS)
        # A broker that ever had a consumer has its topic of commits; making it takes a while.
        await kafkaio.coordinator(self.bed.bootstrap, self.name)
        body = {"metadata": {"name": self.name}}
        await self._post("/api/v1/namespaces", body)
        await self._each(
            self.bindings, lambda one: self._post(BINDINGS.format(self.name), self._binding(one))
        )

    async def remove(self) -> None:
        """Delete them, and wait until the bindings are gone; the rest follows by itself."""
        await self._client.delete(BINDINGS.format(self.name))
        await until(self._no_bindings, "the bindings are gone", 120)
        await self._client.delete(f"/api/v1/namespaces/{self.name}")
        await kafkaio.delete_topics(self.bed.bootstrap, *self.topics)

    async def deployments(self) -> int:
        """How many worker Deployments there are."""
        found = await self._get(DEPLOYMENTS.format(self.name), limit="1")
        return len(found["items"]) + int(found["metadata"].get("remainingItemCount", 0))

    async def statuses(self) -> dict[str, dict[str, Any]]:
        """What the operator says of each binding."""
        found = await self._get(BINDINGS.format(self.name))
        return {item["metadata"]["name"]: item.get("status") or {} for item in found["items"]}

    async def wanted(self, bindings: Iterable[str]) -> dict[str, int]:
        """Workers that the Deployments of some bindings ask for.

        Only those, and from the API server's memory: asking for all of a thousand, four times a
        second, would keep the machine busier than the operator does.
        """
        chosen = f"{BINDING_LABEL} in ({','.join(bindings)})"
        found = await self._get(
            DEPLOYMENTS.format(self.name), labelSelector=chosen, resourceVersion="0"
        )
        return {
            item["metadata"]["name"].removesuffix("-worker"): item["spec"]["replicas"]
            for item in found["items"]
        }

    async def all_ready(self) -> bool:
        """Whether every binding is Ready, with a lag that is known."""
        statuses = await self.statuses()
        return len(statuses) == len(self.bindings) and all(
            status.get("lag") is not None
            and any(
                item["type"] == "Ready" and item["status"] == "True"
                for item in status.get("conditions", ())
            )
            for status in statuses.values()
        )

    async def burst(self, topics: Iterable[str]) -> None:
        """Send messages to each of some topics, one after the other."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bed.bootstrap, linger_ms=5)
        await producer.start()
        try:
            for name in topics:
                for number in range(MESSAGES):
                    await producer.send(name, b"{}", partition=number % PARTITIONS)
            await producer.flush()
        finally:
            await producer.stop()

    async def drain(self, topics: Iterable[str]) -> None:
        """Commit all messages of some topics, as workers do that have done them."""
        names = set(topics)
        link = KafkaLink({"bootstrap_servers": self.bed.bootstrap})
        try:
            layout = await link.layout(names)
            ends = await link.offsets(layout, layout.leaders, LATEST)
            for binding in self.of_topics(names):
                own = self.topic_of(binding)
                commits = {p: Commit(end) for p, end in ends.items() if p.topic == own}
                await link.commit(f"{self.name}.{binding}", commits)
        finally:
            await link.close()

    async def operator(self) -> Scrape:
        """The operator's metrics."""
        address = await asyncio.to_thread(self._operator_address)
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            # Series of each binding would cost the operator more than what is measured.
            page = await client.get(f"{address}/metrics", params={"name[]": ASKED})
            return Scrape.of(page.text)

    async def server(self) -> Scrape:
        """What the API server was asked for, and by which verb."""
        text = (await self._client.get("/metrics")).text
        return Scrape.of(text, "apiserver_request_total")

    def stop_operator(self) -> None:
        """Have no operator, and wait until its Pod has gone."""
        self._kubectl("scale", "deploy/flowbinding", "--replicas=0")
        self._kubectl("wait", "--for=delete", "pods", "--all", "--timeout=60s")

    def start_operator(self) -> None:
        """Have one again."""
        self._kubectl("scale", "deploy/flowbinding", "--replicas=1")

    def kill_operator(self) -> None:
        """End it at once; its Deployment makes another Pod."""
        self._kubectl("delete", "pods", "--all", "--grace-period=0", "--force")

    def _kubectl(self, *arguments: str) -> str:
        return self.bed.kubectl("-n", OPERATOR_NAMESPACE, *arguments)

    def _operator_address(self) -> str:
        pods = json.loads(self._kubectl("get", "pods", "-o", "json"))["items"]
        (pod,) = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        return f"http://{pod['status']['podIP']}:8080"

    def _binding(self, name: str) -> dict[str, Any]:
        window = {"stabilizationWindowSeconds": 5}
        return manifest(
            {"metadata": {"name": name, "namespace": self.name}},
            source={"topic": self.topic_of(name)},
            scaling={
                "maxReplicas": WANTED,
                "idleSeconds": 5,
                "behavior": {"scaleDown": window},
            },
            concurrency={"perReplica": 1},
            worker={
                "nodeSelector": {"kubernetes.io/hostname": PAPER},
                "tolerations": [{"key": PAPER_TAINT, "operator": "Exists"}],
            },
        )

    async def _no_bindings(self) -> bool:
        return not await self.statuses()

    async def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        response = await self._client.get(path, params=parameters)
        found: dict[str, Any] = response.raise_for_status().json()
        return found

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        (await self._client.post(path, json=body)).raise_for_status()

    async def _each(self, names: Iterable[str], act: Callable[[str], Awaitable[None]]) -> None:
        limit = asyncio.Semaphore(TOGETHER)

        async def one(name: str) -> None:
            async with limit:
                await act(name)

        await asyncio.gather(*map(one, names))


def api_client(bed: Testbed) -> httpx.AsyncClient:
    """A client for the testbed's API server, as the tester."""
    content = yaml.safe_load(bed.kubeconfig.read_text())
    cluster = content["clusters"][0]["cluster"]
    ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
    return httpx.AsyncClient(
        base_url=cluster["server"],
        headers={"Authorization": f"Bearer {content['users'][0]['user']['token']}"},
        verify=ssl.create_default_context(cadata=ca),
        trust_env=False,
        timeout=60,
    )


def writes(operator: Scrape, server: Scrape) -> tuple[float, float]:
    """Writes to Kubernetes, as the operator counts them, and as the API server does.

    The server's are those to FlowBindings, and to ConfigMaps and Deployments but for the statuses
    that the controllers of Kubernetes write. The operator's lease is in neither.
    """
    name = "apiserver_request_total"
    seen = server.sum(name, resource="flowbindings", verb=WRITES)
    for resource in ("configmaps", "deployments"):
        seen += server.sum(name, resource=resource, subresource=("", "scale"), verb=WRITES)
    return operator.sum(f"{OWN}kubernetes_writes_total"), seen


async def until(
    probe: Callable[[], Awaitable[bool]], what: str, seconds: float, *, every: float = 0.25
) -> float:
    """Ask until it is so. Returns how many seconds that took.

    Raises:
        TimeoutError: Saying what was waited for.
    """
    began = time.monotonic()
    while not await probe():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        await asyncio.sleep(every)
    return time.monotonic() - began
