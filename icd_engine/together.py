"""Edits in shared passes where one of them may fail: what fails is halved, down to the requests
that are to blame."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icd_engine.engine import Engine
    from icd_engine.results import EditRequest, EditResult


def edit_each(
    engine: Engine, requests: Sequence[EditRequest], size: tuple[int, int] | None = None
) -> list[EditResult | Exception]:
    """`Engine.edit_many`, with an error in place of the results that there cannot be: bad input, or
    too little memory.

    Ends the process after a fault of the GPU: every further call would fail, and only a new process
    helps.
    """
    try:
        return [*engine.edit_many(requests, size=size)]
    except Exception as error:
        if type(error).__name__ == "AcceleratorError":
            os._exit(1)
        if len(requests) == 1:
            return [error]
    half = len(requests) // 2
    return edit_each(engine, requests[:half], size) + edit_each(engine, requests[half:], size)
