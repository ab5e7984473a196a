"""`make bench-local`: what a run of a Local flow costs, and what its processes take."""
