"""The plug-ins by name, imported when first used, so that a recipe can be checked without importing torch.

A plug-in says of itself, in its source text, what the recipe layer must know: its options are the keyword-only
arguments of its constructor, and what it writes, reads and shares are class literals (`Declared`). Other packages bring
plug-ins of their own by entry points of the group `latentopt.plugins` (docs/extending.md).
"""

from __future__ import annotations

from latentopt.registry.registry import Registry as Registry
from latentopt.registry.registry import check_type as check_type
from latentopt.registry.registry import nearest as nearest
from latentopt.registry.tables import COORDINATES as COORDINATES
from latentopt.registry.tables import DETECTORS as DETECTORS
from latentopt.registry.tables import FILES as FILES
from latentopt.registry.tables import FLOWS as FLOWS
from latentopt.registry.tables import FORMATS as FORMATS
from latentopt.registry.tables import INITIALIZERS as INITIALIZERS
from latentopt.registry.tables import OPERATORS as OPERATORS
from latentopt.registry.tables import OPTIMIZERS as OPTIMIZERS
from latentopt.registry.tables import PARAMETERIZATIONS as PARAMETERIZATIONS
from latentopt.registry.tables import REFINERS as REFINERS
from latentopt.registry.tables import SCHEDULES as SCHEDULES
from latentopt.registry.tables import TERMS as TERMS
