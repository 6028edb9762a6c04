"""Snowflake: the account that a deployment in Snowpark Container Services (SPCS) runs in.

Its ingress requires a session token of Snowflake, and outputs are on stages. Both need
snowflake-connector-python, which is imported on first use.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests

from dagster_kumo.api.errors import KumoAuthenticationError, KumoConnectionError, KumoError
from dagster_kumo.api.transport import NoAuth

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection
    from snowflake.connector.cursor import SnowflakeCursor

logger = logging.getLogger("dagster_kumo")

LOGIN_TIMEOUT = 60  # seconds; the connector would try for five minutes
TOKEN_LIFETIME = 3600.0  # seconds, if Snowflake does not say
RENEW_AFTER = 0.9  # of a token's lifetime, so that no request uses one that is about to expire

_KEYS = ("user", "account", "password", "private_key", "private_key_passphrase", "host")
_CONNECTION_FAILED = range(250_000, 251_000)  # the connector's own errors of the network
_INSTALL = "A deployment in Snowflake needs snowflake-connector-python: pip install 'dagster-kumo[snowflake]'."


class SnowflakeAccount:
    """A Snowflake account and the user who logs in there.

    Args:
        credentials: `user`, `account`, and either `password` or `private_key` (PEM, with
            `private_key_passphrase` if it is encrypted); `host` where the account is not reached by
            its public name, as with a private link.

    Raises:
        ValueError: The credentials are not one of these combinations. No login is tried yet.
    """

    def __init__(self, credentials: Mapping[str, str | None]) -> None:
        self._credentials = _checked(credentials)
        self._lock = threading.Lock()
        self._shared: SnowflakeConnection | None = None
        self._connections: list[SnowflakeConnection] = []

    def __repr__(self) -> str:
        user, account = self._credentials["user"], self._credentials["account"]
        return f"SnowflakeAccount(user={user!r}, account={account!r})"

    @contextmanager
    def cursor(self) -> Generator[SnowflakeCursor, None, None]:
        """A cursor of the connection, which all threads share and which is kept alive."""
        with self._lock:
            if self._shared is None or self._shared.is_closed():
                self._shared = self.connect(client_session_keep_alive=True)
            connection = self._shared
        with connection.cursor() as cursor:
            yield cursor

    def connect(self, **options: Any) -> SnowflakeConnection:
        """Log in.

        Raises:
            KumoAuthenticationError: Snowflake refuses the user, the password or the key.
            KumoConnectionError: The account does not answer.
            KumoError: The extra `snowflake` is not installed.
            ValueError: The private key cannot be read.
        """
        try:
            from snowflake import connector
        except ImportError:
            raise KumoError(_INSTALL) from None
        parameters = _connection_parameters(self._credentials)
        with self.errors("refuses the login"):
            connection = connector.connect(**parameters, **options)
        self._connections.append(connection)
        # Registered again for each connection: the connector registers its own handler too, and the
        # last one is called first.
        atexit.unregister(self._disconnect_all)
        atexit.register(self._disconnect_all)
        return connection

    def disconnect(self, connection: SnowflakeConnection) -> None:
        """End a session. If that fails, Snowflake ends it by itself after some time."""
        self._connections.remove(connection)
        with suppress(Exception):
            connection.close()

    def _disconnect_all(self) -> None:
        for connection in list(self._connections):
            self.disconnect(connection)

    @contextmanager
    def errors(self, refuses: str) -> Generator[None, None, None]:
        """Turn the connector's errors into errors of this project, without secrets."""
        from snowflake import connector

        try:
            yield
        except connector.Error as error:
            said = self._hide_in(str(error.msg or error))
            if error.errno in _CONNECTION_FAILED:
                raise KumoConnectionError(f"{self!r} could not be reached: {said}") from None
            raise KumoAuthenticationError(
                f"Snowflake {refuses} for {self!r}: {said}\n{SessionTokenAuth.advice}",
                status_code=401,
                detail=said,
            ) from None

    def _hide_in(self, text: str) -> str:
        """`text` without the password and the key."""
        for secret in ("password", "private_key", "private_key_passphrase"):
            if self._credentials.get(secret):
                text = text.replace(self._credentials[secret], "***")
        return text


class SessionTokenAuth(NoAuth):
    """The header of SPCS: a session token, renewed before it expires and once when it is refused."""

    advice = (
        "Check the Snowflake credentials, and that the user's default role may use Kumo's service."
    )

    def __init__(self, account: SnowflakeAccount) -> None:
        self._account = account
        self._lock = threading.Lock()
        self._tokens: list[str] = []  # the last one is in force
        self._renew_at = 0.0
        self._connection: SnowflakeConnection | None = None

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        r.headers["Authorization"] = self._header()
        r.register_hook("response", self._repeat_if_refused)
        return r

    def hide_in(self, text: str) -> str:
        for token in self._tokens:
            text = text.replace(token, "***")
        return text

    def _repeat_if_refused(self, response: requests.Response, **options: Any) -> requests.Response:
        """After a 401, send the request again with a new token. A second 401 is an error.

        A request that got a 401 was not carried out, so this is safe for a launch too.
        """
        if response.status_code != 401:
            return response
        response.close()
        again = response.request.copy()
        again.headers["Authorization"] = self._header(refused=again.headers["Authorization"])
        adapter: Any = response.connection  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType] - as requests' own HTTPDigestAuth does; its stubs leave it out
        repeated: requests.Response = adapter.send(again, **options)
        repeated.history.append(response)
        repeated.request = again
        return repeated

    def _header(self, refused: str | bytes | None = None) -> str:
        """The header with the token in force, which is another one than `refused`.

        If the token is refused to many threads at once, the first one renews it for all.
        """
        with self._lock:
            if time.monotonic() >= self._renew_at or self._header_of_last() == refused:
                self._renew()
            return self._header_of_last()

    def _header_of_last(self) -> str:
        return f'Snowflake Token="{self._tokens[-1]}"'

    def _renew(self) -> None:
        connection = self._account.connect()
        with self._account.errors("issues no session token"):
            # Private, but there is no public call for a session token. Kumo's SDK makes this call too.
            # Versions 4 and 5 of the connector both have `rest`.
            issued: dict[str, Any] = connection.rest._token_request("ISSUE")["data"]  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
        lifetime = float(issued.get("validityInSecondsST") or TOKEN_LIFETIME)
        self._tokens = [*self._tokens[-1:], issued["sessionToken"]]
        self._renew_at = time.monotonic() + RENEW_AFTER * lifetime
        # The token is valid as long as its session: that session is kept, the one
        # before is not. A request still under way with the old token is repeated with the new one.
        before, self._connection = self._connection, connection
        if before is not None:
            self._account.disconnect(before)
        logger.debug("A new session token of Snowflake is in force")


def _checked(credentials: Mapping[str, str | None]) -> dict[str, str]:
    given = {name: value for name, value in credentials.items() if value}
    unknown = sorted(set(given) - set(_KEYS))
    if unknown:
        raise ValueError(
            f"Snowflake credentials have no {', '.join(unknown)}; they have {', '.join(_KEYS)}."
        )
    missing = [name for name in ("user", "account") if name not in given]
    if missing:
        raise ValueError(f"The Snowflake credentials lack {' and '.join(missing)}.")
    if ("password" in given) == ("private_key" in given):
        what = "both a password and a private_key" if "password" in given else "neither"
        raise ValueError(
            f"Snowflake credentials have either a password or a private_key; these have {what}."
        )
    if "private_key_passphrase" in given and "private_key" not in given:
        raise ValueError("A private_key_passphrase needs a private_key; it belongs to no password.")
    return given


def _connection_parameters(credentials: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of `snowflake.connector.connect`."""
    parameters: dict[str, Any] = {
        "user": credentials["user"],
        "account": credentials["account"],
        "login_timeout": LOGIN_TIMEOUT,
        "enable_server_session_keep_alive_auto_detection": False,  # otherwise version 5 warns
        # Without pyarrow: the answers to LIST and GET do not need it.
        "session_parameters": {"PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "json"},
    }
    if "password" in credentials:
        parameters["password"] = credentials["password"]
    else:
        parameters["private_key"] = _der(
            credentials["private_key"], credentials.get("private_key_passphrase")
        )
    if "host" in credentials:
        host = credentials["host"]
        address = urlsplit(host if "://" in host else f"https://{host}")
        parameters["host"] = address.hostname
        parameters["protocol"] = address.scheme
        parameters["port"] = address.port or (443 if address.scheme == "https" else 80)
    return parameters


def _der(private_key: str, passphrase: str | None) -> bytes:
    """A PEM key as the connector takes it. From an environment variable its line ends may be `\\n`."""
    from cryptography.hazmat.primitives import serialization

    pem = private_key.replace("\\n", "\n").encode()
    try:
        key = serialization.load_pem_private_key(pem, passphrase.encode() if passphrase else None)
    except (ValueError, TypeError) as error:
        encrypted = b"ENCRYPTED" in pem
        if encrypted and not passphrase:
            why = "it is encrypted: give private_key_passphrase"
        elif encrypted:
            why = "is private_key_passphrase the right one?"
        elif passphrase and isinstance(error, TypeError):
            why = "it is not encrypted: leave private_key_passphrase out"
        else:
            why = "it must begin with -----BEGIN PRIVATE KEY-----"
        raise ValueError(f"The private_key of the Snowflake user cannot be read; {why}.") from None
    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
