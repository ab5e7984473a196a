"""The operator: turns FlowBindings into scaled worker Deployments."""

from importlib.metadata import version

__version__ = version("flowbinding")
