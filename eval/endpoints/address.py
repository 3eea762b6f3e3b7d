"""What is known of a server before it is asked."""

from urllib.parse import urlsplit, urlunsplit

from surgery.console.errors import RefusalError

BASE_URL = "https://api.openai.com/v1"
KEY_ENV = "OPENAI_API_KEY"
CONCURRENCY = 128
"""Requests in flight at each server that answers prompts, where a user says nothing else."""


def checked_urls(urls: list[str], whose: str, error: type[RefusalError]) -> list[str]:
    """Different addresses, as they are kept.

    Args:
        whose: how the message names them: an option, or "judge base URL".
    Raises: `error` when one is no address, holds credentials or is given twice.
    """
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise error(f"{whose} {public_url(url)!r}: expected http(s)://host[:port]/v1")
        if "@" in parts.netloc:
            raise error(f"{whose}: a user or password in an address would be written down; put the key into a variable")
    if not urls or len({public_url(url) for url in urls}) != len(urls):
        raise error(f"{whose}: expected different addresses, found one given twice, or none")
    return [url.rstrip("/") for url in urls]


def public_url(url: str) -> str:
    """The address without user, password, query or fragment, as it may be shown and recorded."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, host + (f":{parts.port}" if parts.port else ""), parts.path.rstrip("/"), "", ""))
