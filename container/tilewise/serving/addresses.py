"""Images that a request names by an address: only where the operator allows it, and nothing private."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import urljoin, urlsplit

from tilewise.errors import UserError

KINDS = ("s3", "https")
TOTAL_S = 20.0
STEP_S = 5.0
REDIRECTS = 3
PIECE = 256 * 1024
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_REDIRECTED = (301, 302, 303, 307, 308)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Addresses:
    """Fetches images from S3 and from the web.

    Args:
        kinds: which of :data:`KINDS` the operator has switched on.
        max_bytes: of an image.
        is_allowed: whether an address of the network may be asked.
        trust: certificates that are trusted; None for the system's.

    """

    def __init__(
        self,
        kinds: Collection[str],
        max_bytes: int,
        is_allowed: Callable[[Address], bool] | None = None,
        *,
        trust: ssl.SSLContext | None = None,
    ):
        self._kinds, self._max_bytes = kinds, max_bytes
        self._is_allowed = is_allowed or is_public
        self._trust = trust

    def fetch(self, address: str) -> bytes:
        """What lies there.

        Raises:
            UserError: it is not allowed, or there is nothing, or too much.

        """
        kind = address.partition("://")[0]
        if kind not in KINDS:
            raise UserError(f"{kind}:// addresses are not fetched: use https:// or s3://")
        if kind not in self._kinds:
            raise UserError(
                f"{kind}:// addresses are not fetched here: send the image itself, or have the operator set "
                f"TILEWISE_FETCH={kind}"
            )
        return self._from_s3(address) if kind == "s3" else self._from_web(address)

    def _from_s3(self, address: str) -> bytes:
        # Imported here: it takes half a second, and few endpoints need it.
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, _, key = address.removeprefix("s3://").partition("/")
        if not bucket or not key:
            raise UserError(f"{address[:200]} must be of the form s3://bucket/key")
        patience = Config(connect_timeout=STEP_S, read_timeout=STEP_S, retries={"total_max_attempts": 2})
        try:
            answer = boto3.client("s3", config=patience).get_object(Bucket=bucket, Key=key)
            self._check_size(address, answer["ContentLength"])
            content: bytes = answer["Body"].read()
        except ClientError as error:
            raise UserError(f"{address[:200]} cannot be read: {error.response['Error']['Code']}") from None
        except BotoCoreError as error:
            raise UserError(f"{address[:200]} cannot be read: {type(error).__name__}") from None
        return content

    def _from_web(self, address: str) -> bytes:
        deadline = time.monotonic() + TOTAL_S
        for _ in range(REDIRECTS + 1):
            parts = urlsplit(address)
            if parts.scheme != "https" or not parts.hostname or parts.username is not None:
                raise UserError(f"{address[:200]} is not a plain https:// address")
            try:
                answer = self._ask(address, deadline)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise UserError(f"{address[:200]} does not answer: {type(error).__name__}") from None
            if isinstance(answer, bytes):
                return answer
            address = urljoin(address, answer)
        raise UserError(f"{address[:200]}: more than {REDIRECTS} redirections")

    def _ask(self, address: str, deadline: float) -> bytes | str:
        """The body, or where it is redirected to."""
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port or 443
        connection = _Connection(host, port, self._resolve(host, port), trust=self._trust)
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers={"User-Agent": "tilewise", "Accept": "image/*,*/*"})
            response = connection.getresponse()
            if response.status in _REDIRECTED and response.headers.get("Location"):
                return response.headers["Location"]
            if response.status != 200:
                raise UserError(f"{address[:200]} answers {response.status}")
            return self._read(address, response, deadline)
        finally:
            connection.close()

    def _read(self, address: str, response: http.client.HTTPResponse, deadline: float) -> bytes:
        content = bytearray()
        while piece := response.read1(PIECE):
            content += piece
            self._check_size(address, len(content))
            if time.monotonic() > deadline:
                raise UserError(f"{address[:200]} does not come within {TOTAL_S:g} s")
        return bytes(content)

    def _check_size(self, address: str, size: int) -> None:
        if size > self._max_bytes:
            raise UserError(f"{address[:200]} has more than {self._max_bytes // 2**20} MB")

    def _resolve(self, host: str, port: int) -> str:
        """The network's address of a host, which is then the one that is asked: the next time it may differ.

        Raises:
            UserError: one of its addresses is not public.

        """
        try:
            found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            raise UserError(f"there is no host {host[:200]}") from None
        for _, _, _, _, place in found:
            if not self._is_allowed(ipaddress.ip_address(place[0].partition("%")[0])):
                raise UserError(f"{host[:200]} is not a public address: it is not asked")
        return str(found[0][4][0])


class _Connection(http.client.HTTPSConnection):
    """To a host whose address has been looked up before."""

    def __init__(self, host: str, port: int, place: str, *, trust: ssl.SSLContext | None):
        self._tls = trust or ssl.create_default_context()
        super().__init__(host, port, timeout=STEP_S, context=self._tls)
        self._place = place

    def connect(self) -> None:
        plain = socket.create_connection((self._place, self.port), STEP_S)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


def is_public(address: Address) -> bool:
    """Whether an address belongs to nobody's own network, also where an IPv4 address hides in an IPv6 one."""
    if isinstance(address, ipaddress.IPv6Address):
        hidden = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if hidden is None and address in _NAT64:
            hidden = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if hidden is not None:
            return is_public(hidden)
    return address.is_global and not address.is_multicast
