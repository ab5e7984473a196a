"""Whether, when and how many runs may begin. Pure."""
