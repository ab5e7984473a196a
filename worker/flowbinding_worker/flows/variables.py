"""Values of a flow's global variables, from the binding and its Secrets."""

from __future__ import annotations

from flowbinding_api.flow import Flow
from flowbinding_worker.files import Files


def global_variables(flow: Flow, files: Files) -> dict[str, str]:
    """`spec.flow.globalVariables` as they are now: Secrets are read anew.

    Raises:
        ProcessingError: CONFIGURATION with reason SecretMissing.
    """
    found = {}
    for name, variable in flow.global_variables.items():
        ref = variable.secret_key_ref
        if ref is None:
            found[name] = variable.value or ""
        else:
            raw = files.secret(ref, f"spec.flow.globalVariables.{name}.secretKeyRef")
            # Secrets are often saved with a newline at the end.
            found[name] = raw.decode("utf-8", "replace").rstrip("\r\n")
    return found
