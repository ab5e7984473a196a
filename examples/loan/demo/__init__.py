"""`make demo`: applications go in, decisions come out, workers come and go with the lag."""
