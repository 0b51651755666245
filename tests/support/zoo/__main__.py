"""Print the table of the zoo: `python -m tests.support.zoo`, about a minute."""

from __future__ import annotations

from . import ZOO
from .table import markdown, row

print(markdown([row(name)[0] for name in ZOO]))
