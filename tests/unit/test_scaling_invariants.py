"""What holds whatever happens: properties of the scaling policy."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flowbinding_api.reasons import Reason
from flowbinding_operator.scaling import Sample
from scaling_world import TICK, Topic, World, spec_of

policies = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["Pods", "Percent"]),
            "value": st.integers(1, 200),
            "periodSeconds": st.integers(1, 120),
        }
    ),
    max_size=2,
)
rules = st.fixed_dictionaries(
    {
        "stabilizationWindowSeconds": st.sampled_from([0, 10, 120]),
        "policies": policies,
        "selectPolicy": st.sampled_from(["Max", "Min", "Disabled"]),
    }
)


@st.composite
def scalings(draw: st.DrawFn) -> dict[str, Any]:
    """Anything that spec.scaling may be in mode Lag."""
    low = draw(st.integers(0, 5))
    found: dict[str, Any] = {
        "minReplicas": low,
        "maxReplicas": low + draw(st.integers(1, 60)),
        "targetLagSeconds": draw(st.integers(1, 300)),
        "targetUtilization": draw(st.integers(10, 100)),
        "partitionAlignment": draw(st.sampled_from(["Balanced", "Exact", "None"])),
        "activation": {
            "lag": draw(st.sampled_from([0, 10])),
            "maxAgeSeconds": draw(st.sampled_from([0, 20])),
        },
        "idleSeconds": draw(st.sampled_from([0, 20, 300])),
        "behavior": {"scaleUp": draw(rules), "scaleDown": draw(rules)},
    }
    if draw(st.booleans()):
        found["lagThreshold"] = draw(st.integers(1, 1000))
    return found


class Wild(World):
    """Partitions that fill and empty at random."""

    def __init__(self, scaling: dict[str, Any], partitions: int, replicas: int) -> None:
        slots = {"perReplica": 2, "maxInFlight": 40}
        super().__init__(spec_of(scaling, slots), partitions, replicas)
        self.ends, self.done = [0] * partitions, [0] * partitions

    def step(self, came: list[int] | None, went: list[int], seconds: float, trouble: str) -> Any:
        self.now += TICK
        if came is None:
            return self._decide(Sample(self.now))
        for index in range(self.partitions):
            self.ends[index] += came[index % len(came)]
            self.done[index] = min(self.ends[index], self.done[index] + went[index % len(went)])
        return self._decide(
            Sample(
                self.now,
                sum(self.ends) - sum(self.done),
                sum(self.ends),
                self.partitions,
                seconds,
                unix=self.now,
                ends=tuple(self.ends),
                done=tuple(self.done),
                workers=self.history.replicas,
                slots=2.0,
                trouble=trouble,
            )
        )


counts = st.lists(st.integers(0, 300), min_size=1, max_size=5)
steps = st.lists(
    st.tuples(
        st.one_of(st.none(), counts),
        counts,
        st.floats(0.01, 100),
        st.sampled_from(["", "", "FlowFailing"]),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(scaling=scalings(), partitions=st.integers(1, 128), replicas=st.integers(0, 80), steps=steps)
def test_bounds_missing_data_and_reasons(
    scaling: dict[str, Any], partitions: int, replicas: int, steps: list[Any]
) -> None:
    world = Wild(scaling, partitions, replicas)
    bounds = world.spec.scaling
    highest = min(bounds.max_replicas, partitions)
    for came, went, seconds, trouble in steps:
        before = world.history.replicas or 0
        decision = world.step(came, went, seconds, trouble)
        assert decision.recommended == decision.replicas
        if came is None:
            # What is unknown changes nothing.
            assert (decision.replicas, decision.reason) == (before, Reason.LAG_UNKNOWN)
            continue
        assert decision.replicas <= highest
        assert decision.wanted <= highest
        assert decision.wanted >= min(bounds.min_replicas, highest)
        assert decision.floor >= decision.wanted
        up, down = bounds.behavior.scale_up, bounds.behavior.scale_down
        if up.select_policy == "Disabled":
            assert decision.replicas <= before
        if down.select_policy == "Disabled":
            assert decision.replicas >= min(before, highest)
        # Never to zero with messages there, and never asleep with more than the threshold.
        if decision.lag > 0 and before > 0:
            assert decision.replicas > 0
        free = up.select_policy != "Disabled" and not up.stabilization_window_seconds
        if decision.lag > bounds.activation.lag and free:
            assert decision.replicas > 0
        if decision.reason in {Reason.MAX_REPLICAS, Reason.PARTITION_LIMIT, Reason.HOT_PARTITION}:
            assert decision.limited is not None


@settings(max_examples=100, deadline=None)
@given(
    partitions=st.integers(1, 128),
    calm=st.lists(st.integers(0, 40), min_size=1, max_size=30),
    waiting=st.lists(st.integers(0, 2000), min_size=1, max_size=64),
    more=st.lists(st.integers(0, 2000), min_size=1, max_size=64),
)
def test_more_lag_never_wants_fewer(
    partitions: int, calm: list[int], waiting: list[int], more: list[int]
) -> None:
    def wanted(extra: list[int]) -> int:
        world = Wild({"maxReplicas": 128}, partitions, 1)
        for count in calm:
            world.step([count], [count], 1.0, "")
        # Behind by so much without any arrival: what was done before is less.
        for index in range(partitions):
            back = waiting[index % len(waiting)] + extra[index % len(extra)]
            world.done[index] -= back
        decision = world.step([1], [0], 1.0, "")
        assert decision.wanted is not None
        return int(decision.wanted)

    assert wanted(more) >= wanted([0])


@settings(max_examples=100, deadline=None)
@given(
    partitions=st.integers(1, 128),
    rate=st.integers(0, 400),
    more=st.integers(0, 400),
    lag=st.integers(1, 1000),
)
def test_more_arrivals_never_want_fewer(partitions: int, rate: int, more: int, lag: int) -> None:
    def wanted(arrived: int) -> int:
        decision = World(spec_of({"maxReplicas": 128}), partitions, 1).run(200, lag, arrived)
        assert decision.wanted is not None
        return decision.wanted

    assert wanted(rate + more) >= wanted(rate)


@settings(max_examples=12, deadline=None)
@given(
    partitions=st.integers(1, 128),
    rate=st.floats(0.02, 1.0),
    slots=st.integers(1, 8),
)
def test_a_constant_load_settles(partitions: int, rate: float, slots: int) -> None:
    topic = Topic(spec_of({"maxReplicas": 128}, {"perReplica": slots}), partitions)
    # As much as one worker for each partition can do with room to spare.
    assume(rate < 0.8 * slots)
    topic.watch(600, rate)
    assert len({decision.replicas for decision in topic.watch(600, rate)}) == 1
    assert sum(topic.ends) - sum(topic.done) <= max(30, 30 * rate * partitions)


@settings(max_examples=12, deadline=None)
@given(partitions=st.integers(1, 24), rate=st.floats(0.05, 0.6), dice=st.randoms())
def test_noise_in_the_seconds_of_a_run_hardly_matters(
    partitions: int, rate: float, dice: Any
) -> None:
    topic = Topic(spec_of({"maxReplicas": 128}, {"perReplica": 1}), partitions)
    topic.watch(600, rate)
    topic.history.changes.clear()
    changes, before = 0, topic.history.replicas
    for _ in range(300):
        topic.seconds = dice.uniform(0.8, 1.2)
        replicas = topic.look(rate).replicas
        changes += replicas != before
        before = replicas
    # Ten minutes.
    assert changes <= 2
