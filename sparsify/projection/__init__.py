"""The best weights of a fabric for a dense matrix that is known: projection.

`project` finds them: exactly where blocks of the matrix are independent, by alternating least
squares elsewhere. `best_variant` also chooses which features stand side by side.

Reference: NeuroFabric, arXiv 2002.08339 (reconstruction of trained layers); THEORY.md section 4.
"""

from .fit import project as project
from .problem import Projection as Projection
from .variants import best_variant as best_variant
from .variants import variants as variants

__all__ = ["Projection", "best_variant", "project", "variants"]
