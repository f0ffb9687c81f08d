"""Mathematics of the hops: schedule, dynamic guidance and the one loop over a trajectory."""

from icd_engine.sampling.guidance import dynamic_guidance, guidance_embedding
from icd_engine.sampling.schedule import Hop, NoiseSchedule
from icd_engine.sampling.trajectory import run_trajectory

__all__ = ["Hop", "NoiseSchedule", "dynamic_guidance", "guidance_embedding", "run_trajectory"]
