"""What every test may rely on: `support` is importable, and property tests do not race a clock.

Nothing heavy belongs here: this file is imported for every run, also of a single test.
"""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

# A deadline per example would measure the neighbours on a shared machine, not the code.
settings.register_profile("traghetto", deadline=None)
settings.load_profile("traghetto")
