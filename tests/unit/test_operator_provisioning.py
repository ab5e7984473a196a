"""Topics that the operator makes: what is planned, what is told, how often it is tried."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbinding_api import parse_binding
from flowbinding_api.reasons import Reason
from flowbinding_operator.kafka import ClusterError, Layout
from flowbinding_operator.lag import Trouble
from flowbinding_operator.provisioning import AT_ONCE, Provisioner
from flowbinding_operator.topics import Answer, Plan, Wanted, plan, trouble_of
from operator_fakes import FakeLink, manifest
from operator_harness import KEY, Operator
from topic_fakes import FakeAdmin

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


@pytest.mark.parametrize("name", ["new", "out"])
async def test_a_topic_that_somebody_deletes_is_made_again_soon(name: str) -> None:
    operator = await submitted()
    for _ in range(2):
        # At first, topics were missing too.
        await operator.poll(16)
        await operator.reconcile()
        await settled(operator)
    del operator.link.topics[name]
    operator.lag.pollers[next(iter(operator.lag.pollers))]._layout_at = float("-inf")
    for _ in range(5):
        await operator.poll(5)
        await operator.reconcile()
        await settled(operator)
    assert name in operator.link.topics
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


def with_a_password(password: bytes) -> Operator:
    """A binding that asks for its topics, on a cluster that wants a password."""
    operator = Operator()
    put_password(operator, password)
    sasl = {
        "mechanism": "PLAIN",
        "usernameSecretRef": {"name": "kafka", "key": "password"},
        "passwordSecretRef": {"name": "kafka", "key": "password"},
    }
    operator.submit(
        source={"topic": "new"},
        kafka={"bootstrapServers": "kafka:9092", "sasl": sasl},
        provisioning={"create": True},
    )
    return operator


def put_password(operator: Operator, password: bytes) -> None:
    metadata = {"namespace": "shop", "name": "kafka"}
    data = {"password": base64.b64encode(password).decode()}
    operator.touch({"kind": "Secret", "metadata": metadata, "data": data})


async def test_a_secret_that_is_gone_when_topics_are_looked_at_again_is_waited_for() -> None:
    operator = with_a_password(b"secret")
    await operator.reconcile()
    await settled(operator)
    del operator.kube.objects["Secret", "shop", "kafka"]
    operator.now += 301
    assert await operator.reconcile() == 5
    assert operator.provisioner.next_look(KEY) is None


async def test_a_secret_that_cannot_be_used_is_waited_for() -> None:
    operator = with_a_password(b"\xff")
    assert await operator.reconcile() == 5
    assert operator.condition("Ready") == ("False", "KafkaNotConfigured")
    put_password(operator, b"secret")
    operator.now += 61
    await operator.reconcile()
    await settled(operator)
    assert "new" in operator.link.topics


async def test_a_restart_does_not_make_topics_unknown_that_were_there() -> None:
    operator = Operator()
    operator.submit(
        source={"schedule": {"cron": "0 2 * * *"}},
        output={"topic": "out"},
        provisioning={"create": True},
    )
    await operator.reconcile()
    await settled(operator)
    assert operator.condition("Ready") == ("True", "Ready")
    operator.restart()
    await operator.reconcile()
    assert operator.kube.writes == []
    await settled(operator)
    assert operator.kube.writes == []
    assert operator.condition("TopicAvailable") == ("True", "TopicFound")


async def test_a_cluster_that_is_away_is_told_before_topics_are_looked_at_again() -> None:
    operator = await submitted()
    await operator.poll(6)
    await operator.lag.close()
    operator.restart()
    operator.link.down = ClusterError("nobody there")
    await operator.reconcile()
    await operator.poll()
    assert operator.condition("TopicAvailable") == ("Unknown", "KafkaUnreachable")
    await operator.provisioner.close()
    await operator.lag.close()


async def test_the_topics_of_many_bindings_are_looked_at_a_few_at_a_time() -> None:
    link, go = FakeLink(), asyncio.Event()
    looking: dict[str, int] = {"a": 0, "b": 0}

    class Held(FakeAdmin):
        async def layout(self, topics: Iterable[str]) -> Layout:
            looking[next(iter(topics))] += 1
            await go.wait()
            return await super().layout(topics)

        async def close(self) -> None:
            closed.append(self)

    done: list[str] = []
    made: list[Held] = []
    closed: list[Held] = []

    def connect(_: Any) -> Held:
        made.append(Held(link))
        return made[-1]

    provisioner = Provisioner(done.append, connect=connect, clock=lambda: 1000.0)
    for cluster in ("a", "b"):
        for number in range(30):
            spec: dict[str, Any] = {
                "source": {"topic": cluster},
                "provisioning": {"create": True},
                "deadLetter": {"enabled": False},
            }
            binding = parse_binding(manifest(f"{cluster}{number}", **spec))
            provisioner.want(binding, cluster, dict)
    for _ in range(10):
        await asyncio.sleep(0)
    # One cluster's do not wait for another's.
    assert looking == {"a": AT_ONCE, "b": AT_ONCE}
    go.set()
    await asyncio.gather(*(t for t in asyncio.all_tasks() if t.get_name().startswith("provision")))
    assert len(done) == 60
    # One connection for each cluster, which is not kept.
    assert len(made) == 2
    assert closed == made
    # Together they cost a request in four seconds, on average; few are looked at more often.
    waits = [provisioner.next_look(f"shop/{cluster}{n}") for cluster in "ab" for n in range(30)]
    assert all(wait is not None and 300 <= wait <= 360 for wait in waits)
    await provisioner.close()


async def test_a_first_look_that_takes_too_long_hides_no_topic_that_is_there() -> None:
    class Late(FakeAdmin):
        async def layout(self, topics: Iterable[str]) -> Layout:
            raise TimeoutError

    operator = Operator()
    operator.provisioner._connect = lambda _: Late(operator.link)
    operator.submit(provisioning={"create": True})
    await operator.reconcile()
    await settled(operator)
    await operator.poll()
    assert operator.condition("TopicAvailable") == ("True", "TopicFound")
    assert operator.condition("Ready")[0] == "True"
    await operator.provisioner.close()
    await operator.lag.close()
