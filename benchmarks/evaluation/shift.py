"""How far a background has moved: phase correlation (Kuglin and Hines 1975) of two pictures over a
mask, to a fraction of a pixel by upsampling around the peak (Guizar-Sicairos et al. 2008)."""

from __future__ import annotations

import numpy as np

FARTHEST = 8  # px along each axis; textures of the world repeat after 20 and 24
TAPER = 6  # px: the mask's edge falls off over twice as many, so that it is no pattern itself
FLOOR = 0.1  # of the strongest amplitude: weaker frequencies are mostly noise
PLAIN = 2.0  # levels of 255: a background of less deviation has nothing to correlate
SMALLEST = 0.02  # of the picture: a smaller background is an edge of one
ROUNDS = 3
ZOOMS = 3  # around the peak, each by ten: to a thousandth of a pixel


def shift(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> float | None:
    """Displacement in px between two pictures, uint8 [H, W, 3], over the pixels that `where`, bool
    [H, W], is true; None where there is too little of it or it is plain.

    Along stripes nothing can be seen to move, and counts as not moved. A window that stays in
    place draws the peak towards 0, so what was found is taken back and looked at again.
    """
    grey = [picture.astype(np.float64).mean(axis=-1) for picture in (one, other)]
    found = np.zeros(2)
    for _ in range(ROUNDS):
        moved = _moved(grey[0], found)
        weight = _weight(where & (_moved(where.astype(np.float64), found) > 0.99))
        spectra = [_spectrum(picture, weight) for picture in (moved, grey[1])]
        if spectra[0] is None or spectra[1] is None:
            return None
        residual = _peak(_normalised(spectra[0], spectra[1]))
        found = np.clip(found + residual, -FARTHEST, FARTHEST)
        if not residual.any():
            break
    return float(np.hypot(found[0], found[1]))


def _weight(where: np.ndarray) -> np.ndarray:
    """[H, W]: 1 well inside, falling to 0 at the edge of `where` and of the picture."""
    padded = np.pad(where.astype(np.float64), 2 * TAPER)
    for axis in (0, 1):
        for _ in range(2):
            windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * TAPER + 1, axis)
            padded = windows.mean(axis=-1)
    return np.clip(2 * padded - 1, 0, None)


def _spectrum(picture: np.ndarray, weight: np.ndarray) -> np.ndarray | None:
    """Of a weighted picture [H, W] less its mean; None where there is nothing in it."""
    total = weight.sum()
    if total < SMALLEST * weight.size:
        return None
    centred = picture - (weight * picture).sum() / total
    if (weight * centred**2).sum() / total < PLAIN**2:
        return None
    return np.fft.fft2(weight * centred)


def _normalised(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cross-power spectrum with amplitudes of 1, and 0 where there is next to none."""
    cross = one * other.conj()
    size = np.abs(cross)
    kept = size > FLOOR**2 * size.max()
    return np.where(kept, cross / np.where(kept, size, 1.0), 0.0)


def _peak(cross: np.ndarray) -> np.ndarray:
    """(y, x) by which the second picture is to be moved onto the first, from integers on."""
    at = np.zeros(2)
    reach = FARTHEST
    for zoom in range(ZOOMS + 1):
        step = 10.0**-zoom
        offsets = np.arange(-reach, reach + 1) * step
        rows, columns = (
            np.exp(2j * np.pi * np.outer(centre + offsets, np.fft.fftfreq(size)))
            for centre, size in zip(at, cross.shape, strict=True)
        )
        surface = np.real(rows @ cross @ columns.T)
        best = np.unravel_index(surface.argmax(), surface.shape)
        at = at + offsets[list(best)]
        reach = 10
    return at


def _moved(picture: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The picture [H, W] moved against `by`, between pixels linearly; it wraps around, where no
    weight is."""
    whole = np.floor(by).astype(int)
    y, x = by - whole
    parts = [
        ((1 - y) * (1 - x), whole),
        ((1 - y) * x, whole + (0, 1)),
        (y * (1 - x), whole + (1, 0)),
        (y * x, whole + (1, 1)),
    ]
    return sum(
        (share * np.roll(picture, tuple(-to), (0, 1)) for share, to in parts if share),
        np.zeros_like(picture),
    )
