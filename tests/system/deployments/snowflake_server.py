"""As much of a Snowflake account as the real connector needs to log in, issue tokens, LIST and GET.

The files of its stage are encrypted for the client, as Snowflake does unless told otherwise, and come
over HTTP from the same port.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

PASSWORD = "pa55-0f-the-user"
USER, ACCOUNT = "DAGSTER", "myorg-acme"
STAGE = "KUMO_APP.USER_SCHEMA.OUTPUTS"


class SnowflakeServer:
    """Start with `with SnowflakeServer() as snowflake:`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.token_lifetime = 3600.0
        self.public_key: RSAPublicKey | None = None
        self.tokens: list[str] = []
        self.revoked: set[str] = set()
        self.statements: list[str] = []
        self.logins = 0
        self.down = False
        self._expires: dict[str, float] = {}
        self._encrypted: dict[str, tuple[bytes, dict[str, str], dict[str, Any]]] = {}
        handler = type("Handler", (_Handler,), {"account": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> SnowflakeServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def credentials(self) -> dict[str, str]:
        return {"user": USER, "account": ACCOUNT, "password": PASSWORD, "host": self.origin}

    def put(self, path: str, content: bytes) -> None:
        self.files[path] = content

    def forget(self, path: str) -> None:
        """Let a file that was put once more be another one in the storage too."""
        self._encrypted.pop(path, None)

    def accepts(self, authorization: str) -> bool:
        """Whether a header opens a service of the account: a token that was issued and still lives."""
        match = re.fullmatch(r'Snowflake Token="(.+)"', authorization)
        if match is None or match[1] in self.revoked:
            return False
        return self._expires.get(match[1], 0) > time.monotonic()

    def revoke(self) -> None:
        """Make every token so far worthless, as when the session ends in Snowflake."""
        self.revoked |= set(self.tokens)

    def log_in(self, data: dict[str, Any]) -> dict[str, Any]:
        if data["LOGIN_NAME"] != USER or not self._proves(data):
            return _refusal("390100", "Incorrect username or password was specified.")
        self.logins += 1
        session = {"databaseName": None, "schemaName": None, "warehouseName": None}
        return {
            "token": f"session-{secrets.token_hex(8)}",
            "masterToken": f"master-{secrets.token_hex(8)}",
            "validityInSeconds": 3600,
            "masterValidityInSeconds": 14400,
            "parameters": [{"name": "CLIENT_TELEMETRY_ENABLED", "value": False}],
            "sessionId": self.logins,
            "sessionInfo": {**session, "roleName": "KUMO_USER"},
            "serverVersion": "9.0.0",
            "displayUserName": USER,
            "firstLogin": False,
        }

    def issue(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["requestType"] == "ISSUE"
        token = f"issued-{secrets.token_hex(12)}"
        self.tokens.append(token)
        self._expires[token] = time.monotonic() + self.token_lifetime
        lifetime = {"validityInSecondsST": self.token_lifetime, "validityInSecondsMT": 14400}
        if self.token_lifetime >= 1:
            lifetime = {name: int(value) for name, value in lifetime.items()}
        return {"sessionToken": token, "sessionId": 1000 + len(self.tokens), **lifetime}

    def run(self, sql: str) -> dict[str, Any]:
        self.statements.append(sql)
        if match := re.fullmatch(r"LIST '@([^/']+)/?([^']*)'", sql):
            return self._list(match[1], match[2])
        if match := re.fullmatch(r"GET '@([^/']+)/([^']+)' 'file://([^']+)'", sql):
            return self._get(match[1], match[2], match[3])
        return _refusal("001003", "SQL compilation error: syntax error")

    def encrypted(self, path: str) -> tuple[bytes, dict[str, str], dict[str, Any]]:
        """A file as it lies in the storage below: content, headers, and what opens it."""
        if path not in self._encrypted:
            self._encrypted[path] = _encrypt(self.files[path])
        return self._encrypted[path]

    def _proves(self, data: dict[str, Any]) -> bool:
        if self.public_key is None:
            return data.get("PASSWORD") == PASSWORD
        signed, _, signature = data["TOKEN"].rpartition(".")
        self.public_key.verify(
            _unpadded(signature), signed.encode(), rsa_padding.PKCS1v15(), hashes.SHA256()
        )
        claims = json.loads(_unpadded(signed.split(".")[1]))
        return claims["sub"] == f"{ACCOUNT.upper()}.{USER}"

    def _list(self, stage: str, path: str) -> dict[str, Any]:
        if stage != STAGE:
            return _refusal("002003", f"Stage '{stage}' does not exist or not authorized.")
        columns = [("name", "text"), ("size", "fixed"), ("md5", "text"), ("last_modified", "text")]
        rows = [
            [f"outputs/{name}", str(len(self.encrypted(name)[0])), "0f", "Tue, 24 Nov 2026"]
            for name in reversed(self.files)
            if name.startswith(path)
        ]
        return {
            "parameters": [],
            "rowtype": [_column(name, kind) for name, kind in columns],
            "rowset": rows,
            "total": len(rows),
            "returned": len(rows),
            "queryId": "01-list",
            "queryResultFormat": "json",
            "statementTypeId": 24576,
            "finalRoleName": "KUMO_USER",
            "numberOfBinds": 0,
            "arrayBindSupported": False,
            "version": 1,
            "sqlState": "00000",
        }

    def _get(self, stage: str, path: str, folder: str) -> dict[str, Any]:
        if stage != STAGE:
            return _refusal("002003", f"Stage '{stage}' does not exist or not authorized.")
        names = [name for name in self.files if name.startswith(path)]
        stored = [self.encrypted(name) for name in names]
        return {
            "src_locations": names,
            "encryptionMaterial": [material for _, _, material in stored],
            "presignedUrls": [f"{self.origin}/storage/{name}" for name in names],
            "localLocation": folder,
            "command": "DOWNLOAD",
            "operation": "Node",
            "autoCompress": False,
            "overwrite": True,
            "parallel": 4,
            "threshold": 209715200,
            "sourceCompression": "none",
            "statementTypeId": 24832,
            "queryId": "01-get",
            "stageInfo": {
                "locationType": "GCS",
                "location": "bucket/",
                "path": "",
                "region": "US",
                "storageAccount": None,
                "isClientSideEncrypted": True,
                "creds": {},
                "presignedUrl": None,
                "endPoint": None,
            },
        }


class _Handler(BaseHTTPRequestHandler):
    account: SnowflakeServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        path = urlsplit(self.path).path
        if self.account.down:
            self.close_connection = True
            return None
        if path == "/session/v1/login-request":
            data = self.account.log_in(json.loads(content)["data"])
        elif path == "/session/token-request":
            data = self.account.issue(json.loads(content))
        elif path == "/queries/v1/query-request":
            data = self.account.run(json.loads(content)["sqlText"])
        else:  # the end of a session, telemetry
            data = {}
        answer = {"data": data, "success": True, "code": None, "message": None}
        if "refusal" in data:
            answer = data["refusal"]
        return self._bytes(json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def do_GET(self) -> None:
        stored, headers, _ = self.account.encrypted(
            unquote(urlsplit(self.path).path).removeprefix("/storage/")
        )
        self._bytes(stored, headers)

    do_HEAD = do_GET  # noqa: N815

    def _bytes(self, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


def _encrypt(content: bytes) -> tuple[bytes, dict[str, str], dict[str, Any]]:
    """Encrypt a file for the client: a key of its own, wrapped by the stage's."""
    stage_key, file_key, iv = os.urandom(16), os.urandom(16), os.urandom(16)
    wrapped = _aes(stage_key, modes.ECB(), file_key)
    data = {
        "EncryptionMode": "FullBlob",
        "WrappedContentKey": {
            "KeyId": "symmKey1",
            "EncryptedKey": base64.b64encode(wrapped).decode(),
            "Algorithm": "AES_CBC_128",
        },
        "EncryptionAgent": {"Protocol": "1.0", "EncryptionAlgorithm": "AES_CBC_128"},
        "ContentEncryptionIV": base64.b64encode(iv).decode(),
        "KeyWrappingMetadata": {"EncryptionLibrary": "Java 5.3.0"},
    }
    description = {"queryId": "01-put", "smkId": "1", "keySize": "128"}
    headers = {
        "x-goog-meta-encryptiondata": json.dumps(data),
        "x-goog-meta-matdesc": json.dumps(description),
    }
    material = {
        "queryStageMasterKey": base64.b64encode(stage_key).decode(),
        "queryId": "01-put",
        "smkId": "1",
    }
    return _aes(file_key, modes.CBC(iv), content), headers, material


def _aes(key: bytes, mode: modes.Mode, content: bytes) -> bytes:
    pad = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(key), mode).encryptor()
    return encryptor.update(pad.update(content) + pad.finalize()) + encryptor.finalize()


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _refusal(code: str, message: str) -> dict[str, Any]:
    data = {"errorCode": code, "sqlState": "02000", "queryId": "01-refused"}
    return {"refusal": {"data": data, "code": code, "message": message, "success": False}}


def _column(name: str, kind: str) -> dict[str, Any]:
    number = (
        {"precision": 38, "scale": 0} if kind == "fixed" else {"precision": None, "scale": None}
    )
    text = {"length": 100, "byteLength": 100}
    return {"name": name, "type": kind, "nullable": True, "table": "", **number, **text}
