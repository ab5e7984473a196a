"""A simulator of scaling policies: the operator's own code against models of its peers."""
