"""The examples' `langflow.yaml`, and the flows that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from flowbinding_cli.manifests import Sample, sample_text
from integration.langflow.server import LangflowServer
from manifests import merge
from testbed.paths import PROJECT

EXAMPLES = PROJECT / "examples"


def manifests() -> dict[str, dict[str, Any]]:
    """By the name of the example."""
    paths = sorted(EXAMPLES.glob("*/langflow.yaml"))
    return {path.parent.name: yaml.safe_load(path.read_text()) for path in paths}


def flow_files(folder: Path) -> dict[str, Path]:
    """The command's sample flow, under the name that each example has for its flow."""
    files = {}
    for document in manifests().values():
        name = document["spec"]["flow"]["id"]
        flow = json.loads(sample_text(Sample.ADVANCED, "json"))
        files[name] = folder / f"{name}.json"
        files[name].write_text(json.dumps({**flow, "name": name, "endpoint_name": name}))
    return files


def pointed_at(
    document: dict[str, Any], server: LangflowServer, bootstrap: str, **spec: Any
) -> dict[str, Any]:
    """A manifest with other addresses, and `spec` merged into it."""
    here = {
        # A server of the tests has no certificate.
        "flow": {"url": server.url, "tls": None},
        "kafka": {"bootstrapServers": bootstrap},
    }
    return merge(document, {"spec": merge(here, spec)})
