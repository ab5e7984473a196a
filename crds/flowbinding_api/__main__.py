"""`python -m flowbinding_api` prints the CRD."""

import sys

from flowbinding_api.crd import crd_yaml

sys.stdout.write(crd_yaml())
