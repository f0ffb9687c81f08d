"""Latents and maps to be blended."""

import torch

# (latent height, width), (map height, width): SD at 512, the embedded model, uneven factors, maps
# not enlarged.
SIZES = {
    "sd-512": ((64, 64), (16, 16)),
    "tiny": ((16, 16), (4, 4)),
    "uneven": ((18, 35), (7, 13)),
    "same": ((5, 9), (5, 9)),
    "one-pixel": ((1, 1), (1, 1)),
}


def make_rows(
    size=((16, 16), (4, 4)),
    sources: int = 1,
    source_row: tuple[int, ...] = (0,),
    user_mask: bool = False,
):
    """Keyword arguments of a seeded example; so high a power lets the threshold split the maps."""
    generator = torch.Generator().manual_seed(0)
    latent_size, map_size = size
    targets = len(source_row)
    maps = torch.rand(2, targets, *map_size, generator=generator) ** 32
    return {
        "latents": torch.randn(sources + targets, 4, *latent_size, generator=generator),
        "maps_source": maps[0],
        "maps_target": maps[1],
        "source_row": torch.tensor(source_row, dtype=torch.int64),
        "use_blend": torch.ones(targets, dtype=torch.bool),
    } | ({"user_mask": torch.rand(targets, *latent_size, generator=generator)} if user_mask else {})


def kept_apart(arguments: dict) -> dict:
    """The same example with the source rows in source_latents."""
    latents, sources = (
        arguments["latents"],
        len(arguments["latents"]) - len(arguments["source_row"]),
    )
    return arguments | {
        "latents": latents[sources:].clone(),
        "source_latents": latents[:sources].clone(),
    }
