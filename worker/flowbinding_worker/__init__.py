"""The worker: consumes a Kafka topic and runs a flow for every message."""
