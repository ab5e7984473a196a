"""Schemas of messages: asked for once, and what becomes of messages while that fails."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker_fakes import P0
from flow_fakes import MockServer
from flowbinding_api.registry import SchemaRegistry
from flowbinding_api.spec import Format
from flowbinding_worker import schemas
from flowbinding_worker.assembly import make_reader
from flowbinding_worker.files import Files
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.payload.decode import decode
from flowbinding_worker.ports import Failure, ProcessingError, Record, Stage
from flowbinding_worker.schemas import AvroReader
from registry_stand_in import Registry, framed
from schema_bench import ADDRESS, ORDER, PLAIN, UNREACHABLE, URL, order, ordered
from testbed.state import free_port
from worker_fakes import binding

BASIC = {
    "basic": {
        "usernameSecretRef": {"name": "registry", "key": "user"},
        "passwordSecretRef": {"name": "registry", "key": "password"},
    }
}


def record(value: bytes | None) -> Record:
    return Record(P0, 0, b"k", value, (), 1_000)


class Asked:
    """A reader of a registry, and what it has counted."""

    def __init__(self, handler: Any, files: Files | None = None, **spec: Any) -> None:
        self.counts: list[str] = []
        settings = SchemaRegistry.model_validate({"url": URL, **spec})
        transport = MockServer(handler) if handler is not None else None
        self.reader = AvroReader(settings, files or Files(), self.counts.append, transport)

    async def read(self, value: bytes | None) -> Any:
        found = (await self.reader.read(record(value))).value
        return None if found is None else json.loads(found)

    async def refused(self, value: bytes) -> ProcessingError:
        with pytest.raises(ProcessingError) as raised:
            await self.read(value)
        await self.reader.close()
        return raised.value


async def test_all_who_need_a_schema_at_once_cause_one_request() -> None:
    registry = Registry()
    number = order(registry)
    asked = Asked(registry)
    found = await asyncio.gather(*(asked.read(ordered(number, n)) for n in range(50)))
    assert found == [{"n": n, "to": {"city": "Köln"}} for n in range(50)]
    assert await asked.read(ordered(number, 50)) == {"n": 50, "to": {"city": "Köln"}}
    assert registry.asked == [
        "/apis/ccompat/v7/schemas/ids/2",
        "/apis/ccompat/v7/subjects/addresses%2Fof%20shop/versions/1?deleted=true",
    ]
    assert "schemaregistry" in registry.seen[0]["accept"]
    assert asked.counts == ["Found", "Found"]
    await asked.reader.close()


async def test_references_come_after_those_that_they_refer_to_whatever_their_order() -> None:
    registry = Registry()
    first = {"name": "shop.Address", "subject": "a", "version": 1}
    second = {"name": "shop.Order", "subject": "b", "version": 1}
    registry.add(ADDRESS, "a")
    registry.add(ORDER, "b", [first])
    number = registry.add({"type": "array", "items": "shop.Order"}, "c", [second, first])
    asked = Asked(registry)
    assert await asked.read(framed(number, b"\2\6\2K\0")) == [{"n": 3, "to": {"city": "K"}}]
    assert len(registry.asked) == 3
    await asked.reader.close()


async def test_references_in_a_circle_end() -> None:
    registry = Registry()
    registry.add(ORDER, "a", [{"name": "x", "subject": "b", "version": 1}])
    registry.add(ADDRESS, "b", [{"name": "x", "subject": "a", "version": 1}])
    error = await Asked(registry).refused(framed(1, b""))
    assert error.reason == "DecodeFailed"
    assert len(registry.asked) <= 4


async def test_too_many_references_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "MAX_REFERENCES", 2)
    registry = Registry()
    references = [{"name": name, "subject": name, "version": 1} for name in "abc"]
    for name in "abc":
        registry.add("string", name)
    number = registry.add(ORDER, references=references)
    asked = Asked(registry)
    for _ in range(2):
        error = await asked.refused(framed(number, b""))
        assert error.reason == "DecodeFailed"
        assert "it is no usable schema: more than 2 references" in str(error)
        assert len(registry.asked) == 3
    await asked.reader.close()


async def test_a_tombstone_needs_no_schema() -> None:
    asked = Asked(lambda _: pytest.fail("nothing to ask for"))
    assert await asked.read(None) is None
    await asked.reader.close()


async def test_the_oldest_schemas_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "KEPT", 2)
    registry = Registry()
    numbers = [registry.add("string") for _ in range(3)]
    asked = Asked(registry)
    for number in (*numbers[:2], numbers[0], numbers[2], numbers[0], numbers[1]):
        assert await asked.read(framed(number, b"\2x")) == "x"
    assert [path[-1] for path in registry.asked] == ["1", "2", "3", "2"]
    await asked.reader.close()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b'{"a": 1}', "does not begin with a zero byte and the number of a schema"),
        (framed(1, b"\4x"), "with schema 1: message: Read 1 bytes, expected 2 bytes"),
        (framed(1, b"\2xyz"), "with schema 1: 2 bytes are left over"),
        (framed(2, b"{}"), "with schema 2: it is of type PROTOBUF, not Avro"),
        (framed(4, b"{}"), "it is of type JSON, not Avro; source.format JsonSchema reads it"),
        (framed(3, b"\0"), "3: it is no usable schema: the schema is not one of Avro's (Could"),
    ],
)
async def test_a_value_that_cannot_be_read_is_this_message_s_problem(
    value: bytes, problem: str
) -> None:
    registry = Registry()
    registry.add(PLAIN)
    registry.add('syntax = "proto3";', kind="PROTOBUF")
    registry.add("Nope")
    registry.add("{}", kind="JSON")
    asked = Asked(registry)
    for _ in range(2):
        error = await asked.refused(value)
        assert (error.failure, error.stage, error.reason) == (
            *(Failure.POISON, Stage.DECODE),
            "DecodeFailed",
        )
        assert problem in str(error)
    assert len(registry.asked) <= 1


async def test_a_schema_that_the_registry_does_not_know_may_come_yet() -> None:
    registry = Registry()
    asked = Asked(registry)
    error = await asked.refused(framed(1, b"\2x"))
    assert (error.failure, error.reason, error.ran) == (Failure.TRANSIENT, "SchemaUnknown", True)
    assert str(error) == (
        "schema 1: the schema registry does not know it (answered 404: No content with id/hash"
        " 'contentId-1' was found.); check that spec.kafka.schemaRegistry.url is the registry that"
        " producers use"
    )
    registry.add("string")
    assert await asked.read(framed(1, b"\2x")) == "x"
    assert asked.counts == ["Unknown", "Found"]


async def test_a_reference_that_the_registry_does_not_know() -> None:
    registry = Registry()
    number = registry.add(ORDER, references=[{"name": "a", "subject": "gone", "version": 7}])
    error = await Asked(registry).refused(framed(number, b""))
    assert error.reason == "SchemaUnknown"
    assert "schema 1: its reference gone, version 7: the schema registry" in str(error)


MISCONFIGURED = "SchemaRegistryMisconfigured"


@pytest.mark.parametrize(
    ("answer", "reason", "text"),
    [
        (httpx.Response(401), "SchemaRegistryUnauthorized", "schemaRegistry.auth"),
        (httpx.Response(403, json={"message": "no"}), "SchemaRegistryUnauthorized", "403: no"),
        (httpx.Response(429), UNREACHABLE, "answered 429"),
        (httpx.Response(500, json={"error_code": 50001, "message": "store"}), UNREACHABLE, "store"),
        (httpx.Response(503), UNREACHABLE, "answered 503"),
        # Another server's: not one message may be lost to a wrong address.
        (httpx.Response(404, html="<h1>nginx"), MISCONFIGURED, "with Confluent's interface"),
        (httpx.Response(404, json={"error_code": 0}), MISCONFIGURED, "schemaRegistry.url"),
        (httpx.Response(200, html="<h1>UI"), MISCONFIGURED, "answered 200 without a schema"),
        (httpx.Response(200, json={"schema": {}}), MISCONFIGURED, "without a schema"),
        (
            httpx.Response(302, headers={"location": "https://login"}),
            MISCONFIGURED,
            "it redirects to https://login: set spec.kafka.schemaRegistry.url to the server itself",
        ),
        (
            httpx.Response(200, json={"schema": '"int"', "references": [{"name": "x"}]}),
            MISCONFIGURED,
            "references that name no subject",
        ),
    ],
)
async def test_what_the_registry_does_wrong_is_no_message_s_problem(
    answer: httpx.Response, reason: str, text: str
) -> None:
    asked = Asked(lambda _: answer)
    error = await asked.refused(framed(1, b"\2x"))
    assert (error.failure, error.stage, error.reason) == (
        *(Failure.CONFIGURATION, Stage.DECODE),
        reason,
    )
    assert text in str(error)
    assert "spec.flow" not in str(error)


async def test_nobody_listens() -> None:
    asked = Asked(None, url=f"http://127.0.0.1:{free_port()}")
    error = await asked.refused(framed(1, b""))
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, UNREACHABLE)
    assert str(error).startswith("schema registry: http://127.0.0.1:")
    assert ": cannot connect: " in str(error)
    assert asked.counts == ["Failed"]


async def test_there_is_no_such_host() -> None:
    error = await Asked(None, url="http://registry.invalid").refused(framed(1, b""))
    assert error.reason in (MISCONFIGURED, UNREACHABLE)
    assert error.failure is Failure.CONFIGURATION
    assert "spec.flow" not in str(error)


async def test_no_answer_in_time() -> None:
    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    error = await Asked(never, timeoutSeconds=0.01).refused(framed(1, b""))
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, UNREACHABLE)
    assert str(error) == (
        "the schema registry gave no answer within spec.kafka.schemaRegistry.timeoutSeconds"
        " (0.01 s)"
    )


async def test_the_password_is_sent_read_anew_and_never_said(tmp_path: Path) -> None:
    folder = tmp_path / "registry"
    folder.mkdir()
    (folder / "user").write_text("alice")
    registry = Registry()
    registry.add("string")
    asked = Asked(registry, Files(secrets=tmp_path), auth=BASIC)
    error = await asked.refused(framed(1, b"\2x"))
    assert error.reason == "SecretMissing"
    assert "spec.kafka.schemaRegistry.auth.basic.passwordSecretRef" in str(error)
    (folder / "password").write_text("correct horse")
    assert await asked.read(framed(1, b"\2x")) == "x"
    assert registry.seen[0]["authorization"] == "Basic YWxpY2U6Y29ycmVjdCBob3JzZQ=="
    registry.answer = lambda _: httpx.Response(401, json={"message": "not correct horse"})
    error = await asked.refused(framed(2, b"\2x"))
    assert "not ***" in str(error)
    assert "correct horse" not in str(error) + error.response


@pytest.mark.parametrize("format", [name for name in Format if name is not Format.AVRO])
def test_only_avro_has_a_step_of_its_own(format: Format) -> None:
    spec = {"kafka": {"schemaRegistry": {"url": URL}}, "source": {"format": format}}
    assert make_reader(binding(spec), Files(), Metrics()) is None
    avro = binding({**spec, "source": {"format": "Avro"}})
    assert isinstance(make_reader(avro, Files(), Metrics()), AvroReader)


@pytest.mark.parametrize(
    ("spec", "reason", "text"),
    [
        (
            {"tls": {"caSecretRef": {"name": "registry", "key": "user"}}},
            MISCONFIGURED,
            "spec.kafka.schemaRegistry.tls.caSecretRef: Secret registry, key user: no usable PEM",
        ),
        (
            {"tls": {"caSecretRef": {"name": "registry", "key": "none"}}},
            "SecretMissing",
            "spec.kafka.schemaRegistry.tls.caSecretRef: Secret registry has no readable key none",
        ),
        (
            {
                "auth": {
                    "oauth2": {
                        "tokenUrl": "https://idp/token",
                        "clientIdSecretRef": {"name": "registry", "key": "user"},
                        "clientSecretSecretRef": {"name": "registry", "key": "user"},
                    }
                }
            },
            "SchemaRegistryUnauthorized",
            "spec.kafka.schemaRegistry.auth.oauth2.tokenUrl: answered 401; check"
            " spec.kafka.schemaRegistry.auth.oauth2",
        ),
    ],
)
async def test_what_is_wrong_in_the_binding_is_named(
    tmp_path: Path, spec: dict[str, Any], reason: str, text: str
) -> None:
    folder = tmp_path / "registry"
    folder.mkdir()
    (folder / "user").write_text("alice")
    files = Files(secrets=tmp_path)
    asked = Asked(lambda _: httpx.Response(401), files, url="https://registry", **spec)
    error = await asked.refused(framed(1, b""))
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, reason)
    assert text in str(error)


def test_json_with_the_number_of_its_schema() -> None:
    seen = decode(record(framed(7, b'{"a": [1, "x"]}')), Format.JSON_SCHEMA, {})
    assert (seen["value"], seen["text"]) == ({"a": [1, "x"]}, '{"a": [1, "x"]}')
    assert decode(record(None), Format.JSON_SCHEMA, {})["value"] is None


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b'{"a": 1}', "does not begin with a zero byte .* format: JsonSchema"),
        (framed(7, b"{"), "the value is not JSON"),
        (framed(7, b"\xff"), "the value is not UTF-8"),
    ],
)
def test_what_is_no_json_with_the_number_of_its_schema(value: bytes, problem: str) -> None:
    with pytest.raises(ProcessingError, match=problem) as raised:
        decode(record(value), Format.JSON_SCHEMA, {})
    assert raised.value.reason == "DecodeFailed"
