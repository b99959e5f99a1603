from __future__ import annotations

import http.server
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tilewise.errors import UserError
from tilewise.serving.addresses import Addresses, is_public

CONTENT = b"\xff\xd8\xff an image"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("169.254.170.2", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
    ],
)
def test_is_public(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    "address",
    [
        "https://127.0.0.1/a.jpg",
        "https://localhost/a.jpg",
        "https://[::1]/a.jpg",
        "https://169.254.169.254/latest/meta-data",
        "https://2130706433/a.jpg",
        "https://0x7f.1/a.jpg",
        "https://0/a.jpg",
    ],
)
def test_fetch__no_private_address(address: str) -> None:
    with pytest.raises(UserError, match=r"not a public address|no host"):
        Addresses({"https"}, 1000).fetch(address)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("https://host/a", "TILEWISE_FETCH=https"),
        ("s3://bucket/a", "TILEWISE_FETCH=s3"),
        ("http://host/a", "use https:// or s3://"),
    ],
)
def test_fetch__not_switched_on(address: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Addresses((), 1000).fetch(address)


@pytest.mark.parametrize("address", ["https://", "https:///a", "https://user:word@host/a"])
def test_fetch__no_plain_address(address: str) -> None:
    with pytest.raises(UserError, match="is not a plain"):
        Addresses({"https"}, 1000).fetch(address)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        redirected = {
            "/moved": "/a.jpg",
            "/inside": "https://169.254.169.254/",
            "/plain": "http://127.0.0.1/",
            "/round": "/round",
        }
        location = redirected.get(self.path)
        self.send_response(302 if location else 200 if self.path == "/a.jpg" else 404)
        if location:
            self.send_header("Location", location)
        self.end_headers()
        if self.path == "/a.jpg":
            self.wfile.write(CONTENT)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ssl.SSLContext]]:
    """A site on this machine, and who trusts it."""
    certificate = make_certificate(tmp_path_factory.mktemp("tls"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}", ssl.create_default_context(cafile=str(certificate))
    server.shutdown()
    server.server_close()


def make_certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([here]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "both.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def here_only(address: object) -> bool:
    return str(address) in ("127.0.0.1", "::1")


def test_fetch__from_the_web(web: tuple[str, ssl.SSLContext]) -> None:
    site, trust = web
    addresses = Addresses({"https"}, 1000, here_only, trust=trust)
    assert addresses.fetch(f"{site}/a.jpg") == CONTENT
    assert addresses.fetch(f"{site}/moved") == CONTENT
    for path, reason in (
        ("inside", "not a public address"),
        ("plain", "is not a plain"),
        ("round", "redirections"),
        ("missing", "answers 404"),
    ):
        with pytest.raises(UserError, match=reason):
            addresses.fetch(f"{site}/{path}")
    with pytest.raises(UserError, match="more than 0 MB"):
        Addresses({"https"}, 10, here_only, trust=trust).fetch(f"{site}/a.jpg")
    with pytest.raises(UserError, match="SSLCertVerificationError"):
        Addresses({"https"}, 1000, here_only).fetch(f"{site}/a.jpg")


def test_fetch__from_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto import mock_aws

    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="images")
        client.put_object(Bucket="images", Key="a b.jpg", Body=CONTENT)
        addresses = Addresses({"s3"}, 1000)
        assert addresses.fetch("s3://images/a b.jpg") == CONTENT
        with pytest.raises(UserError, match="NoSuchKey"):
            addresses.fetch("s3://images/missing.jpg")
        with pytest.raises(UserError, match="s3://bucket/key"):
            addresses.fetch("s3://images")
        with pytest.raises(UserError, match="more than 0 MB"):
            Addresses({"s3"}, 10).fetch("s3://images/a b.jpg")
