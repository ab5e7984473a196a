"""`flowbinding` and `kubectl flowbinding`: the entry point. Wiring only."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from flowbinding_api.errors import FlowBindingError, InvalidBindingError
from flowbinding_cli.dead_letters import dead_letters
from flowbinding_cli.explain import explain
from flowbinding_cli.manifests import config, flow, validate
from flowbinding_cli.output import note
from flowbinding_cli.produce import produce
from flowbinding_cli.run import run
from flowbinding_cli.status import status
from flowbinding_cli.tail import tail
from flowbinding_cli.watch import watch

DEBUG = "FLOWBINDING_DEBUG"
"""Variable that, when set, shows tracebacks and the log of the Kafka client."""


class Commands(TyperGroup):
    """All commands; what goes wrong is told in a sentence, with exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except InvalidBindingError as error:
            _tell(error, *map(str, error.problems))
        except FlowBindingError as error:
            _tell(error, str(error))
        raise typer.Exit(1)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Send messages to FlowBindings, watch them work, and deal with what failed.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(produce)
app.command()(watch)
app.command()(status)
app.command()(explain)
app.command()(run)
app.command()(tail)
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(flow, name="flow")
app.command()(validate)
app.command()(config)


def main() -> None:
    """Run the command line and exit.

    Exit codes: 0 done, 1 not (with the reason on stderr), 2 wrong usage, 130 interrupted.
    """
    if DEBUG not in os.environ:
        # What the Kafka client has to say comes as an error, in a sentence.
        for name in ("aiokafka", "asyncio", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        app()
    except Exception as error:
        if DEBUG in os.environ:
            raise
        note(f"error: {type(error).__name__}: {error} ({DEBUG}=1 tells where)")
        sys.exit(1)


def complete() -> None:
    """Complete `kubectl flowbinding`: kubectl runs this with the words that are there so far."""
    os.environ.update(
        _FLOWBINDING_COMPLETE="complete_bash",
        COMP_WORDS=shlex.join(["flowbinding", *sys.argv[1:]]),
        COMP_CWORD=str(len(sys.argv) - 1),
    )
    app(prog_name="flowbinding")


def _tell(error: Exception, *lines: str) -> None:
    if DEBUG in os.environ:
        raise error
    for line in lines:
        note(f"error: {line}")
