"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_type_hints

import typer

from flowbinding_cli.kube import Kube, KubeClient
from flowbinding_cli.output import Format
from flowbinding_cli.target import Finder

Command = Callable[..., None]

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


Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a FlowBinding.")]


def given(**makers: Callable[..., Any]) -> Callable[[Command], Command]:
    """Have parameters of a command made from options: those of the function that makes each.

    Args:
        makers: By the parameter's name. Their own parameters are options with a default.
    """

    def decorate(command: Command) -> Command:
        made = {name: _parameters(maker) for name, maker in makers.items()}
        options: dict[str, Parameter] = {}
        for name, parameter in _parameters(command).items():
            options.update(made.get(name, {name: parameter}))

        @wraps(command)
        def run(**said: Any) -> None:
            for name, maker in makers.items():
                said[name] = maker(**{option: said.pop(option) for option in made[name]})
            command(**said)

        # What typer reads.
        run.__dict__["__signature__"] = Signature(list(options.values()))
        run.__annotations__ = {name: kind.annotation for name, kind in options.items()}
        return run

    return decorate


def _parameters(function: Callable[..., Any]) -> dict[str, Parameter]:
    kinds = get_type_hints(function, include_extras=True)
    return {
        name: parameter.replace(annotation=kinds[name], kind=Parameter.KEYWORD_ONLY)
        for name, parameter in signature(function).parameters.items()
    }


def connect(context: str | None, kubeconfig: str | None) -> Kube:
    """Connect to Kubernetes."""
    return KubeClient(context, kubeconfig)


def finder(
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    bootstrap_servers: Bootstrap = None,
) -> Finder:
    """What finds bindings and their brokers, as the user's options say."""
    return Finder(lambda: connect(context, kubeconfig), namespace, bootstrap_servers)


def kube_finder(
    namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> Finder:
    """What finds bindings in Kubernetes, for commands that do not ask Kafka."""
    return finder(namespace, context, kubeconfig)
