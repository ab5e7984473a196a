"""`make bench-worker`: how close a worker comes to what its slots allow, and what it costs."""
