"""Print the n-th command of the README: the n-th ``sh`` block whose first line is a comment ``# n.``."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def command(number: int) -> str:
    """The block's text."""
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
        if block.startswith(f"# {number}."):
            return str(block)
    raise SystemExit(f"README.md has no command {number}")


if __name__ == "__main__":
    sys.stdout.write(command(int(sys.argv[1])))
