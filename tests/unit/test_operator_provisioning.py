"""Topics that the operator makes: what is planned, what is told, how often it is tried."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbinding_api.reasons import Reason
from flowbinding_operator.kafka import ClusterError
from flowbinding_operator.lag import Trouble
from flowbinding_operator.topics import Answer, Plan, Wanted, plan, trouble_of
from operator_harness import KEY, Operator

NAMES = ("a", "b", "c", "d")


def planned(counts: dict[str, int], partitions: int | None) -> Plan:
    missing = Trouble(Reason.TOPIC_MISSING, "")
    troubles = {name: missing for name, count in counts.items() if not count}
    return plan(Wanted(NAMES, partitions, None, ()), counts, troubles)


@given(
    counts=st.fixed_dictionaries(dict.fromkeys(NAMES, st.integers(0, 5))),
    partitions=st.none() | st.integers(1, 5),
)
def test_a_plan_leads_to_what_is_wanted_and_never_back(
    counts: dict[str, int], partitions: int | None
) -> None:
    made = planned(counts, partitions)
    for name, count in counts.items():
        assert (name in made.create) == (count == 0)
        assert (name in made.grow) == bool(count and partitions and count < partitions)
        assert (name in made.larger) == bool(count and partitions and count > partitions)
        assert made.grow.get(name, count + 1) > count
    after = {n: partitions or 1 if n in made.create else made.grow.get(n, counts[n]) for n in NAMES}
    again = planned(after, partitions)
    assert not again.create
    assert not again.grow


@pytest.mark.parametrize(
    ("code", "reason", "hint"),
    [
        (29, Reason.PROVISIONING_DENIED, "KafkasName: "),
        (31, Reason.PROVISIONING_DENIED, "KafkasName: "),
        (38, Reason.PROVISIONING_REFUSED, "(see spec.provisioning.replicationFactor)"),
        (37, Reason.PROVISIONING_REFUSED, "(see spec.provisioning.partitions)"),
        (40, Reason.PROVISIONING_REFUSED, "(see spec.provisioning.config)"),
        (44, Reason.PROVISIONING_REFUSED, "(see spec.provisioning)"),
        (17, Reason.PROVISIONING_REFUSED, "KafkasName: "),
        (41, Reason.PROVISIONING_FAILED, "KafkasName: "),
        (7, Reason.PROVISIONING_FAILED, "KafkasName: "),
    ],
)
def test_each_refusal_has_its_reason_and_says_where_to_look(
    code: int, reason: Reason, hint: str
) -> None:
    answer = Answer("x", code, "KafkasName", "the broker's words")
    trouble = trouble_of("topic 'x' cannot be created", answer)
    assert trouble.reason is reason
    assert trouble.message.startswith("topic 'x' cannot be created: ")
    assert "the broker's words" in trouble.message
    assert hint in trouble.message


async def submitted(operator: Operator | None = None, **asked: Any) -> Operator:
    operator = operator or Operator()
    operator.submit(
        source={"topic": "new"}, output={"topic": "out"}, provisioning={"create": True, **asked}
    )
    await operator.reconcile()
    await settled(operator)
    await operator.poll()
    return operator


async def settled(operator: Operator) -> None:
    """Until what was begun has ended."""
    for task in asyncio.all_tasks():
        if task.get_name() == f"provision {KEY}":
            await task
    if KEY in operator.queued:
        await operator.reconcile()


async def test_source_output_and_dead_letter_topics_are_made() -> None:
    operator = await submitted(partitions=6)
    made = {name: len(items) for name, items in operator.link.topics.items()}
    assert made == {"orders": 24, "new": 6, "out": 6, "new.risk.dlq": 6}
    await operator.poll(6)
    assert operator.condition("TopicAvailable") == ("True", "TopicFound")


async def test_nothing_is_made_unless_asked_for() -> None:
    operator = await submitted(create=False)
    assert operator.condition("TopicAvailable") == ("False", "TopicMissing")
    assert "controller" not in operator.link.requests


async def test_the_brokers_defaults_are_theirs() -> None:
    operator = await submitted()
    assert len(operator.link.topics["new"]) == 1


async def test_topics_grow_and_never_shrink() -> None:
    operator = Operator()
    operator.link.topic("new", 2)
    operator.link.topic("out", 9)
    await submitted(operator, partitions=4)
    made = {name: len(items) for name, items in operator.link.topics.items()}
    assert (made["new"], made["out"]) == (4, 9)
    assert operator.condition("TopicAvailable") == ("True", "MorePartitions")
    assert operator.condition("Ready") == ("True", "Ready")
    found = next(c for c in operator.status["conditions"] if c["type"] == "TopicAvailable")
    assert "topic 'out' has 9" in found["message"]


async def test_a_denial_is_told_and_tried_again_less_and_less_often() -> None:
    operator = Operator()
    operator.link.refusals["out"] = (29, "Authorization failed.")
    await submitted(operator)
    assert operator.condition("TopicAvailable") == ("False", "ProvisioningDenied")
    assert operator.condition("Ready") == ("False", "ProvisioningDenied")
    assert "new" in operator.link.topics
    gaps: list[float | None] = []
    for _ in range(9):
        operator.queued.add(KEY)
        gaps.append(wait := await operator.reconcile())
        assert wait is not None
        operator.now += wait
        before = operator.link.requests.count("controller")
        await operator.reconcile()
        await settled(operator)
        assert operator.link.requests.count("controller") == before + 1
    assert gaps == pytest.approx([3, 10, 20, 40, 80, 160, 300, 300, 300])
    operator.link.refusals.clear()
    operator.now += 300
    await operator.reconcile()
    await settled(operator)
    await operator.poll()
    assert operator.condition("TopicAvailable") == ("True", "TopicFound")


async def test_topics_that_were_there_do_not_go_while_kafka_is_away() -> None:
    operator = await submitted()
    await operator.poll(6)
    operator.link.down = ClusterError("nobody there")
    operator.now += 300
    await operator.reconcile()
    await settled(operator)
    assert operator.link.requests[-1] == "layout"
    assert operator.condition("TopicAvailable") == ("True", "TopicFound")
    assert operator.provisioner.next_look(KEY) == 5


async def test_a_topic_that_is_being_made_is_no_missing_topic() -> None:
    operator = await submitted()
    assert operator.condition("TopicAvailable") == ("Unknown", "Reconciling")
    assert "TopicMissing" not in [event["reason"] for event in operator.kube.events]
    await operator.poll(6)
    assert operator.condition("TopicAvailable") == ("True", "TopicFound")


async def test_a_topic_that_somebody_deletes_is_made_again_soon() -> None:
    operator = await submitted()
    await operator.poll(6)
    del operator.link.topics["new"]
    operator.lag.pollers[next(iter(operator.lag.pollers))]._layout_at = float("-inf")
    for _ in range(5):
        await operator.poll(5)
        await operator.reconcile()
        await settled(operator)
    assert "new" in operator.link.topics
    assert operator.condition("TopicAvailable") == ("True", "TopicFound")


async def test_a_cluster_that_is_away_is_no_denial() -> None:
    operator = Operator()
    operator.link.down = ClusterError("nobody there")
    await submitted(operator)
    assert operator.condition("TopicAvailable") == ("Unknown", "KafkaUnreachable")


async def test_a_changed_wish_is_tried_at_once() -> None:
    operator = Operator()
    operator.link.refusals["new"] = (38, "only 1 broker")
    await submitted(operator, replicationFactor=3)
    assert operator.condition("TopicAvailable") == ("False", "ProvisioningRefused")
    operator.link.refusals.clear()
    await submitted(operator, replicationFactor=1)
    assert "new" in operator.link.topics


async def test_a_schedule_s_topics_are_made_too() -> None:
    operator = Operator()
    operator.submit(
        source={"schedule": {"cron": "0 2 * * *"}},
        output={"topic": "out"},
        provisioning={"create": True},
    )
    await operator.reconcile()
    assert operator.condition("TopicAvailable") == ("Unknown", "Reconciling")
    await settled(operator)
    assert "out" in operator.link.topics
    assert operator.condition("TopicAvailable") == ("True", "TopicFound")


async def test_a_binding_that_goes_ends_what_is_done_for_it() -> None:
    operator = Operator()
    operator.submit(source={"topic": "new"}, provisioning={"create": True})
    await operator.reconcile()
    operator.bindings.drop(KEY)
    await operator.reconcile()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not [t for t in asyncio.all_tasks() if t.get_name() == f"provision {KEY}"]
