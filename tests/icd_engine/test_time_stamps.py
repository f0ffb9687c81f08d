"""Signatures that a time authority stamps: one of this machine, made with openssl."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

from icd_engine.cli import main
from icd_engine.errors import SettingsError
from icd_engine.provenance import Signature
from icd_engine.saving import save_image

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
EXTENSIONS = """[clock]
basicConstraints=CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=critical,timeStamping
"""
AUTHORITY = """[clock]
serial=serial
signer_cert=clock.pem
signer_key=clock.key
certs=authority.pem
signer_digest=sha256
default_policy=1.2.3.4
digests=sha256,sha384,sha512
ess_cert_id_alg=sha256
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Iterator[str]:
    """The URL of an RFC 3161 authority."""
    folder = tmp_path_factory.mktemp("authority")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, cwd=folder, capture_output=True)

    for name, text in {"ext": EXTENSIONS, "config": AUTHORITY, "serial": "01\n"}.items():
        (folder / name).write_text(text)
    own = ["-subj", "/CN=Time Authority/O=Tests", "-keyout", "authority.key"]
    openssl("req", "-x509", *EC, *own, "-out", "authority.pem", "-days", "2")
    openssl("req", *EC, "-subj", "/CN=Clock/O=Tests", "-keyout", "clock.key", "-out", "clock.csr")
    issuer = ["-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial"]
    extensions = ["-extfile", "ext", "-extensions", "clock", "-days", "2"]
    openssl("x509", "-req", "-in", "clock.csr", *issuer, "-out", "clock.pem", *extensions)

    class Clock(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            (folder / "query").write_bytes(self.rfile.read(length))
            files = ["-queryfile", "query", "-out", "reply"]
            openssl("ts", "-reply", "-config", "config", "-section", "clock", *files)
            reply = (folder / "reply").read_bytes() if self.path == "/" else b"no time"
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Clock)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def files(tmp_path, credentials) -> tuple[Path, Path]:
    for name, data in credentials._asdict().items():
        (tmp_path / f"{name}.pem").write_bytes(data)
    return tmp_path / "certificate.pem", tmp_path / "key.pem"


def read_back(data: bytes) -> tuple[dict, list[str]]:
    """The active manifest, and the codes of what was found right."""
    import c2pa

    with c2pa.Reader("image/png", io.BytesIO(data)) as reader:
        results = reader.get_validation_results()["activeManifest"]
        return reader.get_active_manifest(), [one["code"] for one in results["success"]]


def test_a_signature_says_when_it_was_made(tmp_path, files, authority):
    signature = Signature.read(*files, authority)
    path = save_image(Image.new("RGB", (32, 32)), tmp_path / "made.png", signature=signature)
    manifest, right = read_back(path.read_bytes())
    assert manifest["signature_info"]["time"].startswith("20")
    assert {"timeStamp.validated", "claimSignature.insideValidity"} <= set(right)
    plain = save_image(
        Image.new("RGB", (32, 32)), tmp_path / "b.png", signature=Signature.read(*files)
    )
    assert "timeStamp.validated" not in read_back(plain.read_bytes())[1]


def test_on_the_command_line(tmp_path, files, authority, capsys):
    out = tmp_path / "out.png"
    signed = ["--c2pa-cert", str(files[0]), "--c2pa-key", str(files[1]), "--c2pa-time", authority]
    assert main(["generate", "a circle", *signed, "--quiet", "--out", str(out)]) == 0
    assert "timeStamp.validated" in read_back(out.read_bytes())[1]
    assert main(["generate", "a circle", "--c2pa-time", authority]) == 2
    assert "--c2pa-time needs --c2pa-cert" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "{authority}wrong"])
def test_an_authority_that_gives_no_time_shows_before_any_work(files, authority, url):
    url = url.format(authority=authority)
    with pytest.raises(SettingsError, match=f"the time authority {url} gives no time stamp"):
        Signature.read(*files, url)


@pytest.mark.parametrize("url", ["", "clock", "ftp://clock", "http://", "http://[", "http://é", 7])
def test_what_is_no_authority(url):
    with pytest.raises(SettingsError, match="time authority is an http"):
        Signature(b"", b"", url)
