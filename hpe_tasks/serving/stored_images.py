"""Images in S3 that a request names by their address, where the function's settings allow their prefix."""

from __future__ import annotations

from hpe_tasks.contract.s3_errors import error_code
from hpe_tasks.serving.errors import RequestError, too_large
from hpe_tasks.serving.s3 import s3_client

# Codes of S3 that the sender can do something about; an object in an archive is in an invalid state.
_REFUSED = frozenset({"AccessDenied", "NoSuchKey", "NoSuchBucket", "InvalidObjectState"})
_MAX_KEY_BYTES = 1024


def is_allowed(address: str, prefixes: tuple[str, ...]) -> bool:
    """Whether an address lies below one of the prefixes, by whole path segments: `s3://b/in` does not hold `in-2`."""
    segments = address.removeprefix("s3://").split("/")
    if not address.startswith("s3://") or len(segments) < 2 or not address.isprintable():
        return False
    if any(segment in ("", ".", "..") for segment in segments) or len(address.encode()) > _MAX_KEY_BYTES:
        return False
    return any(address.startswith(f"{prefix}/") for prefix in prefixes)


def read_stored_image(address: str, prefixes: tuple[str, ...], max_bytes: int) -> bytes:
    """Read an object.

    Args:
        address: s3://bucket/key.
        prefixes: Allowed prefixes, as s3://bucket/prefix without a slash at the end.
        max_bytes: Its size is looked at before it is downloaded.

    Raises:
        RequestError: The address is not allowed, or no such object can be read (422), or it is too large (413).
    """
    if not is_allowed(address, prefixes):
        raise RequestError(422, "image is an s3:// address that this function may not read.", hint="Send the image.")
    from botocore.exceptions import ClientError

    bucket, _, key = address.removeprefix("s3://").partition("/")
    try:
        found = s3_client().get_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error_code(error) not in _REFUSED:
            raise  # the store's trouble, not the sender's
        raise RequestError(
            422, "image is an s3:// address where no object can be read.", hint="Check bucket and key."
        ) from None
    with found["Body"] as content:
        if found["ContentLength"] > max_bytes:
            raise too_large("object", max_bytes)
        return content.read()
