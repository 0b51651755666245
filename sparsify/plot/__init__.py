"""Pictures of fabrics and plans, with matplotlib (the extra [plot]).

No picture touches pyplot, a window or the user's settings: each call gives a new `Figure` back.
"""

from __future__ import annotations

from .budgets import plan
from .fabrics import fabric

__all__ = ["fabric", "plan"]
