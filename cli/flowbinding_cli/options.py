"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from flowbinding_cli.kube import Kube, KubeClient
from flowbinding_cli.output import Format
from flowbinding_cli.target import Finder

Binding = Annotated[
    str,
    typer.Argument(
        metavar="BINDING", help="Name of a FlowBinding, or the path of a manifest (./x.yaml, -)."
    ),
]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace; the context's when absent.")
]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig.")]
Kubeconfig = Annotated[
    str | None, typer.Option(help="Path of the kubeconfig; $KUBECONFIG when absent.")
]
Bootstrap = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT,…",
        help="Kafka brokers, e.g. a forwarded port; the binding's own when absent.",
    ),
]
Output = Annotated[Format, typer.Option("--output", "-o", help="How results are written.")]


def connect(context: str | None, kubeconfig: str | None) -> Kube:
    """Connect to Kubernetes."""
    return KubeClient(context, kubeconfig)


def finder(
    namespace: str | None,
    context: str | None,
    kubeconfig: str | None,
    bootstrap_servers: str | None = None,
) -> Finder:
    """What finds bindings, as the user's options say."""
    return Finder(lambda: connect(context, kubeconfig), namespace, bootstrap_servers)
