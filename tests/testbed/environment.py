"""The file ``env`` of a testbed: readable for a shell, for make and for a program."""

from __future__ import annotations

import shlex
import sysconfig
from pathlib import Path


def render(bootstrap: str, kubeconfig: Path | None, bin_folder: Path | None) -> str:
    """NAME=value lines, then one line that exports them to the programs of the shell.

    The last line has an equals sign like the others, so that a reader that splits lines at it
    still reads the file. `flowbinding` comes last: nothing else of its environment wins.
    """
    values = {"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}
    values["FLOWBINDING_KAFKA"] = bootstrap
    lines = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
    own = f"{shlex.quote(str(bin_folder))}:" if bin_folder else ""
    path = f'{own}"$PATH":{shlex.quote(sysconfig.get_path("scripts"))}'
    return "\n".join([*lines, f"export {' '.join(values)} PATH={path}"]) + "\n"
