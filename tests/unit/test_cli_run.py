"""`flowbinding run`: the Job that it makes, what it shows, and whom it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_fakes import FakeKube, live, run
from flowbinding_api import parse_binding
from flowbinding_api.resolve import with_overrides
from flowbinding_cli import options
from flowbinding_cli.run import VALUE, Outcome, follow, job_of, readable

SCHEDULE = {"cron": "0 2 * * *", "value": {"message": "good morning"}}


class JobKube(FakeKube):
    """Kubernetes whose Job ends when its log has been read to the end."""

    def __init__(self) -> None:
        super().__init__()
        self.cron_jobs: dict[str, Any] = {}
        self.created: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.end: str | None = "Complete"
        self.words = ""
        self.waiting: dict[str, str] = {}
        self.asked = 0

    def cron_job(self, namespace: str, name: str) -> Any:
        return self.cron_jobs.get(f"{namespace}/{name}")

    def create_job(self, namespace: str, manifest: Any) -> Any:
        self.created.append(manifest)
        return manifest

    def job(self, namespace: str, name: str) -> Any:
        self.asked += 1
        ended = self.end is not None and self.asked > len(self.lines)
        conditions = [{"type": self.end, "status": "True", "message": "the back-off is over"}]
        return {"metadata": {"name": name}, "status": {"conditions": conditions if ended else []}}

    def pods(self, namespace: str, selector: str) -> list[Any]:
        job = selector.removeprefix("batch.kubernetes.io/job-name=")
        state: dict[str, Any] = {"waiting": self.waiting} if self.waiting else {}
        if self.words:
            state = {"terminated": {"message": self.words}}
        return [
            {"metadata": {"name": f"{job}-x"}, "status": {"containerStatuses": [{"state": state}]}}
        ]

    def log(self, namespace: str, pod: str) -> list[str]:
        return self.lines[: self.asked]


@pytest.fixture
def kube(monkeypatch: pytest.MonkeyPatch) -> JobKube:
    fake = JobKube()
    binding = live("nightly", source={"schedule": SCHEDULE})
    del binding["spec"]["source"]["topic"]
    fake.live["team/nightly"] = binding
    fake.live["team/example"] = live()
    container = {"name": "worker", "env": [{"name": "HOME", "value": "/tmp"}]}
    fake.cron_jobs["team/nightly-worker"] = {
        "metadata": {"name": "nightly-worker", "uid": "u1"},
        "spec": {
            "jobTemplate": {
                "metadata": {"labels": {"flowbinding.io/binding": "nightly"}},
                "spec": {"backoffLimit": 0, "template": {"spec": {"containers": [container]}}},
            }
        },
    }
    monkeypatch.setattr(options, "connect", lambda *_: fake)
    monkeypatch.setattr("flowbinding_cli.run.POLL_SECONDS", 0)
    return fake


def env(kube: JobKube) -> dict[str, str]:
    container = kube.created[0]["spec"]["template"]["spec"]["containers"][0]
    return {item["name"]: item["value"] for item in container["env"]}


def test_a_run_shows_its_log_and_its_end(kube: JobKube) -> None:
    entry = {"event": "run ended", "level": "info", "timestamp": "2026-11-21T02:00:01.5Z"}
    kube.lines = ["not JSON", json.dumps({"outcome": "succeeded", **entry})]
    result = run("run", "nightly")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "Succeeded\n"
    created, *lines = result.stderr.splitlines()
    assert created.startswith("Job team/nightly-run-")
    assert lines == ["not JSON", "02:00:01 info    run ended  outcome=succeeded"]
    (job,) = kube.created
    assert job["metadata"]["annotations"] == {"cronjob.kubernetes.io/instantiate": "manual"}
    assert job["metadata"]["labels"] == {"flowbinding.io/binding": "nightly"}
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("CronJob", "u1", True)
    assert "blockOwnerDeletion" not in owner
    assert VALUE not in env(kube)


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (["--value", '{"message": "grüß 😀 \\u0007"}'], ""),
        (["--text", "grüß 😀 \a"], ""),
        (["--file", "-"], '{"message": "grüß 😀 \\u0007"}'),
    ],
    ids=["value", "text", "file"],
)
def test_another_message_reaches_the_worker(
    kube: JobKube, arguments: list[str], stdin: str
) -> None:
    assert run("run", "nightly", *arguments, stdin=stdin).exit_code == 0
    resolved = parse_binding(with_overrides(dict(kube.live["team/nightly"]), env(kube)))
    schedule = resolved.spec.source.schedule
    assert schedule is not None
    assert schedule.value == {"message": "grüß 😀 \a"}


def test_a_failed_run_says_why(kube: JobKube) -> None:
    kube.end, kube.words = "Failed", "FlowNotFound: flow 'x' is not known\n"
    result = run("run", "nightly")
    assert result.exit_code == 1
    assert result.stdout == "Failed: FlowNotFound: flow 'x' is not known\n"
    kube.words = ""
    told = run("run", "nightly", "-o", "json")
    assert told.exit_code == 1
    assert json.loads(told.stdout)["message"] == "the back-off is over"


def test_nobody_has_to_wait(kube: JobKube) -> None:
    result = run("run", "nightly", "--no-wait", "-o", "json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["outcome"] == "Running"
    assert kube.asked == 0


def test_a_run_that_takes_long_goes_on() -> None:
    kube, shown = JobKube(), list[str]()
    kube.end, kube.waiting = None, {"reason": "ErrImagePull", "message": "no such image"}
    times: Iterator[float] = iter(range(100))
    outcome = follow(
        kube,
        "team",
        "nightly-run-1",
        5,
        clock=lambda: next(times),
        sleep=lambda _: None,
        show=shown.append,
    )
    assert outcome.outcome == "Running"
    assert (
        outcome.message
        == "not ended within 5 s; it goes on: kubectl -n team logs -f job/nightly-run-1"
    )
    assert shown == ["the Pod does not start: ErrImagePull: no such image"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "FlowBinding team/nobody: not found"),
        (["example"], "Send one with `flowbinding produce example --json …`"),
        (["./binding.yaml"], "flowbinding-worker run --once --file ./binding.yaml"),
    ],
)
def test_who_cannot_be_run_reads_what_to_do(
    kube: JobKube, arguments: list[str], message: str
) -> None:
    result = run("run", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert kube.created == []


def test_a_schedule_without_its_cron_job(kube: JobKube) -> None:
    kube.cron_jobs.clear()
    result = run("run", "nightly")
    assert result.exit_code == 1
    assert "kubectl -n team describe fb nightly" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--value", "{"], ["--value", "[1]"], ["--value", "{}", "--text", "x"]],
    ids=str,
)
def test_a_wrong_message_is_refused(kube: JobKube, arguments: list[str]) -> None:
    assert run("run", "nightly", *arguments).exit_code == 2
    assert kube.created == []


def test_a_value_said_twice_counts_once(kube: JobKube) -> None:
    template = kube.cron_jobs["team/nightly-worker"]
    container = template["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    container["env"].append({"name": VALUE, "value": "{}"})
    made = job_of(template, "nightly", {"a": None}, "abcde")
    assert made["metadata"]["name"] == "nightly-run-abcde"
    said = [
        i for i in made["spec"]["template"]["spec"]["containers"][0]["env"] if i["name"] == VALUE
    ]
    assert said == [{"name": VALUE, "value": '{"a": null}'}]


def test_a_schedule_in_other_commands(kube: JobKube, tmp_path: Path) -> None:
    status = {"lastScheduleTime": "2026-11-21T02:00:00Z", "reason": "RunSucceeded", "replicas": 0}
    kube.live["team/nightly"] = {**kube.live["team/nightly"], "status": status}
    shown = run("status", "nightly")
    assert shown.exit_code == 0, shown.stderr
    assert "Schedule: 0 2 * * * (Etc/UTC)" in shown.stdout
    assert "due 2026-11-21T02:00:00Z, ended well never (RunSucceeded)" in shown.stdout
    assert "(0 2 * * *)" in run("watch", "nightly", "--once").stdout
    produced = run("produce", "nightly", "--text", "x")
    assert (produced.exit_code, "flowbinding run nightly" in produced.stderr) == (1, True)
    letters = run("dead-letters", "list", "nightly")
    assert "spec.deadLetter.topic is not set" in letters.stderr
    replayed = run("dead-letters", "replay", "nightly")
    assert "`flowbinding run nightly` runs it again" in replayed.stderr


def test_other_lines_stay_as_they_are() -> None:
    for line in ("Traceback", "[1]", '"x"', "{}", '{"level": "info"}'):
        assert readable(line) == line


def test_an_outcome_is_plain_data() -> None:
    assert Outcome("team", "x", "Succeeded").message == ""
