"""Prompts to numbers: tokens and words, their alignment, and the plan of an edit."""
