"""Messages in Avro, made readable: the step before a message is decoded.

Decoding is pure and waits for nobody. A schema has to be asked for, and the registry may be away:
that is no message's fault. So here a record's value becomes JSON, with its schema asked for once,
and whatever the registry does wrong counts as a flow server's misconfiguration does: nothing is
counted against messages, the circuit opens and probes.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import structlog

from flowbinding_api.reasons import Reason
from flowbinding_api.registry import SchemaRegistry
from flowbinding_worker import jsons
from flowbinding_worker.files import Files
from flowbinding_worker.flows.classify import Answer, one_line, redirect_hint
from flowbinding_worker.flows.http_client import FlowClient, Server
from flowbinding_worker.flows.transport import Transport
from flowbinding_worker.payload.avro import Schema
from flowbinding_worker.payload.framing import unframed
from flowbinding_worker.ports import Failure, ProcessingError, Record, Stage

log = structlog.get_logger(__name__)

FIELD = "spec.kafka.schemaRegistry"
SCHEMA_UNKNOWN = "SchemaUnknown"
KEPT = 1000
"""Schemas that are kept; they never change. Those that were not used for longest go first."""
MAX_REFERENCES = 200
UNKNOWN = frozenset({40401, 40402, 40403})
"""Codes in a 404: no such subject, version, schema. Any other 404 is that of another server."""
ACCEPT = "application/vnd.schemaregistry.v1+json, application/json"


class Readable(Protocol):
    """Reads values of one schema; `Schema` implements it."""

    def value(self, body: bytes) -> Any:
        """The value as the data that JSON has.

        Raises:
            ValueError: When it cannot be read.
        """


class Unusable:
    """A schema that nothing can be read with; that does not change either.

    Args:
        problem: Why.
    """

    def __init__(self, problem: str) -> None:
        self._problem = problem

    def value(self, body: bytes) -> Any:
        """Raise why."""
        del body
        raise ValueError(self._problem)


class AvroReader:
    """Makes JSON of values in Avro.

    Args:
        registry: Has the schemas.
        files: Where its Secrets are mounted; read for each request, so that new ones work at once.
        count: Told how each request has ended: Found, Unknown or Failed.
        transport: Instead of a real one, in tests.
    """

    def __init__(
        self,
        registry: SchemaRegistry,
        files: Files,
        count: Callable[[str], None],
        transport: Transport | None = None,
    ) -> None:
        server = Server(FIELD, registry.url, registry.timeout_seconds, registry.auth, registry.tls)
        self._client = FlowClient(server, files, transport=transport)
        self._seconds = registry.timeout_seconds
        self._count = count
        self._known: OrderedDict[int, Readable] = OrderedDict()
        self._asking: dict[int, asyncio.Task[Readable]] = {}

    async def read(self, record: Record) -> Record:
        """The record with its value as JSON; one without a value as it is.

        Raises:
            ProcessingError: POISON with reason DecodeFailed, when the value cannot be read;
                TRANSIENT with reason SchemaUnknown, when the registry does not know its schema;
                CONFIGURATION, when the registry cannot be asked.
        """
        if record.value is None:
            return record
        try:
            framed = unframed(record.value)
        except ValueError as error:
            raise _undecodable(f"{error}; format: Avro") from None
        schema = self._known.get(framed.schema)
        if schema is None:
            schema = await self._asked(framed.schema)
        else:
            self._known.move_to_end(framed.schema)
        try:
            text = jsons.dump(schema.value(framed.body))
        except ValueError as error:
            raise _undecodable(
                f"the value cannot be read with schema {framed.schema}: {error}"
            ) from None
        return replace(record, value=text)

    async def close(self) -> None:
        """Stop asking, and close all connections."""
        for task in list(self._asking.values()):
            task.cancel()
        await self._client.close()

    async def _asked(self, number: int) -> Readable:
        """All who need a schema at once cause one request."""
        task = self._asking.get(number)
        if task is None:
            task = self._asking[number] = asyncio.create_task(self._ask(number))
            task.add_done_callback(partial(self._answered, number))
        return await asyncio.shield(task)

    def _answered(self, number: int, task: asyncio.Task[Readable]) -> None:
        del self._asking[number]
        # All who wait may be gone when it fails.
        if not task.cancelled() and task.exception() is None:
            self._known[number] = task.result()
            if len(self._known) > KEPT:
                self._known.popitem(last=False)

    async def _ask(self, number: int) -> Readable:
        document = await self._get(f"/schemas/ids/{number}", f"schema {number}")
        kind = document.get("schemaType") or "AVRO"
        if kind != "AVRO":
            hint = "; source.format JsonSchema reads it" if kind == "JSON" else ""
            return Unusable(f"it is of type {one_line(str(kind))[:40]}, not Avro{hint}")
        references: dict[tuple[str, str], str] = {}
        try:
            await self._collect(document, references, number)
            schema = Schema(document["schema"], list(references.values()))
        except ValueError as error:
            return Unusable(f"it is no usable schema: {error}")
        log.info("schema read", schema=number, references=len(references))
        return schema

    async def _collect(
        self, document: Mapping[str, Any], into: dict[tuple[str, str], str], number: int
    ) -> None:
        """Schemas that a schema refers to, each after those that it refers to itself.

        Raises:
            ValueError: There are too many of them.
        """
        for subject, version in _references(document):
            if (subject, version) in into:
                continue
            if len(into) >= MAX_REFERENCES:
                raise ValueError(f"more than {MAX_REFERENCES} references")
            # Its place now, against circles; its turn after what it refers to.
            into[subject, version] = ""
            named = urllib.parse.quote(subject, safe="")
            path = f"/subjects/{named}/versions/{version}?deleted=true"
            what = f"schema {number}: its reference {subject}, version {version}"
            found = await self._get(path, what)
            await self._collect(found, into, number)
            del into[subject, version]
            into[subject, version] = found["schema"]

    async def _get(self, path: str, what: str) -> Mapping[str, Any]:
        try:
            document = await self._sent(path, what)
        except ProcessingError as error:
            unknown = error.reason == SCHEMA_UNKNOWN
            self._count("Unknown" if unknown else "Failed")
            raise
        self._count("Found")
        return document

    async def _sent(self, path: str, what: str) -> Mapping[str, Any]:
        try:
            base = self._client.base
            below = base.raw_path.partition(b"?")[0].rstrip(b"/")
            url = base.copy_with(raw_path=below + path.encode())
            answer = await self._client.call("GET", url, {"Accept": ACCEPT})
        except ProcessingError as error:
            raise self._away(error) from None
        document = jsons.fields(answer.body)
        if answer.status == 200 and isinstance(document.get("schema"), str):
            return document
        raise _refused(answer, document, what)

    def _away(self, error: ProcessingError) -> ProcessingError:
        """What it means that no answer came, or that nothing could be sent."""
        if error.reason == Reason.SECRET_MISSING:
            return _stop(str(error), Reason.SECRET_MISSING)
        if error.reason == Reason.FLOW_TIMEOUT:
            text = f"the schema registry gave no answer within {FIELD}.timeoutSeconds"
            return _stop(f"{text} ({self._seconds:g} s)", Reason.SCHEMA_REGISTRY_UNREACHABLE)
        text = f"schema registry: {error}".removesuffix("; outcome unknown")
        if error.reason == Reason.FLOW_UNAUTHORIZED:
            return _stop(text, Reason.SCHEMA_REGISTRY_UNAUTHORIZED)
        if error.failure in (Failure.CONFIGURATION, Failure.POISON):
            return _stop(text, Reason.SCHEMA_REGISTRY_MISCONFIGURED)
        return _stop(text, Reason.SCHEMA_REGISTRY_UNREACHABLE)


def _references(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Subject and version of each schema that a schema refers to."""
    found = document.get("references") or []
    try:
        return [(str(item["subject"]), str(int(item["version"]))) for item in found]
    except (KeyError, TypeError, ValueError):
        raise _stop(
            f"{FIELD}.url: answered with references that name no subject and version",
            Reason.SCHEMA_REGISTRY_MISCONFIGURED,
        ) from None


def _refused(answer: Answer, document: Mapping[str, Any], what: str) -> ProcessingError:
    said = one_line(str(document.get("message") or ""))[:300]
    text = f"answered {answer.status}" + (f": {said}" if said else "")
    if answer.status == 404 and document.get("error_code") in UNKNOWN:
        return ProcessingError(
            f"{what}: the schema registry does not know it ({text}); check that"
            f" {FIELD}.url is the registry that producers use",
            # Registries of several instances hear of new schemas one after the other.
            failure=Failure.TRANSIENT,
            stage=Stage.DECODE,
            reason=SCHEMA_UNKNOWN,
            status=answer.status,
            ran=True,
        )
    # Without the schema's number: as a condition it would change with each message that probes.
    text = f"the schema registry {text}"
    if answer.status in (401, 403):
        return _stop(f"{text}; check {FIELD}.auth", Reason.SCHEMA_REGISTRY_UNAUTHORIZED, answer)
    if answer.status >= 500 or answer.status in (408, 425, 429):
        return _stop(text, Reason.SCHEMA_REGISTRY_UNREACHABLE, answer)
    hint = f"check {FIELD}.url: it must be that of a registry with Confluent's interface"
    if 300 <= answer.status < 400:
        hint = redirect_hint(answer, f"{FIELD}.url")
    elif answer.status == 200:
        text = f"{text} without a schema"
    return _stop(f"{text}; {hint}", Reason.SCHEMA_REGISTRY_MISCONFIGURED, answer)


def _stop(text: str, reason: Reason, answer: Answer | None = None) -> ProcessingError:
    """What keeps all messages from being read until the registry is repaired, or back."""
    return ProcessingError(
        text,
        failure=Failure.CONFIGURATION,
        stage=Stage.DECODE,
        reason=reason,
        status=None if answer is None else answer.status,
        response="" if answer is None else answer.body,
    )


def _undecodable(text: str) -> ProcessingError:
    return ProcessingError(text, failure=Failure.POISON, stage=Stage.DECODE, reason="DecodeFailed")
