"""Nodes of ComfyUI. This folder, linked into ComfyUI's `custom_nodes`, is the extension."""

from __future__ import annotations

from typing import Any


async def comfy_entrypoint() -> Any:
    """What ComfyUI asks for; `nodes` needs its packages, which are nowhere else."""
    from icd_engine.integrations.comfyui.nodes import Extension

    return Extension()
