"""The file ``env`` of a testbed: readable for a shell, for make and for a program."""

from __future__ import annotations

import shlex
from pathlib import Path


def render(bootstrap: str, kubeconfig: Path | None, bin_folder: Path | None) -> str:
    """NAME=value lines, then one line that exports them to the programs of the shell.

    The last line has an equals sign like the others, so that a reader that splits lines at it
    still reads the file.
    """
    values = {"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}
    values["FLOWBINDING_KAFKA"] = bootstrap
    lines = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
    path = f'{shlex.quote(str(bin_folder))}:"$PATH"' if bin_folder else '"$PATH"'
    return "\n".join([*lines, f"export {' '.join(values)} PATH={path}"]) + "\n"
