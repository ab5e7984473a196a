"""Results, dead letters and offsets in Kafka transactions: `guarantee: ExactlyOnce`."""
