"""``python -m mcomp``."""

from __future__ import annotations

import sys

from mcomp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
