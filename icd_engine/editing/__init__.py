"""Prompts to numbers: tokens and words, their alignment, and the plan of an edit."""

from icd_engine.editing.plan import EditPlan, make_plan
from icd_engine.editing.words import PromptTokenizer, Tokens, Word, align

__all__ = ["EditPlan", "PromptTokenizer", "Tokens", "Word", "align", "make_plan"]
