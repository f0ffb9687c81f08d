"""How well edits are: suites of pictures and prompts, methods to compare with, metrics, and a
report."""
