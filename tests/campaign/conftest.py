"""The commands of the campaign import each other by name: test folders are no packages."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
