"""A study in an SQLite file for workers on other machines: the launcher serves it.

    POST /CALL  {"at": seconds since 1970, "nonce": "..", "arguments": {..}}
             -> {"result": ..} or {"hopeless": ".."}

The address and a secret lie in the study's directory, which workers share, readable by its owner
alone. The secret signs each call and its answer (HMAC-SHA256) and never crosses the network; a call
that is repeated is refused. A launcher that was killed and started again has another address and
another secret: workers wait for it. When the study is complete the file says so, and workers end.
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
from sweeps.ledger import LeaseLostError, Owner, Unit
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
        return _unit(self._call("claim", owner=owner.text))

    def renew(self, unit: Unit, *, run: str | None = None) -> Unit | None:
        """See Study."""
        return _unit(self._call("renew", unit=asdict(unit), run=run))

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
        """See Study.

        Raises:
            LeaseLostError: the study is complete, and nobody needs the trial any more.
        """
        found = self._call("params", trial=trial)
        if found is None:
            raise LeaseLostError
        return dict(found)

    def close(self) -> None:
        """Do nothing: every call has a connection of its own."""

    def _call(self, name: str, **arguments: Any) -> Any:
        """The answer; None if the study is complete and not served any more.

        Raises:
            ConnectionError: the launcher is not there; it may come back.
            ConfigError: it refuses this worker.
        """
        place = read_json(self._path, {})
        if place.get("is_complete"):
            return None
        try:
            host, port, secret = place["host"], int(place["port"]), str(place["secret"])
        except (KeyError, TypeError, ValueError):
            raise ConnectionError(f"{self._path} does not say where the launcher is") from None
        call = {"at": time.time(), "nonce": secrets.token_hex(8), "arguments": arguments}
        body = json.dumps(call, allow_nan=False).encode()
        signature = _sign(secret, name, body)
        status, text, signed = _post(host, port, f"/{name}", body, signature)
        if status in _REFUSED and read_json(self._path, {}) == place:
            raise ConfigError(
                f"the launcher refuses this worker ({status}); see {_REFUSED[status]}"
            )
        if status != 200 or not hmac.compare_digest(signed, _sign(secret, signature, text)):
            raise ConnectionError(f"the launcher answers {status}, or another program does")
        document = json.loads(text)
        if "hopeless" in document:
            raise HopelessError(document["hopeless"])
        return document["result"]


_REFUSED = {401: "service.json", 403: "the clocks of both machines", 413: "service.py"}
"""By status: where the reason is to be looked for."""


def _post(host: str, port: int, path: str, body: bytes, signature: str) -> tuple[int, bytes, str]:
    """Status, body and signature of the answer."""
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("POST", path, body, {_SIGNATURE: signature})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers.get(_SIGNATURE, "")
    except http.client.HTTPException as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from None
    finally:
        connection.close()


@contextmanager
def serving(study: Study, folder: Path, host: str) -> Iterator[None]:
    """Serve a study on an address of this machine while the context lasts.

    Raises:
        ConfigError: that is no address of this machine, or means all of them.
    """
    secret = secrets.token_urlsafe(32)
    handler = type("Handler", (_Handler,), {"study": study, "secret": secret, "seen": {}})
    try:
        server = ThreadingHTTPServer((host, 0), handler)
    except OSError as error:
        raise ConfigError(f"--serve {host}: {error.strerror or error}; {_ADDRESS}") from None
    if server.server_address[0] in ("0.0.0.0", "::"):
        server.server_close()
        raise ConfigError(f"--serve {host!r} means every address; {_ADDRESS}")
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
        if study.is_complete():
            write_whole(folder / ADDRESS, json.dumps({"is_complete": True}) + "\n", mode=0o600)
        else:
            (folder / ADDRESS).unlink(missing_ok=True)


_ADDRESS = "give a name or an address of this machine that the nodes reach"


class _Handler(BaseHTTPRequestHandler):
    study: Study
    secret: str
    seen: dict[str, float]
    """Signatures of calls, and when they came."""
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
        if name not in _CALLS or not self._is_new(signature, document["at"]):
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
        self._send(answer, signature)

    def _is_new(self, signature: str, at: float) -> bool:
        """Whether a call was signed just now, and came for the first time."""
        now = time.time()
        for old in [one for one, came in list(self.seen.items()) if now - came > 2 * _OLDEST_S]:
            self.seen.pop(old, None)
        return abs(now - at) < _OLDEST_S and self.seen.setdefault(signature, now) == now

    def _answer(self, name: str, arguments: dict[str, Any]) -> Any:
        if name == "claim":
            found = self.study.claim(Owner.read(arguments["owner"]))
            return asdict(found) if isinstance(found, Unit) else found
        if "unit" in arguments:
            arguments["unit"] = Unit(**arguments["unit"])
        found = getattr(self.study, name)(**arguments)
        return asdict(found) if isinstance(found, Unit) else found

    def _send(self, answer: dict[str, Any], signature: str) -> None:
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header(_SIGNATURE, _sign(self.secret, signature, text))
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
