"""What an operator lets a service do beside its limits."""

from __future__ import annotations

from dataclasses import dataclass

ANY_MODEL = "icd"


@dataclass(frozen=True, kw_only=True)
class Offer:
    """model: the name that clients see. steps: decode hops of the model, as `num_inference_steps`.

    source_prompt: of edits that come without one. captioner: URL of an OpenAI-compatible API that is
    asked for one where there is no source_prompt; captioner_model: its model, None for its first one;
    captioner_key: its token. origins: of browsers' pages that may call the service; "*": any.
    """

    model: str = ANY_MODEL
    steps: int = 4
    source_prompt: str | None = None
    captioner: str | None = None
    captioner_model: str | None = None
    captioner_key: str | None = None
    origins: tuple[str, ...] = ()
