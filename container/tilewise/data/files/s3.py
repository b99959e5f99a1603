"""Images from S3, where a channel names them but does not hold them.

Only S3 itself is asked, with the job's own role: no address of another kind is ever fetched.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, unquote_plus

from tilewise.data.channel_issues import MAX_NAMED
from tilewise.data.files.folder import IMAGE_SUFFIXES, temporary_folder
from tilewise.data.quoting import shortened, some
from tilewise.errors import UserError

log = logging.getLogger(__name__)

THREADS = 16
ATTEMPTS = 5
SECONDS_BETWEEN_LOG_LINES = 10
_REASONS = {
    "AccessDenied": "access denied, or it does not exist",
    "NoSuchKey": "it does not exist",
    "NoSuchBucket": "its bucket does not exist",
}
_NOT_ACCEPTED = ("ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken")


def is_s3(address: str) -> bool:
    """Whether an address is ``s3://bucket/key``."""
    bucket, _, key = address.removeprefix("s3://").partition("/")
    return address.startswith("s3://") and bool(bucket) and bool(key)


def fetch_images(addresses: Sequence[str], who: str) -> dict[str, Path | str]:
    """Download images into a temporary folder, which goes when the process ends.

    Args:
        addresses: ``s3://bucket/key``, without duplicates.
        who: whose images they are, for messages: ``channel train: train.manifest``.

    Returns:
        For each address the file, or the reason why there is none.

    Raises:
        UserError: nothing can be fetched at all: no credentials, refused ones, or no connection.

    """
    if not addresses:
        return {}
    named = some(map(shortened, addresses), MAX_NAMED)
    client = _client(f"{who}: {len(addresses)} images are not in the channel ({named})")
    folder = temporary_folder()
    log.info("%s: %d images are fetched from S3", who, len(addresses))
    jobs = [(address, folder / f"{number}{_suffix(address)}") for number, address in enumerate(addresses)]
    # The first one alone: what stops it for good, such as no network, would stop each of the others too.
    results: dict[str, Path | str] = {addresses[0]: _fetch(client, jobs[0][0], jobs[0][1], who)}
    told = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            rest = pool.map(lambda job: _fetch(client, job[0], job[1], who), jobs[1:])
            for address, result in zip(addresses[1:], rest, strict=True):
                results[address] = result
                if time.monotonic() - told > SECONDS_BETWEEN_LOG_LINES:
                    told = time.monotonic()
                    log.info("%s: %d of %d images fetched", who, len(results), len(addresses))
        except UserError:
            pool.shutdown(cancel_futures=True)
            raise
    log.info("%s: %d images fetched", who, sum(isinstance(one, Path) for one in results.values()))
    return results


def _client(what: str) -> Any:
    # Imported here: it takes half a second, and few jobs need it.
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    advice = "put the images beside the manifest, or give the job's role s3:GetObject for them"
    try:
        session = boto3.Session()
        if session.get_credentials() is None:
            raise UserError(
                f"{what}, and without AWS credentials (network isolation takes them away) they cannot be "
                f"fetched from S3: {advice}"
            )
        return session.client(
            "s3",
            config=Config(
                retries={"mode": "standard", "max_attempts": ATTEMPTS},
                max_pool_connections=THREADS,
                connect_timeout=10,
                read_timeout=60,
            ),
        )
    except (BotoCoreError, ValueError) as error:
        raise UserError(f"{what}, and S3 cannot be asked for them ({error}): {advice}") from None


def _fetch(client: Any, address: str, path: Path, who: str) -> Path | str:
    import botocore.exceptions as errors

    try:
        _download(client, address, path)
    except errors.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in _NOT_ACCEPTED:
            raise UserError(f"{who}: S3 does not accept the job's credentials ({code})") from None
        return f"{address} cannot be fetched: {_REASONS.get(code, error)}"
    except (errors.ConnectionError, errors.CredentialRetrievalError) as error:
        raise UserError(f"{who}: {address} cannot be fetched, S3 does not answer: {error}") from None
    except (errors.BotoCoreError, ValueError) as error:
        return f"{address} cannot be fetched: {error}"
    except OSError as error:
        raise UserError(f"{who}: {address} cannot be stored in {path.parent}: {error.strerror}") from None
    return path


def _download(client: Any, address: str, path: Path) -> None:
    """Botocore repeats a request that fails; that an answer breaks off is left to its caller."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    bucket, _, key = address.removeprefix("s3://").partition("/")
    for attempt in range(1, ATTEMPTS + 1):
        answer = _get(client, bucket, key)
        try:
            with path.open("wb") as file:
                shutil.copyfileobj(answer["Body"], file)
            return
        except (HTTPClientError, IncompleteReadError):
            if attempt == ATTEMPTS:
                raise


def _get(client: Any, bucket: str, key: str) -> Any:
    """An object by its key; where there is none, by the key that is meant if this one is URL-encoded."""
    from botocore.exceptions import ClientError

    keys = list(dict.fromkeys([key, unquote(key), unquote_plus(key)]))
    for spelling in keys[:-1]:
        try:
            return client.get_object(Bucket=bucket, Key=spelling)
        except ClientError as error:
            # Without s3:ListBucket S3 says of a missing object that access is denied.
            if error.response.get("Error", {}).get("Code", "") not in ("NoSuchKey", "AccessDenied"):
                raise
    return client.get_object(Bucket=bucket, Key=keys[-1])


def _suffix(address: str) -> str:
    suffix = PurePosixPath(address).suffix.lower()
    return suffix if suffix in IMAGE_SUFFIXES else ""
