"""What a FlowBinding is: models, CRD, template language, commit metadata and the error root.

Both programs and every tool import the API from here; it imports neither of them.
"""

from flowbinding_api.binding import (
    API_VERSION,
    GROUP,
    KIND,
    PLURAL,
    VERSION,
    FlowBinding,
    load_binding,
    parse_binding,
    read_document,
)
from flowbinding_api.errors import FlowBindingError, InvalidBindingError, Problem

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "PLURAL",
    "VERSION",
    "FlowBinding",
    "FlowBindingError",
    "InvalidBindingError",
    "Problem",
    "load_binding",
    "parse_binding",
    "read_document",
]
