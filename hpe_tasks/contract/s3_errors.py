"""What S3 answers when it does not do what it was asked."""

from __future__ import annotations


def error_code(error: Exception) -> str:
    """The code of a botocore ClientError, such as `NoSuchKey`, `304` or `412`; empty for other errors."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
