"""``python -m sessionwatch``: the same as the ``sessionwatch`` command."""

from __future__ import annotations

import sys

from .command.cli import main

if __name__ == "__main__":
    sys.exit(main())
