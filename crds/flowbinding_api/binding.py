"""The FlowBinding document: parsing, with every problem named by its field."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_origin

import yaml
from pydantic import ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from flowbinding_api.base import DNS_LABEL, DNS_SUBDOMAIN, ApiModel, Rule
from flowbinding_api.errors import InvalidBindingError, Problem
from flowbinding_api.schedule import MAX_SCHEDULED_NAME
from flowbinding_api.spec import REPLAY_GROUPS, REPLAY_SUFFIX, FlowBindingSpec

GROUP = "flowbinding.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "FlowBinding"
PLURAL = "flowbindings"
SHORT_NAME = "fb"

DEAD_LETTER_SUFFIX = ".dlq"
MAX_TOPIC = 249
"""Longest name of a Kafka topic."""

MAX_PATTERN_MESSAGE = 160
"""Of longer messages about a pattern, such as cron's, nobody can see what is wrong."""

MAX_NAME = 56
"""Longest name of a binding: `<name>-worker` still has to fit a label value (63 characters)."""


class Metadata(ApiModel):
    """The part of ObjectMeta that FlowBinding reads."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    name: Annotated[
        str, StringConstraints(min_length=1, max_length=MAX_NAME, pattern=DNS_SUBDOMAIN)
    ]
    namespace: Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=DNS_LABEL)] = (
        "default"
    )
    uid: str | None = None
    generation: int | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class FlowBinding(ApiModel):
    """A whole FlowBinding manifest. `status` is the operator's and is ignored when reading."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )

    api_version: Literal["flowbinding.io/v1alpha1"]
    kind: Literal["FlowBinding"]
    metadata: Metadata
    spec: FlowBindingSpec
    status: dict[str, Any] | None = Field(default=None, exclude=True)

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"size(self.metadata.name) <= {MAX_NAME}",
            f"must have at most {MAX_NAME} characters",
            "metadata.name",
        ),
        Rule(
            "!self.spec.deadLetter.enabled || has(self.spec.deadLetter.topic) ||"
            " has(self.spec.source.schedule) ||"
            " (has(self.spec.source.topic) ? [self.spec.source.topic] : self.spec.source.topics)"
            f".all(t, size(t) + size(self.metadata.name) + {len(DEAD_LETTER_SUFFIX) + 1}"
            f" <= {MAX_TOPIC})",
            f"required: the default name would exceed {MAX_TOPIC} characters",
            "spec.deadLetter.topic",
            lambda binding: _dead_letter_name_fits(binding),
        ),
        Rule(
            f"!has(self.spec.source.schedule) || size(self.metadata.name) <= {MAX_SCHEDULED_NAME}",
            f"must have at most {MAX_SCHEDULED_NAME} characters with source.schedule: a CronJob's"
            " name is shorter than others",
            "metadata.name",
            lambda binding: (
                binding["spec"]["source"].get("schedule") is None
                or len(binding["metadata"]["name"]) <= MAX_SCHEDULED_NAME
            ),
        ),
        Rule(
            "has(self.spec.source.consumerGroup) ||"
            f" !self.metadata.name.endsWith('{REPLAY_SUFFIX}')",
            f"must not end with {REPLAY_SUFFIX} without spec.source.consumerGroup: {REPLAY_GROUPS}",
            "metadata.name",
            lambda binding: (
                binding["spec"]["source"].get("consumerGroup") is not None
                or not binding["metadata"]["name"].endswith(REPLAY_SUFFIX)
            ),
        ),
    )

    @property
    def key(self) -> str:
        """`<namespace>/<name>`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def consumer_group(self) -> str:
        """The Kafka consumer group: the user's, else `<namespace>.<name>`."""
        group = self.spec.source.consumer_group
        return group or f"{self.metadata.namespace}.{self.metadata.name}"

    def dead_letter_topic(self, source_topic: str) -> str | None:
        """Topic for dead letters of `source_topic`; None when they go nowhere.

        A schedule has no source topic to name one after, so that it has none by default: its Job
        shows what failed.
        """
        if not self.spec.dead_letter.enabled:
            return None
        if self.spec.source.schedule is not None:
            return self.spec.dead_letter.topic
        default = f"{source_topic}.{self.metadata.name}{DEAD_LETTER_SUFFIX}"
        return self.spec.dead_letter.topic or default

    @property
    def written_topics(self) -> tuple[str, ...]:
        """Every topic that results or dead letters go to, without repeats."""
        spec = self.spec
        output = spec.output.topics if spec.output is not None else ()
        sources = spec.source.all_topics or ("",)
        dead = [topic for name in sources if (topic := self.dead_letter_topic(name))]
        return tuple(dict.fromkeys([*output, *dead]))

    @property
    def needs_kafka(self) -> bool:
        """Whether anything is read from Kafka or written to it; a schedule may do without."""
        return bool(self.spec.source.all_topics or self.written_topics)

    def document(self) -> dict[str, Any]:
        """The manifest as plain data in the API's spelling, defaults filled in, nulls left out."""
        document = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        # In tweaks, in HTTP's body and in a schedule's value, null is a value.
        flow = self.spec.flow
        document["spec"]["flow"]["tweaks"] = copy.deepcopy(flow.tweaks)
        if flow.http is not None and flow.http.body is not None:
            document["spec"]["flow"]["http"]["body"] = copy.deepcopy(flow.http.body)
        schedule = self.spec.source.schedule
        if schedule is not None and schedule.value is not None:
            document["spec"]["source"]["schedule"]["value"] = copy.deepcopy(schedule.value)
        return document


def _dead_letter_name_fits(binding: Mapping[str, Any]) -> bool:
    dead_letter, source = binding["spec"].get("deadLetter") or {}, binding["spec"]["source"]
    named = dead_letter.get("enabled") is False or dead_letter.get("topic")
    if named or source.get("schedule") is not None:
        return True
    longest = max(map(len, [source.get("topic") or "", *(source.get("topics") or [])]))
    return longest + 1 + len(binding["metadata"]["name"]) + len(DEAD_LETTER_SUFFIX) <= MAX_TOPIC


def parse_binding(document: Mapping[str, Any]) -> FlowBinding:
    """Check a manifest against the API, templates included.

    Args:
        document: A manifest as `yaml.safe_load` or the API server gives it. Nulls count as absent,
            as they do for the API server.

    Raises:
        InvalidBindingError: Listing every problem with the path of its field.
    """
    given = _without_nulls(document)
    binding, problems = None, []
    try:
        binding = FlowBinding.model_validate(given)
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors()]
    known = {problem.path for problem in problems}
    problems += [p for p in _broken_rules(FlowBinding, given, "") if p.path not in known]
    if binding is None or problems:
        raise InvalidBindingError(problems)
    return binding


def load_binding(text: str) -> FlowBinding:
    """Parse one YAML (or JSON) manifest; see `read_document` and `parse_binding`."""
    return parse_binding(read_document(text))


def read_document(text: str) -> Mapping[str, Any]:
    """One YAML (or JSON) manifest, not checked yet.

    Raises:
        InvalidBindingError: When the text is no YAML or no mapping.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidBindingError([Problem("", f"not valid YAML: {error}")]) from None
    if not isinstance(document, Mapping):
        shape = type(document).__name__
        raise InvalidBindingError(
            [Problem("", f"expected one FlowBinding manifest (a mapping), got {shape}")]
        )
    return document


def _without_nulls(value: Any, name: str = "") -> Any:
    if isinstance(value, Mapping) and name not in ("tweaks", "value", "body"):
        return {k: _without_nulls(item, k) for k, item in value.items() if item is not None}
    return value


def _broken_rules(model: type[ApiModel], given: Any, path: str) -> Iterator[Problem]:
    """Rules of `model` and of the models in it that `given` breaks, valid otherwise or not."""
    if not isinstance(given, Mapping):
        return
    prefix = f"{path}." if path else ""
    view = {}
    for alias, default, inner, keyed in _fields(model):
        value = given.get(alias)
        view[alias] = given.get(alias, default)
        if inner is not None and isinstance(value, list):
            for index, item in enumerate(value):
                yield from _broken_rules(inner, item, f"{prefix}{alias}[{index}]")
        elif inner is not None and keyed:
            for key, item in value.items() if isinstance(value, Mapping) else ():
                yield from _broken_rules(inner, item, f"{prefix}{alias}.{key}")
        elif inner is not None:
            yield from _broken_rules(inner, value, f"{prefix}{alias}")
    for rule in model.rules:
        # What has the wrong type is a problem of its own.
        with contextlib.suppress(TypeError, KeyError, AttributeError, ValueError):
            if not rule.holds(view):
                yield Problem(f"{prefix}{rule.field}" if rule.field else path, rule.message)


class _Field(NamedTuple):
    """What rules need to know of a field: its default as plain data, and the model within it."""

    alias: str
    default: Any
    inner: type[ApiModel] | None
    keyed: bool


@functools.cache
def _fields(model: type[ApiModel]) -> tuple[_Field, ...]:
    # Once for each model: finding it out took more time than all else of parsing.
    return tuple(
        _Field(
            info.alias or name,
            _plain_default(info),
            model_in(info.annotation),
            get_origin(info.annotation) is dict,
        )
        for name, info in model.model_fields.items()
    )


def _plain_default(info: FieldInfo) -> Any:
    if info.is_required():
        return None
    default = info.get_default(call_default_factory=True)
    return default.model_dump(by_alias=True) if isinstance(default, ApiModel) else default


def model_in(annotation: Any) -> type[ApiModel] | None:
    """The model within an annotation such as `Output | None`."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if inspect.isclass(candidate) and issubclass(candidate, ApiModel):
            return candidate
    return None


def _problem(item: Any) -> Problem:
    """One pydantic error as a field path and a sentence.

    A validator cannot point into free-form data, so its message starts with `path: ` when it means
    a place there; it moves into the path here. Values are described, not shown: they may be secret.
    """
    path = _path(item["loc"])
    message = item["msg"]
    if item["type"] == "value_error":
        message = message.removeprefix("Value error, ")
        field, separator, rest = message.partition(": ")
        if separator and " " not in field:
            path, message = f"{path}.{field}" if path else field, rest
    elif item["type"] == "extra_forbidden":
        message = "unknown field"
    elif item["type"] == "missing":
        message = "required"
    elif item["type"] in ("enum", "literal_error"):
        message = f"{message}, got {_clip(repr(item['input']))}"
    elif item["type"] == "string_pattern_mismatch" and len(message) > MAX_PATTERN_MESSAGE:
        shape = _shape(item.get("input"))
        message = f"not of the form that the field's description shows, got {shape}"
    else:
        message = f"{message}, got {_shape(item.get('input'))}"
    return Problem(path, message)


def _shape(value: Any) -> str:
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    return f"a value of type {type(value).__name__}"


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _clip(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
