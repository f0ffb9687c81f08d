"""Benchmarks, run from the repository: `python -m benchmarks edit`. Nothing imports them."""
