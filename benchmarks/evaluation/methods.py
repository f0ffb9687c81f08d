"""Text-guided editing as others do it, on the same pictures and prompts; each names its paper.

A method takes a Diffusion and an EditTask and returns latents of the reconstruction and of the
edit. Guidance w is in code notation throughout (0 = unguided).
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.evaluation import inverting, noising
from benchmarks.evaluation.diffusion import Diffusion
from benchmarks.evaluation.instruct import ip2p
from benchmarks.evaluation.masactrl import masactrl
from benchmarks.evaluation.tasks import EditTask, Outcome

METHODS: dict[str, Callable[[Diffusion, EditTask], Outcome]] = {
    "ddim": inverting.ddim,
    "ddim+p2p": inverting.ddim_p2p,
    "masactrl": masactrl,
    "npi": inverting.negative_prompt_inversion,
    "nti": inverting.null_text_inversion,
    "edit-friendly": noising.edit_friendly_ddpm,
    "infedit": noising.infedit,
    "renoise": inverting.renoise,
    "sdedit": noising.sdedit,
    "ip2p": ip2p,
}
INSTRUCTED = {"ip2p"}  # those of a network trained on edits; all others are of the teacher
