"""The commands `flowbinding` and `kubectl flowbinding`."""
