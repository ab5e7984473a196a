"""Guards of the source layout."""

from __future__ import annotations

import operator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_folder_operator_does_not_shadow_the_standard_library() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert operator.itemgetter(0)(["x"]) == "x"


def test_no_test_folder_is_called_operator() -> None:
    assert not [path for path in (ROOT / "tests").rglob("operator") if path.is_dir()]


def test_every_package_is_typed() -> None:
    for package in (
        "cli/flowbinding_cli",
        "crds/flowbinding_api",
        "operator/flowbinding_operator",
        "worker/flowbinding_worker",
    ):
        assert (ROOT / package / "py.typed").exists()
