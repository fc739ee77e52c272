"""A digest of a data set's content. No torch here."""

from __future__ import annotations

from pathlib import Path

DIGITS_TABLE = Path(__file__).parent / "tables" / "digits.csv.gz"
