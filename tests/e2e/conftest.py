"""Fixtures of the tests that drive a browser."""

from support.chromium import chromium

__all__ = ["chromium"]
