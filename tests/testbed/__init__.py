"""A real Kafka and a real Kubernetes API server on this machine, without Docker."""

from testbed.bed import Testbed
from testbed.component import Component
from testbed.errors import TestbedError
from testbed.kafka import KafkaBroker
from testbed.report import Report
from testbed.waiting import wait_until

__all__ = ["Component", "KafkaBroker", "Report", "Testbed", "TestbedError", "wait_until"]
