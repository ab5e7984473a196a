"""Writes every generated file, or with --check says which ones are out of date.

Run by `make generate` and `make verify`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from flowbinding_api.crd import crd_yaml
from flowbinding_api.reference import reference
from flowbinding_api.troubleshooting import troubleshooting

ROOT = Path(__file__).parents[1]


def generated() -> Mapping[str, str]:
    """Every generated file by its path below the project's root."""
    return {
        "crds/flowbinding.yaml": crd_yaml(),
        "charts/flowbinding/files/crd.yaml": crd_yaml(),
        "docs/reference.md": reference(),
        "docs/troubleshooting.md": troubleshooting(),
    }


def main(arguments: list[str]) -> int:
    """Write or check the files; 1 when a check finds drift."""
    check = arguments == ["--check"]
    stale = []
    for name, content in generated().items():
        path = ROOT / name
        if path.exists() and path.read_text(encoding="utf-8") == content:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    for name in stale:
        sys.stdout.write(f"{'out of date' if check else 'written'}: {name}\n")
    if check and stale:
        sys.stdout.write("Run `make generate` and commit the result.\n")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
