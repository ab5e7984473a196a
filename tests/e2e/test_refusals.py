"""The API server refuses wrong manifests by itself, naming the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client import ApiException

from e2e.cluster import Namespace
from flowbinding_api.binding import GROUP, PLURAL, VERSION
from manifests import manifest, wrong_manifests
from testbed import Testbed, TestbedError

pytestmark = pytest.mark.timeout(120)


Refused = Callable[[dict[str, Any]], str]


@pytest.fixture(scope="module")
def refused(operator: Testbed) -> Refused:
    """Asks for an object, as kubectl would, and returns why it is refused."""
    load: Any = config
    objects = client.CustomObjectsApi(load.new_client_from_config(str(operator.kubeconfig)))

    def ask(item: dict[str, Any]) -> str:
        with pytest.raises(ApiException) as said:
            objects.create_namespaced_custom_object(
                *(GROUP, VERSION, "default", PLURAL, item),
                dry_run="All",
                field_validation="Strict",
            )
        return str(json.loads(said.value.body or "{}")["message"])

    return ask


@pytest.mark.parametrize("case", wrong_manifests(), ids=lambda case: case["name"])
def test_a_wrong_manifest_is_refused(refused: Refused, case: dict[str, Any]) -> None:
    # How the API server writes members of lists and maps.
    said = refused(manifest(case["patch"])).replace("[0]", "").replace("[A]", ".A")
    assert case["field"] in said


def test_an_unknown_field_is_refused(refused: Refused) -> None:
    assert 'unknown field "spec.colour"' in refused(manifest(colour="red"))


def test_a_name_that_fits_no_label_is_refused(refused: Refused) -> None:
    said = refused(manifest({"metadata": {"name": "n" * 57}}))
    assert "metadata.name must have at most 56 characters" in said


def test_a_name_that_makes_a_group_of_replays_is_refused(refused: Refused) -> None:
    said = refused(manifest({"metadata": {"name": "orders.replay"}}))
    assert "metadata.name must not end with .replay" in said


def test_the_consumer_group_cannot_change(namespace: Namespace) -> None:
    first = manifest(source={"topic": "in", "consumerGroup": "one"}, paused=True)
    namespace.apply(first)
    for group in ("two", None):
        changed = manifest(source={"topic": "in", "consumerGroup": group}, paused=True)
        with pytest.raises(TestbedError, match=r"spec\.source\.consumerGroup.*cannot be changed"):
            namespace.apply(changed)


def test_defaults_are_filled_in(namespace: Namespace) -> None:
    namespace.apply(manifest(paused=True))
    spec = namespace.get("fb", "example")["spec"]
    assert spec["scaling"]["replicas"] == 1
    assert spec["retry"]["maxAttempts"] == 5
