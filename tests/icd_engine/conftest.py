"""Certificates to sign pictures with, an inverted picture, and the golden files converted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from icd_engine.bundles.bundle import Bundle

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


class Credentials(NamedTuple):
    """A certificate chain and the private key of its first, PEM."""

    certificate: bytes
    key: bytes


@pytest.fixture(scope="session")
def make_credentials() -> Callable[..., Credentials]:
    """make_credentials(curve, for_documents): a fresh chain of a signer and its authority."""
    pytest.importorskip("c2pa")
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    usages = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    usages |= dict.fromkeys(("encipher_only", "decipher_only"), False)

    def name(text: str) -> x509.Name:
        attributes = {NameOID.COMMON_NAME: text, NameOID.ORGANIZATION_NAME: "Tests"}
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes.items()])

    def certificate(subject: str, key: Any, authority: Any, for_documents: bool) -> bytes:
        own, now = key is authority, datetime.now(UTC)
        extensions = [
            (x509.BasicConstraints(ca=own, path_length=None), True),
            (
                x509.KeyUsage(digital_signature=not own, key_cert_sign=own, crl_sign=own, **usages),
                True,
            ),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        ]
        if for_documents and not own:
            extensions.append(
                (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
            )
        builder = x509.CertificateBuilder(name("Authority"), name(subject), key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(
            now + timedelta(days=1)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def make(curve: Any = ec.SECP256R1, for_documents: bool = True) -> Credentials:
        authority, signer = ec.generate_private_key(curve()), ec.generate_private_key(curve())
        chain = certificate("Signer", signer, authority, for_documents)
        chain += certificate("Authority", authority, authority, for_documents)
        private = signer.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return Credentials(chain, private)

    return make


@pytest.fixture(scope="session")
def credentials(make_credentials) -> Credentials:
    return make_credentials()


@pytest.fixture(scope="session")
def inversion(small_engine):
    from tests.icd_engine.plain_loops import SOURCE, picture

    return small_engine.invert(picture(), SOURCE, seed=3)


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Bundle:
    from icd_engine.bundles.convert import convert

    golden = GOLDEN / "sd15"
    files = [golden / "base", golden / "sd15_cfg_distill.pt"]
    loras = [golden / f"iCD-SD15-{role}.safetensors" for role in ("forward", "reverse")]
    return convert(*files, *loras, tmp_path_factory.mktemp("published") / "bundle")
