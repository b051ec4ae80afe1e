"""bench/ is not installed: its tests import it from the checkout. This folder is no package, or it would hide it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
