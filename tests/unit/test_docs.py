"""The documentation: manifests, commands, make targets, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from flowbinding_api import parse_binding
from flowbinding_api.binding import KIND
from flowbinding_api.spec import FlowBindingSpec
from flowbinding_cli.main import app
from manifests import manifest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "examples/*/README.md", "charts/*/README.md")
    for path in ROOT.glob(pattern)
)
SCRIPTS = sorted(ROOT.glob("examples/*/run.sh"))
EXAMPLES = sorted(ROOT.glob("examples/*/*.yaml"))
FIELDS = {field.alias or name for name, field in FlowBindingSpec.model_fields.items()}
COMPLETION = {"--install-completion", "--show-completion"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands(program: str) -> Iterator[tuple[str, str]]:
    """Command lines that begin with a program, from blocks, from sentences and from scripts."""
    for page in [*PAGES, *SCRIPTS]:
        text = page.read_text()
        for block in [text] if page.suffix == ".sh" else blocks(page, "sh"):
            for line in block.replace("\\\n", "").splitlines():
                if line.startswith(program):
                    yield named(page), line
        if page.suffix == ".md":
            for line in re.findall(rf"`({program}[^`]+)`", text.replace("\n", " ")):
                yield named(page), line


@pytest.mark.parametrize(
    ("page", "line"), [*commands("flowbinding "), *commands("kubectl flowbinding ")]
)
def test_commands_and_their_options_exist(page: str, line: str) -> None:
    command: Any = typer.main.get_command(app)
    said = shlex.split(line.removeprefix("kubectl "), comments=True)[1:]
    words = said[: said.index("|")] if "|" in said else said
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    if hasattr(command, "commands"):
        assert words
        assert set(words) <= {*COMPLETION, "-h", "--help", "bash", "zsh", "fish"}
        return
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= {*known, "--help"}


@pytest.mark.parametrize(("page", "line"), sorted(set(commands("make "))))
def test_make_targets_exist(page: str, line: str) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    words = shlex.split(line, comments=True)[1:]
    assert {word for word in words if "=" not in word} <= targets


def snippets() -> Iterator[tuple[str, dict[str, Any]]]:
    """Manifests of the documentation; parts of one are completed."""
    for page in PAGES:
        # The chart's are values of Helm.
        for block in blocks(page, "yaml") if "charts" not in page.parts else ():
            for found in yaml.safe_load_all(block):
                for document in completed(found):
                    yield named(page), document


def completed(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A manifest, or parts of a spec, or of a flow, as whole manifests."""
    if "apiVersion" in found:
        return [found] if found.get("kind") == KIND else []
    if set(found) <= FIELDS:
        return [manifest(found.get("metadata"), **found)]
    flow = {"backend": "HTTP", "url": "https://flows.example", "id": "flow"}
    # The guide lists all ways to say who asks, of which a flow has one.
    ways = [{"auth": {name: way}} for name, way in found.get("auth", {}).items()]
    return [manifest(flow={**flow, **found, **way}) for way in ways or [{}]]


@pytest.mark.parametrize(("page", "document"), [*snippets()])
def test_manifests_are_valid(page: str, document: dict[str, Any]) -> None:
    parse_binding(document)


@pytest.mark.parametrize("path", EXAMPLES, ids=named)
def test_examples_are_valid(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    if document["kind"] == KIND:
        binding = parse_binding(document)
        assert binding.metadata.namespace == path.parent.name
    elif document["kind"] == "Kustomization":
        assert all((path.parent / resource).exists() for resource in document["resources"])
    else:
        assert (document["kind"], document["metadata"]["name"]) == ("Namespace", path.parent.name)


def anchors(page: Path) -> set[str]:
    """Names that GitHub gives to the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target
