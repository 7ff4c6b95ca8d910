"""One script per figure of docs/BENCHMARKS.md; each runs alone: `python benchmarks/NAME.py`."""
