"""`python -m worker`, with `tests` and `benchmarks` on the path."""

from worker.cli import app

app()
