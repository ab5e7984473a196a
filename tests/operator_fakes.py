"""Kubernetes and Kafka in memory, as far as the operator asks them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from flowbinding_api.offsets import Figures, Progress, encode
from flowbinding_api.reasons import Reason
from flowbinding_operator.kafka import EARLIEST, ClusterError, Layout
from flowbinding_operator.kafka_groups import Committed, Take
from flowbinding_operator.kube import AUTOSCALER, OPERATOR, KubeError
from flowbinding_operator.lag import Commit, Partition, Trouble
from manifests import merge

Object = dict[str, Any]


def manifest(name: str = "risk", namespace: str = "shop", **spec: Any) -> Object:
    """A FlowBinding as the API server holds it."""
    base = {
        "source": {"topic": "orders"},
        "kafka": {"bootstrapServers": "kafka:9092"},
        "flow": {"backend": "Echo"},
    }
    return {
        "apiVersion": "flowbinding.io/v1alpha1",
        "kind": "FlowBinding",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "generation": 1,
            "resourceVersion": "1",
        },
        "spec": base | spec,
    }


class FakeKube:
    """An API server that knows server-side apply as far as fields have owners."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.writes: list[str] = []
        self.reads: list[str] = []
        self.events: list[Object] = []
        self.pods: list[Object] = []
        self.refuse: KubeError | None = None
        self.forbidden: set[str] = set()
        self.on_change: Callable[[Object], None] = lambda _: None
        self._versions = itertools.count(100)

    def put(self, item: Mapping[str, Any]) -> Object:
        """Store an object as somebody else would."""
        stored = copy.deepcopy(dict(item))
        stored["metadata"]["resourceVersion"] = str(next(self._versions))
        stored["metadata"].setdefault("uid", f"uid-{stored['kind']}-{stored['metadata']['name']}")
        metadata = stored["metadata"]
        self.objects[stored["kind"], metadata["namespace"], metadata["name"]] = stored
        return copy.deepcopy(stored)

    def find(self, kind: str, name: str, namespace: str = "shop") -> Object:
        return self.objects[kind, namespace, name]

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        self._may_read(kind)
        self.reads.append(kind)
        return copy.deepcopy(self.objects.get((kind, namespace, name)))

    async def list(
        self, kind: str, namespace: str | None, selector: str = "", *, metadata_only: bool = False
    ) -> Sequence[Object]:
        self._may_read(kind)
        if kind == "Pod":
            return self.pods
        return [item for (k, _, _), item in self.objects.items() if k == kind]

    async def apply(
        self, manifest: Mapping[str, Any], *, manager: str = OPERATOR, create: bool = False
    ) -> Object:
        if self.refuse:
            raise self.refuse
        self.writes.append(f"apply {manifest['kind']} {manager}")
        metadata = manifest["metadata"]
        key = (manifest["kind"], metadata["namespace"], metadata["name"])
        known = self.objects.get(key)
        if create and known:
            raise KubeError("the object has been modified", status=409)
        live = copy.deepcopy(known) if known else {"metadata": {"managedFields": []}, "spec": {}}
        replicas = (known or {}).get("spec", {}).get("replicas")
        merged = {**live, **copy.deepcopy(dict(manifest))}
        merged["metadata"] = {**live["metadata"], **copy.deepcopy(dict(metadata))}
        if "spec" in manifest:
            merged["spec"] = {**live.get("spec", {}), **copy.deepcopy(manifest["spec"])}
            merged["spec"].setdefault("replicas", 1 if replicas is None else replicas)
            owned = {f"f:{field}" for field in manifest["spec"]}
            before = owners(live).get(manager, set())
            merged["metadata"]["managedFields"] = managed(owners(live) | {manager: owned})
            if "f:replicas" in before - set().union(*owners(merged).values()):
                # What nobody owns any more goes back to the default.
                merged["spec"]["replicas"] = 1
        return self._changed(merged)

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        if self.refuse:
            raise self.refuse
        self.writes.append(f"delete {kind}")
        assert self.objects[kind, namespace, name]["metadata"]["uid"] == uid
        del self.objects[kind, namespace, name]

    async def scale(self, namespace: str, name: str, replicas: int) -> Object:
        self.writes.append(f"scale {replicas}")
        live = copy.deepcopy(self.objects["Deployment", namespace, name])
        live["spec"]["replicas"] = replicas
        others = {manager: owned - {"f:replicas"} for manager, owned in owners(live).items()}
        scaled = others.get(AUTOSCALER, set()) | {"f:replicas"}
        live["metadata"]["managedFields"] = managed(others | {AUTOSCALER: scaled})
        return self._changed(live)

    async def suspend(self, namespace: str, name: str) -> Object:
        self.writes.append("suspend CronJob")
        live = copy.deepcopy(self.objects["CronJob", namespace, name])
        live["spec"]["suspend"] = True
        return self._changed(live)

    async def patch_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> Object:
        self.writes.append("status")
        live = copy.deepcopy(self.objects["FlowBinding", namespace, name])
        live["status"] = merge(live.get("status", {}), status)
        return self._changed(live)

    async def create_event(self, event: Mapping[str, Any]) -> None:
        self.events.append(dict(event))

    def _may_read(self, kind: str) -> None:
        if kind in self.forbidden:
            raise KubeError(f"{kind.lower()}s is forbidden", status=403)

    def _changed(self, item: Object) -> Object:
        stored = self.put(item)
        self.on_change(copy.deepcopy(stored))
        return stored


class FakeLink:
    """A Kafka cluster."""

    def __init__(self) -> None:
        self.topics: dict[str, list[list[int]]] = {}
        self.commits: dict[str, dict[Partition, Commit]] = {}
        self.open: dict[Partition, int] = {}
        self.members: set[str] = set()
        self.troubles: dict[str, Trouble] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        """Topics that must not be made or grown: Kafka's code and words."""
        self.down: ClusterError | None = None
        self.failing: dict[str, ClusterError] = {}
        """What goes wrong with the requests of each kind: committed, empty or commit."""
        self.requests: list[str] = []
        self.closed = False

    def topic(self, name: str, partitions: int, end: int = 0, start: int = 0) -> None:
        self.topics[name] = [[start, end] for _ in range(partitions)]

    def produce(self, name: str, count: int) -> None:
        for index in range(count):
            self.topics[name][index % len(self.topics[name])][1] += 1

    def commit_all(self, group: str, name: str, figures: Figures | None = None) -> None:
        held = self.commits.setdefault(group, {})
        for index, (_, end) in enumerate(self.topics[name]):
            text = encode(end, Progress(end), figures) if figures else ""
            held[Partition(name, index)] = Commit(end, text)

    async def close(self) -> None:
        self.closed = True

    async def layout(self, topics: Iterable[str]) -> Layout:
        self._ask("layout")
        layout = Layout(troubles={t: v for t, v in self.troubles.items() if t in set(topics)})
        for name in topics:
            if name not in self.topics and name not in layout.troubles:
                layout.troubles[name] = Trouble(Reason.TOPIC_MISSING, f"{name} does not exist")
            for index in range(len(self.topics.get(name, []))):
                layout.leaders[Partition(name, index)] = 1
        return layout

    async def offsets(
        self,
        layout: Layout,
        partitions: Iterable[Partition],
        which: int,
        *,
        open_too: bool = False,
    ) -> dict[Partition, int]:
        if open_too:
            self._ask("written")
            return {p: self.topics[p.topic][p.partition][1] for p in partitions}
        self._ask("starts" if which == EARLIEST else "ends")
        side, less = (0, {}) if which == EARLIEST else (1, self.open)
        return {p: self.topics[p.topic][p.partition][side] - less.get(p, 0) for p in partitions}

    async def committed(self, groups: Mapping[str, int], take: Take) -> None:
        answers: dict[str, Committed] = {}
        for group in groups:
            try:
                answers[group] = await self.commits_of(group)
            except ClusterError as error:
                answers[group] = error
        await take(answers)

    async def commits_of(self, group: str) -> dict[Partition, Commit]:
        """What is told of one group."""
        self._ask(f"committed {group}")
        self._fail("committed")
        return dict(self.commits.get(group, {}))

    async def empty(self, groups: Collection[str]) -> Mapping[str, bool | ClusterError]:
        self._ask("describe")
        wrong = self.failing.get("empty")
        return {group: wrong or group not in self.members for group in groups}

    async def commit(self, group: str, commits: Mapping[Partition, Commit]) -> None:
        self._ask("commit")
        self._fail("commit")
        self.commits.setdefault(group, {}).update(commits)

    def _fail(self, what: str) -> None:
        if what in self.failing:
            raise self.failing[what]

    def _ask(self, what: str) -> None:
        self.requests.append(what)
        if self.down:
            raise self.down


def owners(deployment: Object) -> dict[str, set[str]]:
    """Which manager owns which fields of a spec."""
    return {
        entry["manager"]: set(entry["fieldsV1"]["f:spec"])
        for entry in deployment["metadata"].get("managedFields", [])
    }


def managed(owned: Mapping[str, set[str]]) -> list[Object]:
    """The reverse of `owners`."""
    return [
        {
            "manager": manager,
            "operation": "Apply",
            "fieldsV1": {"f:spec": {field: {} for field in sorted(fields)}},
        }
        for manager, fields in owned.items()
    ]


__all__ = ["AUTOSCALER", "FakeKube", "FakeLink", "manifest", "owners"]
