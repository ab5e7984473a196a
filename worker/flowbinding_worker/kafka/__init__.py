"""Kafka: the worker's seam to it, and that seam through aiokafka."""
