"""ICC profiles made by code: of primaries and a gamma, of grey, and of CMYK as a table."""

import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
D65 = (0.3127, 0.329)
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def text(kind: bytes, words: bytes) -> bytes:
    if kind == b"text":
        return b"text\0\0\0\0" + words + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(words) + 1) + words + bytes(1 + 78)


def file(
    space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", pcs: bytes = b"XYZ "
) -> bytes:
    tags = {b"desc": text(b"desc", b"test"), b"cprt": text(b"text", b"none")} | tags
    table = struct.pack(">I", len(tags))
    body = b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"none", 0x02400000, kind, space, pcs)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(*D50)
    return head.ljust(128, b"\0") + table + body


def rgb(primaries: list[tuple[float, float]], white=D65, gamma: float = 2.2) -> bytes:
    """Of CIE x and y of red, green and blue."""
    own = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    light = np.array([white[0] / white[1], 1, (1 - sum(white)) / white[1]])
    own = own * np.linalg.solve(own, light)
    scale = np.diag((BRADFORD @ D50) / (BRADFORD @ light))
    adapted = np.linalg.inv(BRADFORD) @ scale @ BRADFORD @ own
    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50)}
    for i, name in enumerate("rgb"):
        tags[f"{name}XYZ".encode()] = b"XYZ \0\0\0\0" + fixed(*adapted[:, i])
        tags[f"{name}TRC".encode()] = curve(gamma)
    return file(b"RGB ", tags)


def grey(gamma: float) -> bytes:
    return file(b"GRAY", {b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50), b"kTRC": curve(gamma)})


def cmyk() -> bytes:
    """Inks as filters: L* = 100 - 90 k, lessened by the inks, a* and b* by magenta, cyan and yellow; a
    table of two points an axis, 16 bits (lut16)."""
    grid = np.stack(np.meshgrid(*[[0.0, 1.0]] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    c, m, y, k = grid.T
    light = 100 * (1 - 0.9 * k) * (1 - 0.4 * c) * (1 - 0.4 * m) * (1 - 0.1 * y)
    a = (60 * m - 40 * c) * (1 - k)
    b = (70 * y - 40 * c - 10 * m) * (1 - k)
    lab = np.stack([light / 100 * 65280, (a + 128) * 256, (b + 128) * 256], axis=-1)
    head = b"mft2\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    ramp = struct.pack(">2H", 0, 65535)
    table = np.rint(np.clip(lab, 0, 65535)).astype(">u2").tobytes()
    lut = head + struct.pack(">2H", 2, 2) + 4 * ramp + table + 3 * ramp
    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50), b"A2B0": lut, b"A2B1": lut}
    return file(b"CMYK", tags, b"prtr", b"Lab ")


P3 = rgb([(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)])
ADOBE = rgb([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], gamma=563 / 256)
PROPHOTO = rgb([(0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)], (0.3457, 0.3585), 1.8)
LINEAR = rgb([(0.64, 0.33), (0.3, 0.6), (0.15, 0.06)], gamma=1.0)
