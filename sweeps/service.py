"""A study in an SQLite file for workers on other machines: the launcher serves it.

    POST /CALL    {"at": seconds since 1970, "arguments": {..}}  ->  {"result": ..} or {"error": ..}

The address and a secret lie in the study's directory, which workers share, readable by its owner
alone. The secret signs each call (HMAC-SHA256 of the path and the body) and never crosses the
network. A launcher that was killed and started again has another address and another secret:
workers wait for it.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import math
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from experiments.tracking.spool import read_json
from marlcore.config_errors import ConfigError
from marlcore.durable import write_whole
from sweeps.definition import Definition
from sweeps.ledger import Owner, Unit
from sweeps.study import HopelessError, Study

ADDRESS = "service.json"
_SIGNATURE = "X-Marl-Signature"
_OLDEST_S = 600.0
"""A call that was signed longer ago is refused; clocks differ, and calls may be recorded."""
_MOST_BYTES = 1_000_000
_CALLS = ("claim", "renew", "finish", "release", "report", "params")
_TIMEOUT_S = 150.0
"""A call may wait for the database."""


class RemoteStudy:
    """A study that the launcher serves. A Shared."""

    def __init__(self, definition: Definition, folder: Path, key: str) -> None:
        self.definition, self.sweep = definition, definition.sweep
        self._path = folder / ADDRESS
        self.key = key

    def claim(self, owner: Owner) -> Unit | str | None:
        """See Study."""
        found = self._call("claim", owner=owner.text)
        return _unit(found)

    def renew(self, unit: Unit, *, run: str | None = None) -> Unit | None:
        """See Study."""
        return _unit(self._call("renew", unit=asdict(unit), run=run))  # type: ignore[return-value]

    def finish(
        self, unit: Unit, state: str, *, score: float | None = None, error: str | None = None
    ) -> bool:
        """See Study."""
        if score is not None and not math.isfinite(score):
            score, error = None, f"the objective is {score}"  # JSON has no such number
        arguments = {"unit": asdict(unit), "state": state, "score": score, "error": error}
        return bool(self._call("finish", **arguments))

    def release(self, unit: Unit, *, was_killed: str | None = None) -> bool:
        """See Study."""
        return bool(self._call("release", unit=asdict(unit), was_killed=was_killed))

    def report(self, unit: Unit, point: int, value: float) -> bool:
        """See Study."""
        if not math.isfinite(value):
            return False
        return bool(self._call("report", unit=asdict(unit), point=point, value=value))

    def params(self, trial: int) -> dict[str, Any]:
        """See Study."""
        return dict(self._call("params", trial=trial))

    def close(self) -> None:
        """Do nothing: every call has a connection of its own."""

    def _call(self, name: str, **arguments: Any) -> Any:
        place = read_json(self._path, {})
        try:
            host, port, secret = place["host"], int(place["port"]), str(place["secret"])
        except (KeyError, TypeError, ValueError):
            raise ConnectionError(f"{self._path} does not say where the launcher is") from None
        body = json.dumps({"at": time.time(), "arguments": arguments}, allow_nan=False).encode()
        connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        try:
            headers = {_SIGNATURE: _sign(secret, name, body)}
            connection.request("POST", f"/{name}", body, headers)
            answer = connection.getresponse()
            text = answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from None
        finally:
            connection.close()
        if answer.status != 200:
            raise ConnectionError(f"the launcher answers {answer.status} {answer.reason}")
        document = json.loads(text)
        if "hopeless" in document:
            raise HopelessError(document["hopeless"])
        return document["result"]


@contextmanager
def serving(study: Study, folder: Path, host: str) -> Iterator[None]:
    """Serve a study on an address of this machine while the context lasts.

    Raises:
        ConfigError: that is no address of this machine.
    """
    secret = secrets.token_urlsafe(32)
    handler = type("Handler", (_Handler,), {"study": study, "secret": secret})
    try:
        server = ThreadingHTTPServer((host, 0), handler)
    except OSError as error:
        raise ConfigError(
            f"--serve {host}: {error.strerror or error}; give a name or an address of this machine "
            "that the nodes reach"
        ) from None
    server.daemon_threads = True
    place = {"host": host, "port": server.server_port, "secret": secret}
    write_whole(folder / ADDRESS, json.dumps(place) + "\n", mode=0o600)
    thread = threading.Thread(target=server.serve_forever, name="service", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        (folder / ADDRESS).unlink(missing_ok=True)


class _Handler(BaseHTTPRequestHandler):
    study: Study
    secret: str
    timeout = 60

    def do_POST(self) -> None:
        """Answer one call."""
        name = self.path.removeprefix("/")
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            length = -1
        if not 0 <= length <= _MOST_BYTES:
            self.send_error(413)
            return
        body = self.rfile.read(length)
        signature = self.headers.get(_SIGNATURE, "")
        if not hmac.compare_digest(signature.encode(), _sign(self.secret, name, body).encode()):
            self.send_error(401)
            return
        document = json.loads(body)
        if name not in _CALLS or abs(time.time() - document["at"]) > _OLDEST_S:
            self.send_error(403)
            return
        try:
            answer = {"result": self._answer(name, document["arguments"])}
        except HopelessError as error:
            answer = {"hopeless": str(error)}
        except Exception as error:  # the worker tries again
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            self.send_error(503)
            return
        self._send(answer)

    def _answer(self, name: str, arguments: dict[str, Any]) -> Any:
        if name == "claim":
            found = self.study.claim(Owner.read(arguments["owner"]))
            return asdict(found) if isinstance(found, Unit) else found
        if "unit" in arguments:
            arguments["unit"] = Unit(**arguments["unit"])
        found = getattr(self.study, name)(**arguments)
        return asdict(found) if isinstance(found, Unit) else found

    def _send(self, answer: dict[str, Any]) -> None:
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing of every call."""


def _sign(secret: str, name: str, body: bytes) -> str:
    return hmac.new(secret.encode(), name.encode() + b"\n" + body, hashlib.sha256).hexdigest()


def _unit(found: Any) -> Any:
    return Unit(**found) if isinstance(found, dict) else found
