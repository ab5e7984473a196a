"""The API server refuses wrong manifests by itself, naming the field."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.cluster import Namespace
from manifests import manifest, wrong_manifests
from testbed import TestbedError

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("case", wrong_manifests(), ids=lambda case: case["name"])
def test_a_wrong_manifest_is_refused(namespace: Namespace, case: dict[str, Any]) -> None:
    with pytest.raises(TestbedError) as refused:
        namespace.apply(manifest(case["patch"]))
    # How the API server writes members of lists and maps.
    assert case["field"] in str(refused.value).replace("[0]", "").replace("[A]", ".A")


def test_an_unknown_field_is_refused(namespace: Namespace) -> None:
    with pytest.raises(TestbedError, match=r'unknown field "spec\.colour"'):
        namespace.apply(manifest(colour="red"))


def test_a_name_that_fits_no_label_is_refused(namespace: Namespace) -> None:
    with pytest.raises(TestbedError, match=r"metadata\.name must have at most 56 characters"):
        namespace.apply(manifest({"metadata": {"name": "n" * 57}}))


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
