"""The address and the API key of a deployment. Both are checked before anything is sent."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

_CUSTOMER = re.compile(r"[A-Za-z0-9._-]+")


def is_http_url(text: str) -> bool:
    """Whether a url can be requested over HTTP: it has a scheme, a host and a valid port."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def checked_key(key: str | None) -> str | None:
    """The key; None for a deployment that asks for none.

    Raises:
        ValueError: It cannot be a key.
    """
    if not key or not key.strip():
        return None
    if not key.isascii() or any(ord(c) <= 32 for c in key):
        # Checked here, because requests would put the key into its own message.
        raise ValueError(
            "The Kumo API key contains white space or another invalid character. "
            "Was a line break copied with it?"
        )
    return key


def url_of_customer(key: str | None) -> str:
    """The address of the deployment of the customer that a key names.

    Raises:
        ValueError: There is no key, or it names no customer.
    """
    if key is None:
        raise ValueError(
            "There is no Kumo API key: pass api_key=, or set the environment variable KUMO_API_KEY. "
            "For a deployment without keys, pass url=."
        )
    customer, separator, _ = key.partition(":")
    if not separator or not _CUSTOMER.fullmatch(customer):
        raise ValueError(
            "The address of the Kumo API is not known: the key is not of the form "
            "<customer_id>:<secret>, so pass url=, or set KUMO_API_ENDPOINT."
        )
    return f"https://{customer}.kumoai.cloud/api"


def checked_url(url: str | None) -> str:
    """The address without a slash or version at its end.

    Raises:
        ValueError: There is none, or it cannot be one.
    """
    if not url:
        raise ValueError(
            "The address of the Kumo API is not known: pass url=, or set KUMO_API_ENDPOINT. In Snowflake "
            "it is the endpoint of Kumo's service, as SHOW ENDPOINTS tells it, with its path."
        )
    url = url.strip()
    if not is_http_url(url) or re.search(r"[\s?#@]", url):
        # It is not shown: it may hold a password, or be the key in the wrong place.
        raise ValueError(
            "Not an address of a Kumo API (url= or KUMO_API_ENDPOINT). Expected something like "
            "https://<customer_id>.kumoai.cloud/api, without password and query. The key goes into api_key=."
        )
    return url.rstrip("/").removesuffix("/v1")


def with_host_of(url: str, tracking_url: str) -> str:
    """A tracking url as a browser can open it.

    The server names an internal host. It is replaced by scheme and host of the deployment's address.
    Anything but an http address is returned as it is.
    """
    if "http" not in tracking_url:
        return tracking_url
    here = urlsplit(url)
    try:
        given = urlsplit(tracking_url)
    except ValueError:
        return tracking_url
    return urlunsplit(given._replace(scheme=here.scheme, netloc=here.netloc))
