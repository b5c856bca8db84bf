"""Certificates of any legal shape are read at every place where components show them."""

from __future__ import annotations

import base64
import contextlib
import json
import warnings
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

from svidproof.components.envoy import Envoy
from svidproof.components.spiffe_helper import BUNDLE, CERTIFICATE, KEY, Helped
from svidproof.model.errors.attribution import Malformed, Unreadable
from svidproof.probes import x509 as certificates
from svidproof.probes.credentials import Credential, leads_to
from svidproof.probes.tls import Impostor, get
from svidproof.probes.tls.sessions import Client
from svidproof.probes.workload_api import x509 as workload_api
from svidproof.probes.workload_api.messages import message
from svidproof.testbed.watch.timeline import Source, Timeline, spiffe_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ID = "spiffe://example.org/api"
DER, PEM = serialization.Encoding.DER, serialization.Encoding.PEM
Key = Any
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def name(*pairs: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    """A distinguished name, of whatever is in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return x509.Name([x509.NameAttribute(o, text, _validate=False) for o, text in pairs])


def make(
    *,
    key: Key | None = None,
    signer: Key | None = None,
    subject: x509.Name | None = None,
    issuer: x509.Name | None = None,
    serial: int = 77,
    until: datetime = NOW + timedelta(hours=1),
    extensions: tuple[x509.ExtensionType, ...] = (),
) -> x509.Certificate:
    """A certificate for an ID, otherwise of this shape."""
    key, signer = key or EC, signer or EC
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject if subject is not None else name((NameOID.COMMON_NAME, "x")))
        .issuer_name(issuer if issuer is not None else ARPA)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(NOW)
        .not_valid_after(until)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(ID)]), critical=False
        )
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    edwards = isinstance(signer, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return builder.sign(signer, None if edwards else hashes.SHA256())


EC = ec.generate_private_key(ec.SECP256R1())
ARPA = name((NameOID.COUNTRY_NAME, "ARPA"), (NameOID.ORGANIZATION_NAME, "Example"))
ODD = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x04\x01x")


def with_serial(serial: bytes) -> x509.Certificate:
    """A certificate with a serial number that RFC 5280 wants to be read all the same."""
    return x509.load_der_x509_certificate(
        make().public_bytes(DER).replace(b"\x02\x01\x4d", b"\x02\x01" + serial, 1)
    )


# Each is legal by RFC 5280, or is what RFC 5280 4.1.2.2 says that its users must handle.
SHAPES: dict[str, Callable[[], tuple[x509.Certificate, Key]]] = {
    "country-of-four-letters": lambda: (make(subject=ARPA), EC),
    "empty-subject": lambda: (make(subject=x509.Name([])), EC),
    "long-name": lambda: (make(subject=name((NameOID.COMMON_NAME, "x" * 300))), EC),
    "unknown-extension": lambda: (make(extensions=(ODD,)), EC),
    "rsa": lambda: with_key(rsa.generate_private_key(65537, 2048)),
    "p-384": lambda: with_key(ec.generate_private_key(ec.SECP384R1())),
    "p-521": lambda: with_key(ec.generate_private_key(ec.SECP521R1())),
    "ed25519": lambda: with_key(ed25519.Ed25519PrivateKey.generate()),
    "ed448": lambda: with_key(ed448.Ed448PrivateKey.generate()),
    "huge-serial": lambda: (make(serial=2**159 - 1), EC),
    "zero-serial": lambda: (with_serial(b"\x00"), EC),
    "negative-serial": lambda: (with_serial(b"\xf0"), EC),
    "beyond-2050": lambda: (make(until=datetime(2071, 1, 1, tzinfo=UTC)), EC),
    "without-end": lambda: (make(until=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)), EC),
    "short": lambda: with_key(ed25519.Ed25519PrivateKey.generate()),
}
# The library still reads what it calls disallowed, and says so; a run hears no warnings.
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")
each_shape = pytest.mark.parametrize("shape", SHAPES)


def with_key(key: Key) -> tuple[x509.Certificate, Key]:
    """A certificate that is signed with its own kind of key."""
    return make(key=key, signer=key), key


def key_bytes(key: Key, encoding: serialization.Encoding) -> bytes:
    """A private key in PKCS#8."""
    return cast(
        "bytes",
        key.private_bytes(
            encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def remembered(chain: tuple[x509.Certificate, ...]) -> None:
    """The timeline takes it as any other, and tells its ID."""
    timeline, leaf = Timeline(), chain[0]
    timeline.sighted(
        Source.WIRE,
        "api",
        serial=leaf.serial_number,
        validity=(leaf.not_valid_before_utc, leaf.not_valid_after_utc),
        chain=chain,
    )
    assert len(timeline.sightings(Source.WIRE, "api")) == 1
    assert spiffe_ids(leaf) == [ID]


@each_shape
def test_workload_api_delivers_it(shape: str) -> None:
    """An answer of the Workload API with a chain and a bundle of this shape is read."""
    leaf, key = SHAPES[shape]()
    root = make(subject=ARPA)
    svid = message("X509SVID")(
        spiffe_id=ID,
        x509_svid=leaf.public_bytes(DER) + root.public_bytes(DER),
        x509_svid_key=key_bytes(key, DER),
        bundle=root.public_bytes(DER) * 30,
    )

    answer = workload_api._answer(message("X509SVIDResponse")(svids=[svid]))

    assert answer.svids[0].chain == (leaf, root)
    assert len(answer.svids[0].bundle) == 30
    assert not [flaw for flaw in answer.svids[0].flaws() if "key" in flaw]
    remembered(answer.svids[0].chain)


@each_shape
def test_sidecar_shows_it(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`/config_dump` with a chain of this shape is read."""
    leaf, _ = SHAPES[shape]()
    chain = base64.b64encode(leaf.public_bytes(PEM) * 12).decode()
    held = {"tls_certificate": {"certificate_chain": {"inline_bytes": chain}}}
    dump = {"configs": [{"name": ID, "version_info": "1", "secret": held}]}
    envoy = Envoy.__new__(Envoy)
    envoy.component = "api.envoy"
    monkeypatch.setattr(envoy, "admin", lambda _: json.dumps(dump).encode())

    secret = envoy.secrets()[ID]

    assert secret.certificates == (leaf,) * 12
    remembered(secret.certificates)


@each_shape
def test_files_hold_it(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with a chain of this shape are read."""
    leaf, key = SHAPES[shape]()
    root = make(subject=ARPA)
    helped = Helped.__new__(Helped)
    helped.name = "manifest-client"
    written = {
        CERTIFICATE: leaf.public_bytes(PEM) + root.public_bytes(PEM),
        KEY: key_bytes(key, PEM),
        BUNDLE: root.public_bytes(PEM),
    }
    monkeypatch.setattr(helped, "written", lambda: written)

    files = helped.files()

    assert (files.credential.chain, files.bundle) == ((leaf, root), (root,))
    remembered(files.credential.chain)


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    """A TLS server."""
    with contextlib.closing(Impostor(("127.0.0.1", 0))) as server:
        yield server


@each_shape
def test_listener_serves_it(shape: str, impostor: Impostor) -> None:
    """A chain of this shape is read off a connection by both sides, and by both clients."""
    leaf, key = SHAPES[shape]()
    root = make(subject=ARPA)
    own = Credential("api", (leaf, root), key_bytes(key, PEM))
    address = impostor._listener.getsockname()

    with impostor.serve(own) as attempts:
        exchange = get(address, credential=own)
        kept = Client(address, own).get()

    assert exchange.peer_chain == (leaf, root), str(exchange)
    assert kept.peer_chain == (leaf,), str(kept)
    assert [attempt.peer_chain for attempt in attempts] == [(leaf, root)] * 2
    remembered(exchange.peer_chain)


def test_chain_is_followed_whatever_its_names() -> None:
    """Whether a chain leads to a bundle is told without reading the names in it."""
    key = rsa.generate_private_key(65537, 2048)
    root = make(subject=ARPA, key=key)
    other = make(subject=ARPA)
    leaf = make(signer=key)

    assert leads_to((leaf,), (other, root)), "of two roots with one name either may have signed"
    assert not leads_to((leaf,), (other,))
    assert not leads_to((), (root,))


@pytest.mark.parametrize(
    "der", [b"\x30", b"\x30\x03\x02\x01\x01", b"nonsense", b"\x30\x82\xff\xff", b"\x30\x80"]
)
def test_what_is_not_a_certificate_is_malformed(der: bytes) -> None:
    """A component that gives no certificate where one must be is to blame."""
    with pytest.raises(Malformed):
        certificates.load_concatenated(der)
    pem = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(der).decode()}\n"
    for text in (f"{pem}-----END CERTIFICATE-----\n", pem, ""):
        with pytest.raises(Malformed):
            certificates.load_pem(text.encode())


def test_trailing_bytes_are_malformed() -> None:
    """Something behind a certificate is not left out."""
    with pytest.raises(Malformed):
        certificates.load_concatenated(make().public_bytes(DER) + b"\x00")


def test_what_only_openssl_reads_is_the_suites_own_trouble() -> None:
    """A certificate that the suite's library rejects is kept, and blamed on nobody."""
    der = make().public_bytes(DER).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)

    with pytest.raises(Unreadable, match="the suite cannot read a legal certificate") as raised:
        certificates.load(der)

    assert raised.value.der == der


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param((b"\x86\x18", b"\x87\x18"), Malformed, id="address-of-24-bytes"),
        pytest.param((b"\x86\x18", b"\x85\x18"), Exception, id="another-kind-of-name"),
    ],
)
def test_names_that_cannot_be_read_are_no_crash(
    change: tuple[bytes, bytes], error: type[Exception]
) -> None:
    """A SAN that breaks its own rules is the component's fault, one that is odd the suite's."""
    der = make().public_bytes(DER)
    assert len(ID) == 0x18
    leaf = certificates.load(der.replace(*change, 1))

    with pytest.raises(error) as raised:
        spiffe_ids(leaf)
    assert isinstance(raised.value, Malformed | Unreadable)
