"""Which cluster a command may use. Any that is not made for tests is refused, never touched."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from testbed import kubeconfig
from testbed.errors import TestbedError
from testbed.paths import Layout

KIND_PREFIX = "kind-"


def kind_context(layout: Layout, environ: Mapping[str, str] = os.environ) -> str | None:
    """The context of the kind cluster to use, or None for the testbed's own control plane.

    Raises:
        TestbedError: with exit code 2, when KUBECONFIG means some other cluster.
    """
    value = environ.get("KUBECONFIG", "")
    paths = [Path(part).expanduser() for part in value.split(os.pathsep) if part]
    # A shell that sourced the testbed's env keeps it over ``down``, when the file is gone.
    if not paths or (paths == [layout.kubeconfig] and not layout.kubeconfig.exists()):
        return None
    context = kubeconfig.current_context(paths)
    if context == kubeconfig.CONTEXT:
        return None
    if context and context.startswith(KIND_PREFIX):
        return context
    meant = f"the context {context!r}" if context else "no context"
    raise TestbedError(
        f"KUBECONFIG={value} means {meant}: only a kind cluster or the testbed is ever used",
        hint="Unset KUBECONFIG to use the testbed, or switch to a context that begins with kind-.",
        exit_code=2,
    )
