"""`python -m flowbinding_cli` is the same as `flowbinding`."""

from flowbinding_cli.main import main

main()
