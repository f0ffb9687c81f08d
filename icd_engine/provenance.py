"""C2PA: a signed statement in the picture that a model made or edited it, with the user's own
certificate and key."""

from __future__ import annotations

import io
import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from icd_engine.errors import RunnerError, SettingsError, shown
from icd_engine.version import __version__

SOURCE_TYPES = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia")
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/{}"  # an IRI of the IPTC
# Which one a key is for, only trying tells
ALGORITHMS = (b"es256", b"es384", b"es512", b"ps256", b"ed25519")
NOT_FOR_THIS_KEY = "invalid signing credentials"
NO_TIME = ("http resolver", "time stamp", "timestamp", "decode error")
PARENT = "parent"
# No pictures within the picture: whoever gets the edit is not to get the original as well.
CONTEXT = {"builder": {"thumbnail": {"enabled": False}}}
_BEGINNINGS = {
    b"\x89PNG": "image/png",
    b"\xff\xd8": "image/jpeg",
    b"RIFF": "image/webp",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
    b"GIF8": "image/gif",
}


@dataclass(frozen=True)
class Signature:
    """What pictures are signed with: a certificate chain, the signer's first, and its private key,
    both as PEM.

    authority: URL of a time authority (RFC 3161), which is asked at every signature when it was made: it
    is sent a hash and answers with a signed time. Without one, a signature is worth nothing once its
    certificate has run out.

    The first certificate must be made for signing documents (extended key usage e-mail protection,
    among others) and issued by another one. Readers call the picture trusted where they know the
    chain's root. `read` checks all that.
    """

    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    authority: str | None = None

    def __post_init__(self) -> None:
        if self.authority is not None and not _is_url(self.authority):
            raise SettingsError(
                f"a time authority is an http:// or https:// URL, not {shown(self.authority)}"
            )

    @classmethod
    def read(
        cls,
        certificate: str | os.PathLike[str],
        key: str | os.PathLike[str],
        authority: str | None = None,
    ) -> Signature:
        """From two files. Raises SettingsError where they are missing or cannot sign, or the time
        authority does not answer; RunnerError without c2pa."""
        signature = cls(_read(certificate), _read(key), authority)
        signature.sign(_smallest_picture(), "check.png", "trainedAlgorithmicMedia")
        return signature

    def sign(
        self, picture: bytes, title: str, source_type: str, parent: bytes | None = None
    ) -> bytes:
        """The PNG, JPEG, WEBP or AVIF file `picture` with a manifest in it; its pixels stay as they are.

        title: its name. source_type: one of SOURCE_TYPES. parent: the file of the picture that was
        edited, which is told from others by its hash and not shown; its own manifest is carried on.
        Raises SettingsError, RunnerError.
        """
        try:
            import c2pa
        except ImportError:
            raise RunnerError("signing needs c2pa: pip install 'icd-engine[provenance]'") from None
        reason = ""
        for algorithm in ALGORITHMS:
            try:
                return self._signed(
                    c2pa, algorithm, picture, _manifest(title, source_type, parent), parent
                )
            except c2pa.C2paError as error:
                if self.authority is not None and any(told in str(error) for told in NO_TIME):
                    text = f"the time authority {self.authority} gives no time stamp: {error}"
                    raise SettingsError(text) from None
                reason = reason or str(error)
                if NOT_FOR_THIS_KEY not in str(error):
                    reason = str(error)
                    break
        raise SettingsError(f"the picture cannot be signed with this certificate and key: {reason}")

    def _signed(
        self,
        c2pa: Any,
        algorithm: bytes,
        picture: bytes,
        manifest: dict[str, Any],
        parent: bytes | None,
    ) -> bytes:
        info = c2pa.C2paSignerInfo(
            alg=algorithm,
            sign_cert=self.certificate,
            private_key=self.key,
            ta_url=self.authority and self.authority.encode(),
        )
        signed = io.BytesIO()
        with ExitStack() as stack:
            signer = stack.enter_context(c2pa.Signer.from_info(info))
            context = stack.enter_context(c2pa.Context.from_dict(CONTEXT))
            builder = stack.enter_context(c2pa.Builder(manifest, context))
            if parent is not None:
                ingredient = {"title": "source", "relationship": "parentOf", "label": PARENT}
                builder.add_ingredient(ingredient, _kind(parent), io.BytesIO(parent))
            builder.sign(signer, _kind(picture), io.BytesIO(picture), signed)
        return signed.getvalue()


def _manifest(title: str, source_type: str, parent: bytes | None) -> dict[str, Any]:
    """What is claimed. The first action must open a parent or create."""
    what = {"digitalSourceType": SOURCE_TYPE.format(source_type)}
    if parent is None:
        actions = [{"action": "c2pa.created", **what}]
    else:
        opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": [PARENT]}}
        actions = [opened, {"action": "c2pa.edited", **what}]
    return {
        "claim_generator_info": [{"name": "icd_engine", "version": __version__}],
        "title": title,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }


def _is_url(text: object) -> bool:
    if not isinstance(text, str) or not text.isascii() or not text.isprintable():
        return False
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def _kind(picture: bytes) -> str:
    if picture[4:8] == b"ftyp":
        return "image/avif" if picture[8:12] in (b"avif", b"avis") else "image/heic"
    return next(
        (kind for begin, kind in _BEGINNINGS.items() if picture.startswith(begin)),
        "application/octet-stream",
    )


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(
            f"cannot read {shown(path)}: {getattr(error, 'strerror', None) or 'no path'}"
        ) from None


def _smallest_picture() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    return buffer.getvalue()
