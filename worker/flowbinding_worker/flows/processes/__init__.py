"""Processes that run flows: forked from one that has the engine, and cheap to throw away."""
