"""From what a user names to a binding and the way to its Kafka cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from flowbinding_api.base import SecretKeyRef
from flowbinding_api.binding import KIND, FlowBinding, parse_binding
from flowbinding_api.errors import FlowBindingError, InvalidBindingError, Problem
from flowbinding_api.kafka import Kafka
from flowbinding_api.kafka_options import SecretReader, client_options
from flowbinding_api.reasons import Reason
from flowbinding_api.resolve import with_kafka_defaults, with_overrides
from flowbinding_cli.kube import Kube, KubeError, Object

SECRETS = "FLOWBINDING_SECRETS"
"""Variable with a directory of Secrets (`<directory>/<name>/<key>`), as the worker has it."""
STDIN = "-"
NAMED = 5
"""FlowBindings of a file that an error names."""
WORKER_SUFFIX = "-worker"
WORKER_KEY = "binding.yaml"
"""Where the operator writes the resolved binding: this key of ConfigMap `<name>-worker`."""


@dataclass(frozen=True, slots=True)
class Target:
    """A binding that a command works on.

    Attributes:
        binding: With all that could be found out about its Kafka cluster.
        secret: Reads Secrets of its namespace.
        live: The object as the API server has it; None for a file.
    """

    binding: FlowBinding
    secret: SecretReader
    live: Object | None = None

    def options(self) -> dict[str, Any]:
        """Client options for aiokafka.

        Raises:
            FlowBindingError: No address is known, or a Secret cannot be read.
        """
        if self.binding.spec.kafka.bootstrap_servers is None:
            raise FlowBindingError(
                f"{self.binding.key} leaves its brokers to the operator's default, and there is no"
                f" ConfigMap {self.binding.metadata.name}{WORKER_SUFFIX} to look it up in:"
                " say --bootstrap-servers",
                reason=Reason.KAFKA_NOT_CONFIGURED,
            )
        return client_options(self.binding.spec.kafka, self.secret)


@dataclass(slots=True)
class Finder:
    """Finds bindings by name, in Kubernetes, or by the path of a manifest.

    Attributes:
        connect: Connects to Kubernetes; only called when it is needed.
        namespace: What the user said.
        bootstrap_servers: What the user said; wins over everything.
        environment: For overrides of manifests, and FLOWBINDING_SECRETS.
    """

    connect: Callable[[], Kube]
    namespace: str | None = None
    bootstrap_servers: str | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    _kube: Kube | None = None

    @property
    def kube(self) -> Kube:
        """Kubernetes, connected once.

        Raises:
            KubeError: There is no way to it.
        """
        if self._kube is None:
            self._kube = self.connect()
        return self._kube

    def find(self, reference: str) -> Target:
        """The binding that a user means.

        Args:
            reference: `<name>`, or the path of a manifest (with a slash, or ending in .yaml, .yml
                or .json; `-` is standard input).

        Raises:
            InvalidBindingError: The manifest breaks the API's rules.
            FlowBindingError: There is no such binding.
        """
        target = self._of_file(reference) if is_file(reference) else self._of_cluster(reference)
        if self.bootstrap_servers is None:
            return target
        kafka = target.binding.spec.kafka
        said = {"bootstrap_servers": checked_servers(self.bootstrap_servers)}
        binding = _with_kafka(target.binding, kafka.model_copy(update=said))
        return Target(binding, target.secret, target.live)

    @property
    def place(self) -> str:
        """The namespace that the user said, else the context's."""
        return self.namespace or self.kube.namespace

    def live(self, name: str) -> Object:
        """A binding as the API server has it.

        Raises:
            FlowBindingError: There is none.
        """
        if is_file(name):
            raise FlowBindingError(f"{name}: expected the name of a FlowBinding, not a file")
        found = self.kube.binding(self.place, name)
        if found is None:
            raise FlowBindingError(f"FlowBinding {self.place}/{name}: not found")
        return found

    def _of_cluster(self, name: str) -> Target:
        live = self.live(name)
        binding = parse_binding(live)
        kafka = binding.spec.kafka
        if None in (kafka.bootstrap_servers, kafka.tls, kafka.sasl):
            binding = with_kafka_defaults(binding, self._resolved(binding))
        return Target(binding, self._secret_reader(self.place), live)

    def _resolved(self, binding: FlowBinding) -> Kafka:
        """The cluster as the operator resolved it; empty when there is nothing to look it up in."""
        metadata = binding.metadata
        try:
            data = self.kube.config_map(metadata.namespace, metadata.name + WORKER_SUFFIX)
            if data is not None:
                return parse_binding(yaml.safe_load(data[WORKER_KEY])).spec.kafka
        except (KeyError, TypeError, yaml.YAMLError, InvalidBindingError):
            # Somebody else's, or of another version.
            pass
        except KubeError as error:
            if error.reason != Reason.KUBERNETES_FORBIDDEN:
                raise
        return Kafka()

    def _of_file(self, path: str) -> Target:
        found = [item for item in documents(path) if _kind(item) == KIND]
        if len(found) != 1:
            names = ", ".join(_name(item) for item in found[:NAMED])
            several = f" ({names}{', …' if len(found) > NAMED else ''})" if found else ""
            raise FlowBindingError(
                f"{path}: expected one FlowBinding, found {len(found) or 'none'}{several}"
            )
        document = with_overrides(found[0], self.environment)
        metadata = document.get("metadata")
        if self.namespace and isinstance(metadata, dict):
            document = {**document, "metadata": {"namespace": self.namespace, **metadata}}
        binding = parse_binding(document)
        return Target(binding, self._secret_reader(binding.metadata.namespace))

    def _secret_reader(self, namespace: str) -> SecretReader:
        directory = self.environment.get(SECRETS)
        if directory:
            return lambda ref: _from_directory(Path(directory), ref)
        return lambda ref: _from_cluster(self.kube, namespace, ref)


def checked_servers(text: str) -> str:
    """Addresses that a user gave.

    Raises:
        FlowBindingError: They are none.
    """
    try:
        Kafka(bootstrap_servers=text)
    except ValidationError:
        raise FlowBindingError(
            f"--bootstrap-servers {text}: expected host:port, separated by commas"
        ) from None
    return text


def is_file(reference: str) -> bool:
    """Whether a reference is a path rather than a binding's name."""
    return reference == STDIN or "/" in reference or reference.endswith((".yaml", ".yml", ".json"))


def documents(path: str) -> list[Any]:
    """All documents of a YAML or JSON file, without empty ones; `-` is standard input.

    Raises:
        FlowBindingError: It cannot be read.
        InvalidBindingError: It is no YAML.
    """
    text = read_text(path)
    try:
        return [item for item in yaml.safe_load_all(text) if item is not None]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # ValueError: a date such as 2026-13-01.
        raise InvalidBindingError([Problem("", f"not valid YAML: {_yaml_fault(error)}")]) from None


def _yaml_fault(error: Exception) -> str:
    """What is wrong, and where, in one line."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    what = ", ".join(text for text in (error.context, error.problem) if text)
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}"


def read_text(path: str) -> str:
    """The text of a file; `-` is standard input.

    Raises:
        FlowBindingError: It cannot be read.
    """
    try:
        raw = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise FlowBindingError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise FlowBindingError(f"{path}: not UTF-8") from None


def _name(document: Mapping[str, Any]) -> str:
    metadata = document.get("metadata")
    return str(metadata.get("name", "?")) if isinstance(metadata, Mapping) else "?"


def _kind(document: Any) -> Any:
    return document.get("kind") if isinstance(document, Mapping) else None


def _with_kafka(binding: FlowBinding, kafka: Kafka) -> FlowBinding:
    spec = binding.spec.model_copy(update={"kafka": kafka})
    return binding.model_copy(update={"spec": spec})


def _from_directory(directory: Path, ref: SecretKeyRef) -> bytes:
    path = directory / ref.name / ref.key
    try:
        return path.read_bytes()
    except OSError as error:
        raise _missing(ref, f"{path}: {error.strerror}") from None


def _from_cluster(kube: Kube, namespace: str, ref: SecretKeyRef) -> bytes:
    data = kube.secret(namespace, ref.name)
    if data is None or ref.key not in data:
        raise _missing(ref, f"not in namespace {namespace}")
    return data[ref.key]


def _missing(ref: SecretKeyRef, why: str) -> FlowBindingError:
    text = f"Secret {ref.name}, key {ref.key}: {why}"
    return FlowBindingError(text, reason=Reason.SECRET_MISSING)
