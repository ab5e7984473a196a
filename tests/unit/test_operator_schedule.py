"""A binding whose source is a schedule: its CronJob, its runs, its status."""

from __future__ import annotations

from typing import Any

import pytest

from flowbinding_operator.kube import KubeError
from flowbinding_operator.lag import Observation
from operator_fakes import Object
from operator_harness import KEY, Operator

SCHEDULE = {"cron": "0 2 * * *", "timeZone": "Europe/Berlin", "value": {"message": "hello"}}
ECHO = {"backend": "Echo"}
INVALID = {"backend": "Echo", "input": "{{ value", "timeoutSeconds": 1}


def submit(operator: Operator, schedule: dict[str, Any] | None = None, **spec: Any) -> None:
    operator.submit(source={"schedule": {**SCHEDULE, **(schedule or {})}}, **spec)


async def scheduled(**spec: Any) -> Operator:
    operator = Operator()
    submit(operator, **spec)
    await operator.reconcile()
    return operator


def cron_job(operator: Operator) -> Object:
    return operator.kube.find("CronJob", "risk-worker")


def container(operator: Operator) -> Object:
    template = cron_job(operator)["spec"]["jobTemplate"]["spec"]["template"]
    found: Object = template["spec"]["containers"][0]
    return found


def run(operator: Operator, name: str, *, good: bool | None, at: str = "") -> None:
    """A Job of the CronJob as its controller would leave it; `good` None: it goes on."""
    kind = "Complete" if good else "Failed"
    ended = [{"type": kind, "status": "True", "lastTransitionTime": at, "message": "over"}]
    operator.touch(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": name,
                "namespace": "shop",
                "labels": {"flowbinding.io/binding": "risk"},
                "ownerReferences": [{"uid": cron_job(operator)["metadata"]["uid"]}],
            },
            "status": {} if good is None else {"conditions": ended},
        }
    )
    live = cron_job(operator)
    live["status"] = {**live.get("status", {}), "lastScheduleTime": at or "2026-11-21T02:00:00Z"}
    if good:
        live["status"]["lastSuccessfulTime"] = at
    operator.touch(live)


def pod(job: str, **status: Any) -> Object:
    return {
        "metadata": {"name": f"{job}-x", "labels": {"batch.kubernetes.io/job-name": job}},
        "status": {"containerStatuses": [{"name": "worker", "ready": False, **status}]},
    }


async def test_a_cron_job_and_no_deployment() -> None:
    operator = await scheduled()
    spec = cron_job(operator)["spec"]
    assert (spec["schedule"], spec["timeZone"]) == ("0 2 * * *", "Europe/Berlin")
    assert (spec["concurrencyPolicy"], spec["suspend"]) == ("Forbid", False)
    assert "startingDeadlineSeconds" not in spec
    assert spec["jobTemplate"]["spec"]["backoffLimit"] == 0
    assert spec["jobTemplate"]["metadata"]["labels"]["flowbinding.io/binding"] == "risk"
    assert ("Deployment", "shop", "risk-worker") not in operator.kube.objects
    assert operator.kube.find("ConfigMap", "risk-worker")
    assert operator.condition("Ready") == ("True", "Ready")
    assert operator.status["reason"] == "Scheduled"
    assert not operator.lag.pollers


async def test_its_pods_run_once_and_serve_nothing() -> None:
    operator = await scheduled()
    worker = container(operator)
    assert worker["command"] == ["flowbinding-worker", "run", "--once"]
    assert not {"ports", "livenessProbe", "readinessProbe", "startupProbe"} & worker.keys()
    template = cron_job(operator)["spec"]["jobTemplate"]["spec"]["template"]
    assert template["spec"]["restartPolicy"] == "Never"
    assert "prometheus.io/scrape" not in template["metadata"]["annotations"]
    assert "spool" not in [volume["name"] for volume in template["spec"]["volumes"]]
    names = {item["name"] for item in worker["env"]}
    assert "FLOWBINDING_JOB" in names
    assert "FLOWBINDING_HTTP_ADDRESS" not in names


async def test_a_drained_node_s_run_is_repeated_unless_it_must_not_be() -> None:
    often = cron_job(await scheduled())["spec"]["jobTemplate"]["spec"]
    assert often["podFailurePolicy"]["rules"][0]["action"] == "Ignore"
    once = cron_job(await scheduled(retry={"onTimeout": "DeadLetter"}))
    assert "podFailurePolicy" not in once["spec"]["jobTemplate"]["spec"]


async def test_nothing_is_written_twice() -> None:
    operator = await scheduled()
    await operator.reconcile()
    assert operator.kube.writes == []


async def test_what_somebody_changed_is_put_back() -> None:
    operator = await scheduled()
    live = cron_job(operator)
    live["spec"]["suspend"] = True
    operator.touch(live)
    await operator.reconcile()
    assert cron_job(operator)["spec"]["suspend"] is False


async def test_a_paused_schedule_rests() -> None:
    operator = await scheduled(paused=True)
    assert cron_job(operator)["spec"]["suspend"] is True
    assert operator.condition("Ready") == ("True", "Paused")
    assert operator.condition("Paused") == ("True", "Paused")
    assert operator.status["reason"] == "Paused"


async def test_without_a_flow_nothing_runs_and_nothing_fails() -> None:
    operator = await scheduled(flow={"backend": "Langflow", "url": "http://langflow:7860"})
    assert cron_job(operator)["spec"]["suspend"] is True
    assert operator.condition("FlowConfigured") == ("False", "Skipped")
    assert operator.condition("Ready") == ("True", "Skipped")


async def test_from_a_topic_to_a_schedule_and_back() -> None:
    operator = Operator()
    operator.submit()
    await operator.reconcile()
    assert operator.deployment
    submit(operator)
    await operator.reconcile()
    assert ("Deployment", "shop", "risk-worker") not in operator.kube.objects
    assert cron_job(operator)
    assert "ScalingActive" not in [c["type"] for c in operator.status["conditions"]]
    operator.submit()
    await operator.reconcile()
    assert operator.deployment
    assert ("CronJob", "shop", "risk-worker") not in operator.kube.objects


async def test_a_cron_job_of_somebody_else_is_left_alone() -> None:
    operator = Operator()
    foreign = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "risk-worker", "namespace": "shop"},
        "spec": {"schedule": "1 1 1 1 1"},
    }
    operator.touch(foreign)
    submit(operator)
    await operator.reconcile()
    assert cron_job(operator)["spec"] == foreign["spec"]
    assert operator.condition("Ready") == ("False", "ApplyRefused")
    operator.submit()
    await operator.reconcile()
    assert cron_job(operator)["spec"] == foreign["spec"]


async def test_what_the_api_server_refuses_is_told() -> None:
    operator = Operator()
    operator.kube.refuse = KubeError("spec.timeZone: unknown time zone", status=422)
    submit(operator)
    assert await operator.reconcile() is not None
    ready = operator.status["conditions"][0]
    assert (ready["reason"], ready["message"]) == (
        "ApplyRefused",
        "spec.timeZone: unknown time zone",
    )


async def test_a_run_that_goes_on_and_then_succeeds() -> None:
    operator = await scheduled()
    run(operator, "risk-worker-1", good=None)
    assert await operator.reconcile() == pytest.approx(15)
    assert (operator.status["reason"], operator.status["replicas"]) == ("Running", 1)
    run(operator, "risk-worker-1", good=True, at="2026-11-21T02:00:09Z")
    await operator.reconcile()
    assert operator.status["reason"] == "RunSucceeded"
    assert operator.status["lastSuccessfulTime"] == "2026-11-21T02:00:09Z"
    assert operator.condition("Degraded") == ("False", "Healthy")


async def test_a_failed_run_shows_why_and_the_next_success_ends_it() -> None:
    operator = await scheduled()
    run(operator, "risk-worker-1", good=False, at="2026-11-21T02:00:09Z")
    ended = {"exitCode": 1, "message": "FlowNotFound: flow 'risk' is not known"}
    operator.kube.pods = [pod("risk-worker-1", state={"terminated": ended})]
    await operator.reconcile()
    assert operator.condition("Degraded") == ("True", "RunFailed")
    assert operator.condition("Ready") == ("False", "RunFailed")
    assert operator.status["reason"] == "RunFailed"
    message = operator.status["conditions"][0]["message"]
    assert message == "Job risk-worker-1 failed: FlowNotFound: flow 'risk' is not known"
    assert [event["reason"] for event in operator.kube.events].count("RunFailed") == 1
    # Its Pod may be gone; what it said is remembered.
    operator.kube.pods = []
    await operator.reconcile()
    assert operator.status["conditions"][0]["message"] == message
    run(operator, "risk-run-abc", good=True, at="2026-11-21T08:00:00Z")
    await operator.reconcile()
    assert operator.condition("Ready") == ("True", "Ready")
    assert operator.status["reason"] == "RunSucceeded"


async def test_the_newest_run_counts() -> None:
    operator = await scheduled()
    run(operator, "risk-worker-2", good=True, at="2026-11-21T02:00:09Z")
    run(operator, "risk-worker-1", good=False, at="2026-11-20T02:00:09Z")
    await operator.reconcile()
    assert operator.condition("Degraded") == ("False", "Healthy")
    run(operator, "risk-worker-3", good=False, at="2026-11-22T02:00:09Z")
    await operator.reconcile()
    assert operator.condition("Degraded") == ("True", "RunFailed")


async def test_another_binding_s_jobs_do_not_count() -> None:
    operator = await scheduled()
    run(operator, "risk-worker-1", good=False, at="2026-11-21T02:00:09Z")
    job = operator.kube.find("Job", "risk-worker-1")
    job["metadata"]["ownerReferences"] = [{"uid": "somebody"}]
    operator.touch(job)
    await operator.reconcile()
    assert operator.condition("Degraded") == ("False", "Healthy")


async def test_a_run_whose_image_is_missing_is_told() -> None:
    operator = await scheduled()
    run(operator, "risk-worker-1", good=None)
    waiting = {"reason": "ErrImagePull", "message": "no such image"}
    operator.kube.pods = [pod("risk-worker-1", image="x:1", state={"waiting": waiting})]
    await operator.reconcile()
    assert operator.condition("Degraded") == ("True", "ImageUnavailable")
    assert operator.condition("Ready") == ("False", "ImageUnavailable")


async def test_a_missing_secret_is_told() -> None:
    key = {"name": "langflow", "key": "api-key"}
    flow = {
        "backend": "Langflow",
        "id": "risk",
        "url": "http://langflow:7860",
        "apiKeySecretRef": key,
    }
    operator = await scheduled(flow=flow)
    assert operator.condition("Ready") == ("False", "SecretMissing")
    assert operator.condition("FlowConfigured") == ("False", "SecretMissing")
    assert cron_job(operator)


async def test_kafka_is_needed_only_for_what_is_written() -> None:
    alone = await scheduled(kafka={})
    assert alone.condition("Ready") == ("True", "Ready")
    writes = await scheduled(kafka={}, output={"topic": "out"})
    assert writes.condition("Ready") == ("False", "KafkaNotConfigured")


async def test_a_deleted_binding_is_forgotten() -> None:
    operator = await scheduled()
    operator.bindings.drop("shop/risk")
    await operator.reconcile()
    assert operator.kube.writes == []


async def test_an_invalid_spec_can_be_paused_and_goes_on_when_it_is_repaired() -> None:
    operator = await scheduled()
    before = cron_job(operator)["spec"]
    submit(operator, flow=INVALID, paused=True)
    await operator.reconcile()
    assert operator.kube.writes == ["suspend CronJob", "status"]
    assert cron_job(operator)["spec"] == {**before, "suspend": True}
    assert operator.condition("Ready") == ("False", "InvalidSpec")
    assert operator.condition("Paused") == ("True", "Paused")
    assert operator.status["reason"] == "Paused"
    assert not {"desiredReplicas", "lastScaleTime"} & operator.status.keys()
    await operator.reconcile()
    assert operator.kube.writes == []
    submit(operator)
    await operator.reconcile()
    assert cron_job(operator)["spec"] == before
    assert operator.condition("Ready") == ("True", "Ready")


async def test_runs_go_on_while_an_invalid_spec_is_not_paused() -> None:
    operator = await scheduled()
    submit(operator, flow=INVALID)
    await operator.reconcile()
    assert operator.kube.writes == ["status"]
    assert cron_job(operator)["spec"]["suspend"] is False


async def test_an_invalid_spec_pauses_no_cron_job_of_somebody_else() -> None:
    operator = Operator()
    foreign = {"kind": "CronJob", "metadata": {"name": "risk-worker", "namespace": "shop"}}
    operator.touch({**foreign, "spec": {"schedule": "1 1 1 1 1"}})
    submit(operator, flow=INVALID, paused=True)
    await operator.reconcile()
    assert operator.kube.writes == ["status"]


async def test_a_cron_job_that_may_not_be_stopped_is_told() -> None:
    operator = await scheduled()
    operator.cron_jobs.drop("shop/risk-worker")
    operator.kube.forbidden = {"CronJob"}
    submit(operator, flow=INVALID, paused=True)
    assert await operator.reconcile() == 15
    assert "cronjobs is forbidden" in operator.status["conditions"][0]["message"]


async def test_no_run_begins_any_more_while_the_new_topic_s_flow_lacks_a_secret() -> None:
    operator = await scheduled()
    key = {"name": "langflow", "key": "api-key"}
    operator.submit(flow={"backend": "Echo", "apiKeySecretRef": key}, paused=True)
    await operator.reconcile()
    assert operator.condition("Ready") == ("False", "SecretMissing")
    assert ("CronJob", "shop", "risk-worker") not in operator.kube.objects


async def test_a_schedule_has_no_lag_to_show() -> None:
    operator = Operator()
    operator.submit(scaling={"mode": "Static", "replicas": 2})
    await operator.poll()
    seen = Observation(1.0, lag=7, by_topic={"orders": 7})
    operator.metrics.observed(KEY, seen, 1.0)
    submit(operator)
    await operator.reconcile()
    shown = {
        sample.name
        for metric in operator.metrics.registry.collect()
        for sample in metric.samples
        if sample.labels.get("name") == "risk"
    }
    assert shown == {"flowbinding_operator_condition"}


async def test_a_new_leader_writes_no_cron_job_that_is_as_it_should_be() -> None:
    operator = await scheduled()
    operator.restart()
    await operator.reconcile()
    assert operator.kube.writes == []
    operator.restart()
    submit(operator, {"cron": "0 3 * * *"})
    await operator.reconcile()
    assert operator.kube.writes[:2] == [
        "apply ConfigMap flowbinding-operator",
        "apply CronJob flowbinding-operator",
    ]
    assert cron_job(operator)["spec"]["schedule"] == "0 3 * * *"
