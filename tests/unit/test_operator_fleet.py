"""What keeps thousands of bindings in one process: what is remembered, and what comes first."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbinding_api.binding import parse_binding
from flowbinding_api.errors import InvalidBindingError
from flowbinding_api.kafka import Kafka
from flowbinding_operator import desired, plans
from flowbinding_operator.app import FIRST_SEEN_SECONDS, RESYNC_CHECKS, App
from flowbinding_operator.autoscaler import Autoscaler
from flowbinding_operator.lag import Observation
from flowbinding_operator.lanes import Lane
from flowbinding_operator.plans import Plans
from flowbinding_operator.pod import BINDING_LABEL, Defaults
from flowbinding_operator.scaling import History
from flowbinding_operator.settings import Settings
from flowbinding_operator.store import Cache
from operator_fakes import FakeKube, manifest
from operator_harness import KEY, Operator

VERSIONS = itertools.count(1)


def some_plans() -> Plans:
    return Plans(Kafka(), Defaults(image="worker:1"))


# Plans


def test_a_status_and_a_new_version_lead_to_no_new_plan() -> None:
    known, body = some_plans(), manifest()
    first = known.of(KEY, body)
    body = copy.deepcopy(body)
    body["metadata"] |= {"resourceVersion": "2", "managedFields": [{"manager": "one"}]}
    body["status"] = {"lag": 7}
    assert known.of(KEY, body) is first
    known.forget(KEY)
    assert known.of(KEY, body) is not first


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"paused": True}},
        {"metadata": {"labels": {"team": "risk"}}},
        {"metadata": {"annotations": {"note": "x"}}},
        {"metadata": {"uid": "another"}},
        {"metadata": {"generation": 2}},
    ],
)
def test_whatever_may_matter_of_a_binding_leads_to_a_new_plan(change: dict[str, Any]) -> None:
    known, body = some_plans(), manifest()
    first = known.of(KEY, body)
    body = copy.deepcopy(body)
    for part, fields in change.items():
        body[part] |= fields
    assert known.of(KEY, body) is not first
    assert known.of(KEY, body).binding == parse_binding(body)


def test_a_spec_that_becomes_wrong_has_no_plan() -> None:
    known, body = some_plans(), manifest()
    known.of(KEY, body)
    with pytest.raises(InvalidBindingError):
        known.of(KEY, body | {"spec": {"flow": {}}})
    assert known.of(KEY, body).binding.key == KEY


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=6))
def test_a_wish_is_what_would_be_made_now(contents: list[str]) -> None:
    reference = {"name": "env", "key": "TOKEN"}
    body = manifest(worker={"env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": reference}}]})
    plan, fresh = some_plans().of(KEY, body), some_plans()
    for version in contents:
        metadata = {"namespace": "shop", "name": "env", "resourceVersion": version}
        objects = {("Secret", "env"): {"kind": "Secret", "metadata": metadata, "data": {}}}
        given = plan.given(objects)  # type: ignore[arg-type]
        fresh.forget(KEY)
        anew = fresh.of(KEY, body)
        expected = anew.worker(desired.deployment, anew.given(objects))  # type: ignore[arg-type]
        wish = plan.worker(desired.deployment, given)
        assert (wish.hash, wish.make()) == (expected.hash, expected.make())
        assert wish.hash == desired.content_hash(wish.make())
        assert plan.config().hash == desired.content_hash(anew.config().make())


async def test_a_reconcile_that_finds_nothing_changed_makes_nothing_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operator, made = Operator(), list[str]()
    operator.submit()
    await operator.poll()
    await operator.poll()
    for name in ("_template", "content_hash"):
        monkeypatch.setattr(desired, name, lambda *_, name=name: made.append(name))
    monkeypatch.setattr(plans, "parse_binding", lambda *_: made.append("parse"))
    operator.link.produce("orders", 3)
    assert "scale 1" in await operator.poll()
    assert made == []
    await operator.lag.close()


# The caches


def deployment(version: int, **spec: Any) -> dict[str, Any]:
    metadata = {
        "namespace": "shop",
        "name": "risk-worker",
        "uid": "1",
        "resourceVersion": str(version),
        "labels": {BINDING_LABEL: "risk"},
    }
    return {"metadata": metadata, "spec": {"replicas": 1, **spec}, "status": {}}


def test_of_equal_specs_one_is_kept_and_another_is_seen() -> None:
    cache = Cache()

    def put(version: int, **spec: Any) -> Any:
        assert cache.put("shop/risk-worker", deployment(version, **spec))
        assert cache.get("shop/risk-worker") == deployment(version, **spec)
        return (cache.get("shop/risk-worker") or {})["spec"]

    first = put(1, template={"a": [1, {"b": None}]})
    assert put(2, template={"a": [1, {"b": None}]}) is first
    assert put(3, template={"a": [1, {"b": 0}]}) is not first


@pytest.mark.parametrize(("before", "after"), [(1, True), (False, 0), (1, 1.0)])
def test_what_only_python_calls_equal_is_another_spec(before: Any, after: Any) -> None:
    cache = Cache()
    for generation, value in enumerate((before, after), 1):
        body = manifest(flow={"backend": "Langflow", "tweaks": {"top": {"k": value}}})
        body["metadata"] |= {"generation": generation, "resourceVersion": str(generation)}
        cache.put(KEY, body)
    kept = (cache.get(KEY) or {})["spec"]["flow"]["tweaks"]["top"]["k"]
    assert (kept, type(kept)) == (after, type(after))


# Haste


class Told:
    """What is enqueued, in place of the queue."""

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self.delays: dict[str, float] = {}

    def add(self, key: str, delay: float, lane: Lane) -> None:
        self.lanes[key], self.delays[key] = lane, delay

    def take(self) -> Iterator[tuple[str, Lane, float]]:
        for key in list(self.lanes):
            yield key, self.lanes.pop(key), self.delays.pop(key)


def test_who_needs_workers_is_in_haste_and_numbers_are_not() -> None:
    told: list[Lane] = []
    autoscaler = Autoscaler(lambda _, lane: told.append(lane))
    binding = parse_binding(manifest(scaling={"maxReplicas": 1}))
    track = autoscaler.track(KEY, binding.spec, lambda: History(replicas=0))

    def observed(at: float, lag: int) -> list[Lane]:
        told.clear()
        seen = Observation(at, lag=lag, end=100 + lag, partitions=6, unix=1e9 + at)
        autoscaler.observe(KEY, seen)
        return told

    assert observed(0, 0) == [Lane.SOON]
    assert observed(10, 500) == [Lane.NOW]
    track.history.replicas = track.standing().replicas
    track.written = track.told
    lanes = [lane for second in range(12, 120, 2) for lane in observed(second, 500 + second)]
    assert Lane.LATER in lanes
    assert Lane.NOW not in lanes


async def test_what_a_user_changes_comes_first_and_what_the_operator_makes_is_no_news() -> None:
    app, told = App(Settings(), FakeKube()), Told()
    app.queue.add = told.add  # type: ignore[method-assign,assignment]

    def binding(kind: str | None, *, lag: int = 0, going: bool = False, **spec: Any) -> Lane:
        body = manifest(**spec) | {"status": {"lag": lag}}
        body["metadata"]["resourceVersion"] = str(next(VERSIONS))
        if going:
            body["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"
        app.binding_event(kind, body)
        ((key, lane, delay),) = told.take()
        assert (key, delay) == (KEY, 0.0)
        return lane

    assert binding(None) is Lane.SOON
    assert binding("MODIFIED", lag=7) is Lane.LATER
    assert binding("MODIFIED", paused=True) is Lane.NOW
    assert binding("MODIFIED", paused=True, going=True) is Lane.SOON
    assert binding("DELETED", paused=True, going=True) is Lane.SOON
    assert binding("ADDED") is Lane.SOON
    app.child_event("ADDED", deployment(1), app.deployments)
    assert list(told.take()) == [(KEY, Lane.LATER, FIRST_SEEN_SECONDS)]
    app.child_event("MODIFIED", deployment(2, paused=True), app.deployments)
    assert list(told.take()) == [(KEY, Lane.SOON, 0.0)]
    app.child_event("DELETED", deployment(3), app.deployments)
    assert list(told.take()) == [(KEY, Lane.SOON, 0.0)]


async def test_all_bindings_are_looked_at_again_but_never_all_at_once() -> None:
    app, told = App(Settings(), FakeKube()), Told()
    keys = {f"shop/b{number}" for number in range(23)}
    for key in keys:
        app.bindings.put(key, manifest(key.partition("/")[2]))
    app.queue.add = told.add  # type: ignore[method-assign,assignment]
    seen: list[set[str]] = []
    for count in range(RESYNC_CHECKS):
        app.resync(count)
        taken = list(told.take())
        assert {lane for _, lane, _ in taken} == {Lane.LATER}
        seen.append({key for key, *_ in taken})
    assert set().union(*seen) == keys
    assert max(map(len, seen)) <= 5
