"""A fleet of bindings on the testbed: what the operator costs, and how fast it is."""
