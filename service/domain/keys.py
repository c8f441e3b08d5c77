"""API keys: 256 random bits that only their holder knows; the service keeps a SHA-256 of them."""

from __future__ import annotations

import hashlib
import hmac
import secrets

PREFIX = "svit_"


def new_key() -> str:
    """A fresh key: 'svit_' and 43 URL-safe characters (256 bits)."""
    return PREFIX + secrets.token_urlsafe(32)


def key_digest(key: str) -> str:
    """The form in which a key is stored: SHA-256, 64 hex digits."""
    # Lone surrogates may reach this through a header; they must not raise.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def same_digest(a: str, b: str) -> bool:
    """Compares two digests in constant time."""
    return hmac.compare_digest(a.encode("ascii"), b.encode("ascii"))
