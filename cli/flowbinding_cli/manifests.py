"""`flowbinding validate`, `config` and `flow sample`: manifests, without running anything."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from importlib.resources import files
from typing import Annotated, Any

import typer

from flowbinding_api.binding import GROUP, KIND, parse_binding
from flowbinding_api.errors import FlowBindingError, InvalidBindingError, Problem
from flowbinding_api.masking import masked
from flowbinding_cli import options
from flowbinding_cli.output import Format, emit, note
from flowbinding_cli.target import STDIN, Finder, documents

flow = typer.Typer(no_args_is_help=True, help="Flows and manifests to begin with.")


class Sample(StrEnum):
    """Which sample."""

    SIMPLE = "simple"
    ADVANCED = "advanced"


def validate(
    files_: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Manifests; - is standard input.")
    ],
) -> None:
    """Check manifests offline as the API server would. Other kinds of objects are left aside."""
    checked, problems = 0, 0
    for file in files_:
        for name, found in _checked(file):
            checked += 1
            problems += len(found)
            for problem in found:
                # stdout: the problems are the result.
                sys.stdout.write(f"{name}: {problem}\n")
    if problems:
        raise typer.Exit(1)
    if not checked:
        raise FlowBindingError(f"no FlowBinding in {', '.join(map(_shown, files_))}")
    note("1 FlowBinding is valid" if checked == 1 else f"{checked} FlowBindings are valid")


def _checked(file: str) -> Iterator[tuple[str, list[Problem]]]:
    """The FlowBindings of a file, and what is wrong with each."""
    shown = _shown(file)
    try:
        found = documents(file)
    except InvalidBindingError as error:
        yield shown, error.problems
        return
    for number, document in enumerate(found, 1):
        # A kind that is missing or misspelled within our group is a mistake, and not another kind.
        name = shown if len(found) == 1 else f"{shown}[{number}]"
        if _meant(document):
            try:
                parse_binding(document) if isinstance(document, Mapping) else _no_mapping(document)
            except InvalidBindingError as error:
                yield name, error.problems
            else:
                yield name, []


def _shown(file: str) -> str:
    return "<stdin>" if file == STDIN else file


def _meant(document: Any) -> bool:
    """Whether this is, or should be, a FlowBinding."""
    if not isinstance(document, Mapping):
        return True
    group = str(document.get("apiVersion", "")).partition("/")[0]
    return group == GROUP or document.get("kind") in (KIND, None)


def _no_mapping(document: Any) -> None:
    shape = type(document).__name__
    raise InvalidBindingError([Problem("", f"expected a manifest (a mapping), got {shape}")])


@options.given(find=options.finder)
def config(
    binding: options.Binding,
    find: Finder,
    output: options.Output = Format.YAML,
) -> None:
    """Print a binding as it runs: defaults filled in, overrides applied, secrets masked."""
    target = find.find(binding)
    emit(masked(target.binding), Format.YAML if output is Format.TABLE else output)


@flow.command()
def sample(
    which: Annotated[Sample, typer.Argument(help="How much it shows.")] = Sample.SIMPLE,
    flow_json: Annotated[
        bool,
        typer.Option(
            "--flow-json",
            help="A Langflow flow file instead: to import, or for the backend Local.",
        ),
    ] = False,
) -> None:
    """Print a manifest to begin with: `flowbinding flow sample | kubectl apply -f -`."""
    sys.stdout.write(sample_text(which, "json" if flow_json else "yaml"))


def sample_text(which: Sample, kind: str = "yaml") -> str:
    """The sample manifest, with comments (yaml), or the sample flow (json)."""
    path = files("flowbinding_cli") / "samples" / f"{which.value}.{kind}"
    return path.read_text(encoding="utf-8")
