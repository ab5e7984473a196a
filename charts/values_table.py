#!/usr/bin/env python3
"""Writes the table of values in the chart's README from values.yaml and values.schema.json.

`--check` writes nothing and exits with 1 when the table is out of date.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parent / "flowbinding"
BEGIN = "<!-- values: written by charts/values_table.py -->\n"
END = "<!-- end of values -->\n"


def rows(values: dict[str, Any], properties: dict[str, Any], path: str = "") -> Iterator[str]:
    """One table row a value, in the order of values.yaml.

    Raises:
        KeyError: For a value that the schema does not have.
    """
    for name, value in values.items():
        schema = properties[name]
        if "properties" in schema:
            yield from rows(value, schema["properties"], f"{path}{name}.")
            continue
        description = schema["description"].replace("|", "\\|")
        yield f"| `{path}{name}` | `{json.dumps(value, ensure_ascii=False)}` | {description} |\n"


def table() -> str:
    """The whole table."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    head = "| Value | Default | Meaning |\n|---|---|---|\n"
    return head + "".join(rows(values, schema["properties"]))


def main() -> int:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 on drift")
    check = parser.parse_args().check
    readme = CHART / "README.md"
    old = readme.read_text(encoding="utf-8")
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    new = f"{before}{BEGIN}{table()}{END}{after}"
    if check and new != old:
        sys.stderr.write(f"{readme} is out of date: run {Path(__file__).name}\n")
        return 1
    if new != old:
        readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
