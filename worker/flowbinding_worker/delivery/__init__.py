"""Results and dead letters on their way to Kafka, over the disk if need be."""
