"""The engine as a pipeline of diffusers: `ICDPipeline`, used as LEDITS++ is."""

from icd_engine.integrations.diffusers.pipeline import ICDPipeline

__all__ = ["ICDPipeline"]
