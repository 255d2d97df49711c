"""The long run: ``python -m tests.host.fuzz``."""

from __future__ import annotations

import argparse
import gc
import sys

from . import running


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.host.fuzz", description=__doc__)
    parser.add_argument("steps", nargs="?", type=int, default=100_000)
    parser.add_argument("--shrink", action="store_true", help="look for the shortest program that disagrees; minutes")
    parser.add_argument("--sync", action="store_true", help="in threads only")
    parser.add_argument("--async", action="store_true", dest="on_loop", help="on an event loop only")
    options = parser.parse_args()
    kinds = [kind for kind, asked in (("sync", options.sync), ("async", options.on_loop)) if asked] or ["sync", "async"]
    gc.collect()
    gc.freeze()  # what is imported is none of the garbage that a step makes
    for kind in kinds:
        taken = running.run(kind, options.steps // len(kinds), derandomize=False, shrink=options.shrink)
        print(f"{kind}: {taken} steps, no disagreement")
    return 0


if __name__ == "__main__":
    sys.exit(main())
