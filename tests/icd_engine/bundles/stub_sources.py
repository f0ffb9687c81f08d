"""A web server on this machine in place of the authors' archives and the Hugging Face hub: it gives the
golden files under the published names, honours range requests and counts what it is asked for."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
REVISION = "a" * 40
BASES = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
CYCLE = "ilushado/Cycle-consistency"
LICENCES = {BASES["sd15"]: "creativeml-openrail-m", BASES["sdxl"]: "openrail++"}
MIRROR = "/archives"
CDN = "/cdn/"  # large files of the hub lie elsewhere


def tar_gz(members: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def _loras(family: str, forward: str, reverse: str) -> bytes:
    name = {"sd15": "SD15", "sdxl": "SDXL"}[family]
    read = {
        role: (GOLDEN / family / f"iCD-{name}-{role}.safetensors").read_bytes()
        for role in ("forward", "reverse")
    }
    return tar_gz(
        {
            f"iCD-{name}-forward_{forward}.safetensors": read["forward"],
            f"iCD-{name}-reverse_{reverse}.safetensors": read["reverse"],
        }
    )


def contents() -> dict[str, bytes]:
    """Path of the server -> what lies there, for every published model."""
    files: dict[str, bytes] = {}
    for family, name in (("sd15", "SD15"), ("sdxl", "SDXL")):
        teacher = f"{family}_cfg_distill.pt"
        data = (GOLDEN / family / teacher).read_bytes()
        files[f"{MIRROR}/{teacher}.tar.gz"] = tar_gz({teacher: data})
        for archive, forward, reverse in (
            ("4steps_1", "19_259_519_779", "259_519_779_999"),
            ("4steps_2", "19_249_499_699", "249_499_699_999"),
            ("3steps", "19_339_699", "339_699_999"),
        ):
            files[f"{MIRROR}/iCD-{name}_{archive}.tar.gz"] = _loras(family, forward, reverse)
        base = GOLDEN / family / "base"
        for path in (path for path in base.rglob("*") if path.is_file()):
            inside = path.relative_to(base).as_posix()
            files[f"/{BASES[family]}/resolve/{REVISION}/{inside}"] = path.read_bytes()
    cycle = GOLDEN / "sd15" / "iCD-SD15-forward.safetensors"
    files[f"/{CYCLE}/resolve/{REVISION}/finetuned_forward_model.safetensors"] = cycle.read_bytes()
    return files


class Sources:
    """files: path -> content, to be changed by tests. asked: (method, path, first byte) of every
    request for a file. stall: path -> bytes after which the server says no more, until `go_on`."""

    def __init__(self, url: str, files: dict[str, bytes]):
        self.url = url
        self.files = files
        self.asked: list[tuple[str, str, int]] = []
        self.stall: dict[str, int] = {}
        self.stalled = threading.Event()
        self.go_on = threading.Event()

    def stand_in(self, patch: pytest.MonkeyPatch) -> None:
        """For this process, which has read what the hub's address is."""
        patch.setenv("ICD_MIRROR", self.url + MIRROR)
        patch.setattr(constants, "ENDPOINT", self.url)
        resolve = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", resolve)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be told to use it."""
        return {"HF_ENDPOINT": self.url, "ICD_MIRROR": self.url + MIRROR, "HF_HUB_OFFLINE": "0"}

    def downloads(self) -> list[str]:
        """Names of the files that were downloaded, whole or in part."""
        return [path.rsplit("/", 1)[1] for method, path, _ in self.asked if method == "GET"]

    def about(self, repository: str) -> dict[str, Any]:
        """What the hub's interface tells of a repository."""
        start = f"/{repository}/resolve/{REVISION}/"
        files = {p.removeprefix(start): d for p, d in self.files.items() if p.startswith(start)}
        return {
            "id": repository,
            "sha": REVISION,
            "siblings": [_sibling(name, data) for name, data in files.items()],
            "cardData": {"license": LICENCES[repository]} if repository in LICENCES else {},
        }


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    told: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob}
    if name.endswith(".safetensors"):
        digest = hashlib.sha256(data).hexdigest()
        told["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
        told["blobId"] = "0" * 40
    return told


class _Handler(BaseHTTPRequestHandler):
    sources: Sources
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):
            repository = "/".join(self.path.split("?")[0].split("/")[3:5])
            self._send(200, json.dumps(self.sources.about(repository)).encode(), {})
            return
        self._answer("GET")

    def _answer(self, method: str) -> None:
        if "/resolve/" in self.path and self.path.endswith(".safetensors"):
            self._send(302, b"", {"Location": self.path.replace("/resolve/", CDN)}, method)
            return
        data = self.sources.files.get(self.path.replace(CDN, "/resolve/"))
        if data is None:
            self._send(404, b"", {})
            return
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.sources.asked.append((method, self.path, start))
        headers = {"ETag": f'"{hashlib.md5(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206 if start else 200, data[start:], headers, method, start)

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], method: str = "GET", start: int = 0
    ) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if method == "HEAD":
            return
        stall = self.sources.stall.get(self.path.replace(CDN, "/resolve/"))
        if stall is not None and start <= stall < start + len(data):
            self.wfile.write(data[: stall - start])
            self.wfile.flush()
            self.sources.stalled.set()
            self.sources.go_on.wait(60)
            data = data[stall - start :]
        try:
            self.wfile.write(data)
        except OSError:  # whoever asked was ended
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Sources]:
    """The server, for the length of a block."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    sources = Sources(f"http://127.0.0.1:{server.server_address[1]}", dict(files))
    handler.sources = sources  # pyright: ignore[reportAttributeAccessIssue]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield sources
    finally:
        sources.go_on.set()
        server.shutdown()
        server.server_close()
