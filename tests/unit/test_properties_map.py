"""The table of the worker's properties names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PROPERTIES = TESTS / "integration" / "properties"
FOLDERS = {"": PROPERTIES, "it:": TESTS / "integration", "unit:": TESTS / "unit"}

TABLE = ast.get_docstring(ast.parse((PROPERTIES / "__init__.py").read_text())) or ""
NAMED = re.findall(r"^ {4}((?:it:|unit:)?)(test_\w+)\.(test_\w+)$", TABLE, re.MULTILINE)


@pytest.mark.parametrize(("folder", "file", "name"), NAMED, ids=lambda part: str(part))
def test_a_named_test_exists(folder: str, file: str, name: str) -> None:
    source = (FOLDERS[folder] / f"{file}.py").read_text()
    assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE)


def test_every_property_is_in_the_table() -> None:
    numbers = [int(n) for n in re.findall(r"^ ?(\d+)\. ", TABLE, re.MULTILINE)]
    assert numbers == list(range(1, 31))


def test_every_test_of_a_property_is_in_the_table() -> None:
    written = {
        (file.stem, name)
        for file in PROPERTIES.glob("test_*.py")
        for name in re.findall(r"^async def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }
    assert written == {(file, name) for folder, file, name in NAMED if not folder}
