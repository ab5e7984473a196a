"""What runs a flow: one module for each backend."""

from __future__ import annotations

from flowbinding_api import FlowBinding
from flowbinding_api.flow import Backend
from flowbinding_worker.files import Files
from flowbinding_worker.flows.echo import EchoFlow
from flowbinding_worker.ports import Flow, Note

__all__ = ["make_flow"]


def make_flow(binding: FlowBinding, files: Files, note: Note = lambda *_: None) -> Flow:
    """The flow of a binding; nothing is read, connected or imported before its `start`.

    Args:
        binding: A binding that has something to run (`spec.flow.runs`).
        files: Where mounted Secrets and ConfigMaps are.
        note: Told a reason and a sentence about what works, but not as it should.
    """
    flow = binding.spec.flow
    # Each backend's libraries are imported only where that backend runs.
    if flow.backend is Backend.LANGFLOW:
        from flowbinding_worker.flows.langflow import LangflowFlow

        return LangflowFlow(flow, files)
    if flow.backend is Backend.LOCAL:
        from flowbinding_worker.flows.local import LocalFlow

        slots = binding.spec.concurrency.per_replica
        return LocalFlow(flow, files, slots=slots, note=note)
    if flow.backend is Backend.HTTP:
        from flowbinding_worker.flows.http import HttpFlow

        return HttpFlow(flow, files)
    return EchoFlow()
