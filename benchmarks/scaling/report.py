"""The comparison as Markdown and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scaling.compare import FEW, FIRST_SEED, KEDA, MAIN, OURS, Row, Score, is_main

COST, SHARE = 1.3, 1 / 3
COLOURS = ("#0b6e4f", "#c0392b", "#d35400", "#8e44ad", "#2c3e50", "#2980b9", "#7f8c8d")

WHY = (
    "How that comes about:",
    "",
    "- noise is 12 messages a second for ever at 2 for each worker: 6 workers just fail to catch",
    "  up, and the next number that does more is 8, 1.33 times the bound. FlowBinding runs 6 until",
    "  messages begin to be late, and 8 for a while; who lets the number alone pays for 8.",
    "- ramp ends between 24 and 30 a second: more than 12 workers do, and nothing between 12 and",
    "  24 does more. FlowBinding stays with fewer workers as long as what waits is in time, and so",
    "  costs less than the settled number, which lets no message wait.",
    "- A step ends with the scale-down window: ten workers for two minutes are 0.07 of its bound,",
    "  by `behavior.scaleDown.stabilizationWindowSeconds`.",
    "- Of runs of 5 s (lognormal, sigma 0.5), one in 15,000 takes more than 30 s by itself. If its",
    "  message has waited for 30 s before, as it may by `targetLagSeconds`, it is over the SLO.",
    "- KEDA's lag counts what is in flight. With runs of 5 s that is 5 s of arrivals, more than",
    "  what chance leaves waiting, so it moves smoothly and too high: few changes, at about twice",
    "  the bound. A third of them is fewer than the settled number has on ramp and diurnal, and",
    "  whoever skips a level pays for the one above. With runs of 0.5 s chance moves the lag, and",
    "  KEDA with it.",
    "- A poison message stops its key for 15 minutes: what waits behind it is late under every",
    "  policy that keeps the order.",
)

BEGIN, END = "<!-- scaling: made by `make bench-scaling` -->", "<!-- /scaling -->"


def section(rows: Sequence[Row], command: str, seeds: int) -> str:
    """A section of benchmarks/RESULTS.md."""
    labels = [label for label in rows[0].scores if label != OURS]
    head = f"| workload | bound | settled | {OURS} | " + " | ".join(labels) + " |"
    lines = [
        BEGIN,
        "## Scaling policies in simulation",
        "",
        f"`{command}`, means of {seeds} seeds for {OURS} and {KEDA} in the workloads with an aim",
        f"(at the end), of {min(seeds, FEW)} for all else. Each cell: Pod-seconds as a multiple of",
        "the clairvoyant bound (in italics: of the work, where the bound's model does not fit);",
        "seconds with a message older than 60 s; changes of the number of workers.",
        "",
        "Settled: who knows the rate and always runs the least number that keeps up with it, with",
        "no start-up, noise or window; a rate that stays costs no policy less that then leaves the",
        "number alone. step, ramp, diurnal and noise are runs of 5 s in 10 slots of a worker; all",
        f"others 0.5 s in one slot. Seeds are {FIRST_SEED} on; the policy was tuned on others.",
        "",
        "The bound changes the number as often as it likes and lets messages wait for up to the",
        "SLO, so it shares time between levels: with 24 partitions no number between 12 and 24,",
        "or 8 and 12, does more than the lower one, and a policy that stays at a level pays for",
        "all of it. A Pod takes 15 s to start, a partition that moves stands still for 3 s, one",
        "look at Kafka in a hundred fails.",
        "",
        head,
        "|" + "---|" * (len(labels) + 4),
    ]
    for row in rows:
        cells = [_cell(row.scores[label], bound=row.bound) for label in (OURS, *labels)]
        bound = "" if row.bound is None else f"{row.bound:.2f}"
        least = "" if row.settled is None else f"{row.settled:.2f}x"
        lines.append(f"| {row.workload} | {bound} | {least} | " + " | ".join(cells) + " |")
    said_by_row = []
    for row in rows:
        limits = sorted(row.scores[OURS].limits.items(), key=lambda item: -item[1])
        said = ", ".join(f"{reason} for {seconds:.0f} s" for reason, seconds in limits)
        if said:
            said_by_row.append(f"- {row.workload}: {said}")
    if said_by_row:
        lines += ["", f"What {OURS} says where workers do not help:", "", *said_by_row]
    return "\n".join([*lines, "", *_goals(rows), END])


def _cell(score: Score, *, bound: float | None) -> str:
    cost = f"{score.cost:.2f}x" if bound is not None else f"*{score.cost:.2f}x*"
    return f"{cost} · {score.late:.0f} s · {score.events:.0f}"


def _goals(rows: Sequence[Row]) -> list[str]:
    """Whether what was aimed at is reached."""
    lines = [
        f"Aimed at: no second over the SLO in any run, at most {COST}x the bound, and at most a",
        f"third of the changes of {KEDA}.",
        "",
        "| workload | worst run over the SLO | longest wait for a run | cost | settled | changes"
        " | settled's | KEDA's | of KEDA's | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if not is_main(row.workload):
            continue
        ours, keda = row.scores[OURS], row.scores[KEDA]
        share = ours.events / keda.events if keda.events else math.inf
        met = (ours.worst == 0, ours.cost <= COST, share <= SHARE)
        words = ("SLO", "cost", "changes")
        missed = ", ".join(word for word, good in zip(words, met, strict=True) if not good)
        verdict = f"missed: {missed}" if missed else "reached"
        lines.append(
            f"| {row.workload} | {ours.worst:.0f} s | {ours.waited:.0f} s | {ours.cost:.2f}x |"
            f" {row.settled or 0:.2f}x | {ours.events:.0f} | {row.steps or 0:.0f} |"
            f" {keda.events:.0f} | {share:.2f} | {verdict} |"
        )
    return [*lines, "", *WHY]


def picture(rows: Sequence[Row]) -> str:
    """An SVG: for each main workload, cost against seconds over the SLO; areas are changes."""
    shown = [row for row in rows if row.workload in MAIN]
    labels = list(shown[0].scores)[: len(COLOURS)]
    width, height = 250 * len(shown), 330
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, row in enumerate(shown):
        parts += _panel(row, labels, 250 * number)
    for index, label in enumerate(labels):
        x, y = 20 + 200 * (index % 5), 290 + 20 * (index // 5)
        parts.append(f'<circle cx="{x}" cy="{y - 4}" r="5" fill="{COLOURS[index]}"/>')
        parts.append(f'<text x="{x + 10}" y="{y}">{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(row: Row, labels: Sequence[str], left: int) -> list[str]:
    def x(cost: float) -> float:
        return left + 35 + 195 * (min(cost, 4.5) - 1) / 3.5

    def y(late: float) -> float:
        return 235 - 185 * math.log10(1 + late) / math.log10(7201)

    parts = [
        f'<text x="{left + 35}" y="20" font-size="13" font-weight="bold">{row.workload}</text>',
        f'<path d="M{left + 35} 35V235H{left + 235}" fill="none" stroke="#999"/>',
        f'<text x="{left + 60}" y="268" fill="#555">Pod-seconds / clairvoyant bound</text>',
    ]
    for cost in (1, 2, 3, 4):
        parts.append(f'<text x="{x(cost):.0f}" y="250" text-anchor="middle">{cost}x</text>')
    for late in (0, 10, 100, 1000):
        parts.append(f'<text x="{left + 31}" y="{y(late) + 4:.0f}" text-anchor="end">{late}</text>')
    parts.append(f'<text x="{left + 40}" y="36" fill="#555">seconds over the SLO of 60 s</text>')
    for index, label in enumerate(labels):
        score = row.scores[label]
        radius = 3 + 1.2 * math.sqrt(score.events)
        parts.append(
            f'<circle cx="{x(score.cost):.1f}" cy="{y(score.late):.1f}" r="{radius:.1f}"'
            f' fill="{COLOURS[index]}" fill-opacity="0.65"><title>{label}: {score.cost:.2f}x,'
            f" {score.late:.0f} s, {score.events:.0f} changes</title></circle>"
        )
    return parts
