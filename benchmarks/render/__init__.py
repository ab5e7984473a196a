"""`make bench-render`: how many messages a second one process decodes and renders."""
