"""Compares scaling policies in simulation and writes what came out."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from results import RESULTS, write
from scaling.compare import MAIN, compare
from scaling.report import picture, section

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="scaling", description=__doc__)
    parser.add_argument("--full", action="store_true", help="20 seeds and all of KEDA's settings")
    parser.add_argument("--seeds", type=int, help="instead of 3, or 20 with --full")
    parser.add_argument("--only", nargs="+", metavar="WORKLOAD", help="names of workloads")
    parser.add_argument("--write", action="store_true", help="RESULTS.md and the picture in docs")
    options = parser.parse_args()
    seeds = options.seeds or (20 if options.full else 3)
    command = "make bench-scaling" + (" SCALING=--full" if options.full else "")
    began = time.monotonic()
    rows = compare(options.only, seeds, full=options.full)
    text = section(rows, command, seeds)
    sys.stdout.write(text + f"\n{time.monotonic() - began:.0f} s\n")
    if options.write:
        write(RESULTS, text)
        if {row.workload for row in rows} >= set(MAIN):
            image = ROOT / "docs" / "images" / "scaling.svg"
            image.write_text(picture(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
