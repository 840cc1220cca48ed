import sys
from pathlib import Path

# The tests' own helpers are imported by their full names.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
