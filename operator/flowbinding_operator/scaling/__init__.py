"""How many workers a binding needs: a pure function of what was seen.

No clock and no I/O: time is whatever the samples say, so that the operator, the simulator
(benchmarks/scaling) and property tests run the same code. `History` is filled by its owner, once a
poll:

    history.observe(sample);  decision = decide(history, spec)
    history.remember(decision, spec.scaling.behavior)

The policy, with P partitions, a service time of S seconds and C slots, so that one worker does
mu = C / S messages a second:

- `rates`: what arrives as a flow, fast and slow; a lone burst is a backlog and no flow.
- `demand`: messages a second that are to be done, the larger of the flow with headroom and
  what it takes for a message that comes now to begin within targetLagSeconds; see
  docs/decisions/0012-a-backlog-may-wait-not-stay.md. Partitions with late messages get one level
  more; see docs/decisions/0022-late-partitions-get-one-level-more.md. A rate that rises slowly gets
  its workers when what waits would not be in time, see
  docs/decisions/0024-a-slow-rise-may-wait.md. What is in flight is no
  backlog: of what arrives, the last S seconds are (Little's law), see
  docs/decisions/0008-work-in-flight-is-no-backlog.md. No partition counts for more than one worker
  can do of it; what is stuck does not count at all.
- `levels`: Kafka gives whole partitions to workers, so the busiest worker holds ceil(P / N) of them
  and N is useful only if it lowers that number. The smallest such N that meets the demand.
- `saturation`: no more workers once more of them only made the backend slower (compare Flink's
  "ineffective scaling"; that a true rate can be measured at any load is from DS2, Kalavri et al.,
  OSDI 2018).
- `damping`: up at once and in one step; down to the highest need within a window; to zero after
  some quiet; policies in the HorizontalPodAutoscaler's shape limit the speed.
- `schedules`: other bounds at certain times.
- What is unknown changes nothing, or leads to the fallback; never to zero.
"""

from flowbinding_operator.scaling.decision import Decision
from flowbinding_operator.scaling.history import Highest, History
from flowbinding_operator.scaling.policy import decide
from flowbinding_operator.scaling.rates import arrival_rate, flow_rate
from flowbinding_operator.scaling.sample import Sample

__all__ = ["Decision", "Highest", "History", "Sample", "arrival_rate", "decide", "flow_rate"]
