"""What follows from a binding, and from what it refers to, remembered while both stay the same.

Most reconciles find neither changed, and making all of this anew was most of what one cost. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flowbinding_api.binding import FlowBinding, parse_binding
from flowbinding_api.kafka import Kafka
from flowbinding_api.resolve import with_kafka_defaults
from flowbinding_operator import desired
from flowbinding_operator.pod import Defaults, Manifest
from flowbinding_operator.references import (
    Missing,
    Objects,
    Reference,
    data,
    flow_file_problem,
    references,
    references_in,
)


class Wish(NamedTuple):
    """A child as it should be: the hash of its manifest, which is made only to be written."""

    hash: str
    make: Callable[[], Manifest]


class Given(NamedTuple):
    """What follows from the contents of Secrets and ConfigMaps.

    Attributes:
        cluster: Identifies the Kafka cluster and the credentials.
        problem: What is wrong with the flow's file.
        versions: What a worker has to be started anew for.
    """

    cluster: str
    problem: Missing | None
    versions: tuple[tuple[str, ...], ...]


class Plan:
    """What follows from one binding.

    Args:
        binding: With the operator's defaults.
        defaults: Of workers.
    """

    def __init__(self, binding: FlowBinding, defaults: Defaults) -> None:
        self.binding = binding
        self.wanted: tuple[Reference, ...] = references(binding)
        self._defaults = defaults
        self._objects: Objects | None = None
        self._given = Given("", None, ())
        self._config = ""
        self._worker: tuple[object, str] = (None, "")

    def given(self, objects: Objects) -> Given:
        """What follows from what the binding refers to. The same objects are not looked at again.

        Args:
            objects: What was found; never changed, but read anew as another mapping.
        """
        if objects is not self._objects:
            binding = self.binding
            self._given = Given(
                cluster_id(binding.spec.kafka, objects),
                flow_file_problem(binding, objects),
                tuple(version_of(item, objects) for item in self.wanted if not item.reloaded),
            )
            self._objects = objects
        return self._given

    def config(self) -> Wish:
        """The ConfigMap."""
        if self._config:
            return Wish(self._config, lambda: desired.config_map(self.binding))
        manifest = desired.config_map(self.binding)
        self._config = desired.content_hash(manifest)
        return Wish(self._config, lambda: manifest)

    def worker(self, make: desired.Maker, given: Given) -> Wish:
        """The Deployment or the CronJob."""
        basis = (make, given.versions)
        if self._worker[0] == basis:
            return Wish(self._worker[1], lambda: self._made(make, given))
        manifest = self._made(make, given)
        self._worker = (basis, desired.content_hash(manifest))
        return Wish(self._worker[1], lambda: manifest)

    def _made(self, make: desired.Maker, given: Given) -> Manifest:
        versions = desired.content_hash(list(given.versions))
        return make(self.binding, self.wanted, versions, self._defaults)


class Plans:
    """The plans of all bindings, by key.

    Args:
        kafka: The administrator's default for `spec.kafka`.
        worker: And for workers.
    """

    def __init__(self, kafka: Kafka, worker: Defaults) -> None:
        self._kafka = kafka
        self._worker = worker
        self._plans: dict[str, tuple[dict[str, Any], Plan]] = {}

    def of(self, key: str, body: Mapping[str, Any]) -> Plan:
        """The plan of a binding as the API server holds it.

        Raises:
            InvalidBindingError: When its spec cannot be understood.
        """
        basis = basis_of(body)
        known = self._plans.get(key)
        if known is not None and known[0] == basis:
            return known[1]
        self.forget(key)
        plan = Plan(with_kafka_defaults(parse_binding(body), self._kafka), self._worker)
        self._plans[key] = (basis, plan)
        return plan

    def forget(self, key: str) -> None:
        """Drop what is remembered of a binding."""
        self._plans.pop(key, None)


def basis_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan is made from: all but the status, and what each write of that changes."""
    metadata = body["metadata"]
    names = ("name", "namespace", "uid", "generation", "labels", "annotations")
    rest = {name: value for name, value in body.items() if name not in ("metadata", "status")}
    return {**rest, "metadata": {name: metadata.get(name) for name in names}}


def version_of(reference: Reference, objects: Objects) -> tuple[str, ...]:
    """What changes with a referenced object.

    Of a Secret only its version: a hash of a short password could be guessed by those who may read
    Deployments.
    """
    item = objects.get((reference.kind, reference.name)) or {}
    if reference.kind == "Secret":
        metadata = item.get("metadata") or {}
        return (reference.name, metadata.get("uid", ""), metadata.get("resourceVersion", ""))
    content = data(item).get(reference.key, b"")
    return (reference.name, reference.key, desired.content_hash(content.hex()))


def cluster_id(kafka: Kafka, objects: Objects) -> str:
    """Identifies a cluster and a set of credentials: bindings that share it share a client."""
    kafka = kafka.brokers
    names = {ref.name for ref in references_in("spec.kafka", kafka)}
    secrets = [data(objects.get(("Secret", name)) or {}) for name in sorted(names)]
    digest = desired.content_hash([kafka.model_dump(mode="json"), [repr(s) for s in secrets]])
    return f"{kafka.bootstrap_servers}#{digest}"
