"""Topics that bindings ask for: what is to be done, and what to tell of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flowbinding_api.binding import FlowBinding
from flowbinding_api.reasons import Reason
from flowbinding_operator.lag import Trouble

EXISTS = 36
DENIED = frozenset({29, 31, 58})
"""Topic, cluster and SASL authorization."""
REFUSED: Mapping[int, str] = {
    17: "",
    37: "spec.provisioning.partitions",
    38: "spec.provisioning.replicationFactor",
    39: "spec.provisioning.replicationFactor",
    40: "spec.provisioning.config",
    42: "spec.provisioning",
    44: "spec.provisioning",
}
"""Kafka's codes for what no repetition makes better, with the field to look at. 17: the name; 37 to
40: partitions, replication factor, assignment, config; 42: the request; 44: a policy."""
PASSING = frozenset({Reason.KAFKA_UNREACHABLE, Reason.PROVISIONING_FAILED})
"""Troubles that say nothing about the topics themselves."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What Kafka says about one topic.

    Attributes:
        topic: Which.
        code: Kafka's error code; 0 is success.
        name: Its word for the code, e.g. InvalidReplicationFactor.
        message: The broker's own words.
    """

    topic: str
    code: int
    name: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What has become of a binding's topics.

    Attributes:
        asked: Whether the binding asks for any.
        done: Whether all are there.
        trouble: What prevents it.
        note: Topics with more partitions than asked for.
    """

    asked: bool = False
    done: bool = False
    trouble: Trouble | None = None
    note: str = ""

    @property
    def pending(self) -> bool:
        """Whether nobody has looked yet."""
        return self.asked and not self.done and self.trouble is None


NOTHING = Provisioned()
"""Of a binding that asks for no topics."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Topics that should be there.

    Attributes:
        topics: Their names.
        partitions: Of each; None: what the brokers give a new one.
        replication_factor: Of each new one; None in the same way.
        config: Settings of each new one.
    """

    topics: tuple[str, ...]
    partitions: int | None
    replication_factor: int | None
    config: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, binding: FlowBinding) -> Wanted:
        """What a binding asks for."""
        asked = binding.spec.provisioning
        names = (*binding.spec.source.all_topics, *binding.written_topics)
        return cls(
            tuple(dict.fromkeys(names)),
            asked.partitions,
            asked.replication_factor,
            tuple(sorted(asked.config.items())),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes:
        create: Topics that are missing.
        grow: Topics with too few partitions, with how many they are to have.
        larger: Topics with more than asked for, with how many they have.
        trouble: What cannot be found out.
    """

    create: tuple[str, ...] = ()
    grow: Mapping[str, int] = field(default_factory=dict)
    larger: Mapping[str, int] = field(default_factory=dict)
    trouble: Trouble | None = None

    @property
    def note(self) -> str:
        """What to tell of topics that are larger than asked for; mostly nothing."""
        if not self.larger:
            return ""
        told = ", ".join(f"topic {name!r} has {n}" for name, n in sorted(self.larger.items()))
        return f"{told}, more than spec.provisioning.partitions, and keeps them"


def plan(wanted: Wanted, counts: Mapping[str, int], troubles: Mapping[str, Trouble]) -> Plan:
    """Compare what should be there with what is.

    Args:
        wanted: What should be there.
        counts: Partitions of each topic.
        troubles: What is wrong with a topic, by name.
    """
    missing, other = [], []
    for name in wanted.topics:
        trouble = troubles.get(name)
        if trouble is not None and trouble.reason is Reason.TOPIC_MISSING:
            missing.append(name)
        elif trouble is not None:
            other.append(trouble)
    there = {name: count for name, count in counts.items() if count and name not in missing}
    most = wanted.partitions
    return Plan(
        tuple(missing),
        {name: most for name, count in there.items() if most is not None and count < most},
        {name: count for name, count in there.items() if most is not None and count > most},
        other[0] if other else None,
    )


def trouble_of(what: str, answer: Answer) -> Trouble:
    """What to tell of a refusal.

    Args:
        what: E.g. `topic 'x' cannot be created`.
        answer: Kafka's.
    """
    words = ": ".join(text for text in (answer.name, answer.message) if text)
    if answer.code in DENIED:
        return Trouble(Reason.PROVISIONING_DENIED, f"{what}: {words}")
    if answer.code in REFUSED:
        field_path = REFUSED[answer.code]
        hint = f" (see {field_path})" if field_path else ""
        return Trouble(Reason.PROVISIONING_REFUSED, f"{what}: {words}{hint}")
    return Trouble(Reason.PROVISIONING_FAILED, f"{what}: {words}")
