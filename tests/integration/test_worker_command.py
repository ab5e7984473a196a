"""The worker's command line: exit codes, problems, overrides, secured clusters."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from integration.worker_process import EXECUTABLE, WorkerProcess, manifest, until
from kafkaio import TopicFactory, produce, read_until
from testbed import KafkaBroker

pytestmark = pytest.mark.timeout(120)


def run(*arguments: str, document: Any = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EXECUTABLE, "run", *arguments],
        input=yaml.safe_dump(document) if document is not None else "",
        env={"PATH": "/usr/bin", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_wrong_manifest_exits_with_every_problem() -> None:
    document = manifest("kafka:9092", "in", {"concurrency": {"perReplica": 0}})
    document["spec"]["flow"] = {"backend": "Langflow", "timeoutSeconds": -1}
    document["spec"]["colour"] = "red"
    done = run("--file", "-", document=document)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    for field in ("spec.concurrency.perReplica", "spec.flow.timeoutSeconds", "spec.colour"):
        assert [line for line in lines if line.startswith(f"{field}: ")], done.stderr


@pytest.mark.parametrize(
    ("arguments", "env", "problem"),
    [
        ([], {}, "--file: required"),
        (["--file", "/nowhere.yaml"], {}, "--file: cannot read /nowhere.yaml: No such file"),
        (["--file", "-", "--http-address", "8080"], {}, "http_address: "),
        (
            ["--file", "-"],
            {"FLOWBINDING__FLOW__TIMEOUTSECONDS": "soon"},
            "spec.flow.timeoutSeconds",
        ),
        (["--file", "-"], {"FLOWBINDING__KAFKA": "{}"}, "spec.kafka.bootstrapServers: required"),
    ],
)
def test_what_else_is_wrong(arguments: list[str], env: dict[str, str], problem: str) -> None:
    done = run(*arguments, document=manifest("kafka:9092", "in", {}), **env)
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_help() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "--http-address" in done.stdout


async def test_a_binding_without_a_flow_waits_and_consumes_nothing(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path
) -> None:
    spec = {"flow": {"backend": "Langflow", "url": "http://langflow:7860"}}
    document = manifest(kafka.bootstrap, await topic(), spec)
    async with WorkerProcess(tmp_path, document) as worker:
        await until(worker.ready)
        assert await worker.committed() == 0
        assert await worker.terminate() == 0
    assert "Skipped" in worker.log.read_text()


async def test_the_environment_wins_and_its_credentials_stay_out_of_the_log(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path
) -> None:
    source, out = await topic(1), await topic(1)
    document = manifest(kafka.bootstrap, "elsewhere", {})
    overrides = {
        "FLOWBINDING__SOURCE__TOPIC": source,
        "FLOWBINDING__OUTPUT": f"{{topic: {out}, value: 'got [[ result ]]'}}".replace(
            "[[", "{{"
        ).replace("]]", "}}"),
        "FLOWBINDING__FLOW__URL": "http://user:hunter2@langflow:7860",
    }
    await produce(kafka.bootstrap, source, [(None, b"m0")])
    async with WorkerProcess(tmp_path, document, **overrides) as worker:
        [result] = await read_until(kafka.bootstrap, out, 1)
        assert result.value == b"got m0"
        assert await worker.terminate() == 0
    log = worker.log.read_text()
    assert source in log
    assert "hunter2" not in log


async def test_an_address_in_use_is_a_reason_to_give_up(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path
) -> None:
    document = manifest(kafka.bootstrap, await topic(), {})
    async with WorkerProcess(tmp_path, document) as worker:
        await until(worker.ready)
        second = WorkerProcess(tmp_path, document, "worker-1")
        second.port = worker.port
        async with second:
            assert await second.process.wait() == 1
        assert "address already in use" in second.log.read_text()


async def test_a_secured_cluster(tmp_path: Path) -> None:
    with KafkaBroker(tmp_path / "own", tls=True, sasl=True, users={"app": "s3cret"}) as broker:
        secrets = tmp_path / "secrets" / "kafka"
        secrets.mkdir(parents=True)
        (secrets / "ca").write_bytes(broker.ca.read_bytes())
        (secrets / "user").write_text("app\n")
        (secrets / "password").write_text("s3cret\n")
        pair = broker.client_certificate("worker")
        (secrets / "cert").write_bytes(pair.certificate.read_bytes())
        (secrets / "key").write_bytes(pair.key.read_bytes())

        def ref(key: str) -> dict[str, str]:
            return {"name": "kafka", "key": key}

        spec = {
            "kafka": {
                "tls": {
                    "enabled": True,
                    "caSecretRef": ref("ca"),
                    "certificateSecretRef": ref("cert"),
                    "keySecretRef": ref("key"),
                },
                "sasl": {
                    "mechanism": "SCRAM-SHA-512",
                    "usernameSecretRef": ref("user"),
                    "passwordSecretRef": ref("password"),
                },
            },
        }
        document = manifest(broker.bootstrap, "in", spec)
        async with WorkerProcess(tmp_path, document) as worker:

            async def reached() -> bool:
                return "TopicMissing" in worker.log.read_text()

            await until(reached, 60, "a topic can be missing only where one is let in")
            assert await worker.terminate() == 0
    assert "s3cret" not in worker.log.read_text()
