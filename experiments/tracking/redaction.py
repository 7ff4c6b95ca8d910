"""Secrets: where they may come from, and how they are kept out of every record.

They come from the environment, or from a file of mode 600 that VARIABLE_FILE names; never from the
configuration. What is written (output, tracebacks, provenance, events) goes through `redact`.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_plus

from marlcore.config_errors import ConfigError

MARK = "[redacted]"
MONGO_URI = "MARL_MONGO_URI"
WANDB_KEY = "WANDB_API_KEY"
OPTUNA_URL = "MARL_OPTUNA_URL"

_SHORTEST = 6
"""A shorter text would be found by chance, in words and numbers."""
_SECRET = {
    *("PASSWORD", "PASSWD", "PASSPHRASE", "PASS", "PWD", "PAT"),
    *("SECRET", "SECRETS", "TOKEN", "CREDENTIAL", "CREDENTIALS"),
}
_OF_KEYS = {"API", "ACCESS", "PRIVATE", "SECRET", "AUTH", "ENCRYPTION", "SIGNING", "CLIENT"}
_PLACES = {"FILE", "PATH", "DIR", "URL", "NAME"}
_NO_SECRETS = {"PWD", "OLDPWD"}
"""Names of directories."""
_USER_IN_URI = re.compile(r"://[^/\s@:]*:([^/\s@]+)@")


def read_secret(variable: str) -> str | None:
    """The value of an environment variable, or of the file that VARIABLE_FILE names.

    Raises:
        ConfigError: the file cannot be read, or others may read it.
    """
    value, place = os.environ.get(variable), os.environ.get(f"{variable}_FILE")
    if value:
        return value
    if not place:
        return None
    try:
        mode = stat.S_IMODE(os.stat(place).st_mode)
        text = Path(place).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{variable}_FILE={place} cannot be read ({type(error).__name__}); correct it, or "
            "unset it"
        ) from None
    if mode & 0o077:
        raise ConfigError(
            f"{variable}_FILE={place} may be read by others (mode {mode:o}); run: chmod 600 {place}"
        )
    return text or None


def environment_elsewhere() -> dict[str, str]:
    """The environment for a process that runs in another directory: paths of secrets hold there."""
    names = [*(f"{name}_FILE" for name in (MONGO_URI, WANDB_KEY, OPTUNA_URL)), "NETRC"]
    paths = {name: str(Path(os.environ[name]).resolve()) for name in names if os.environ.get(name)}
    return {**os.environ, **paths}


def secrets() -> list[str]:
    """All texts that no record may hold, longest first."""
    found: set[str] = set()
    for variable in (MONGO_URI, WANDB_KEY, OPTUNA_URL):
        try:
            found.add(read_secret(variable) or "")
        except ConfigError:  # said where the secret is used
            continue
    found |= {value for name, value in os.environ.items() if _is_secret_name(name)}
    for text in (*found, *os.environ.values()):
        found |= _passwords(text)
    for text in tuple(found):  # as they look in a traceback or in JSON
        found |= {
            repr(text)[1:-1],
            json.dumps(text)[1:-1],
            json.dumps(text, ensure_ascii=False)[1:-1],
        }
    return sorted((text for text in found if len(text) >= _SHORTEST), key=len, reverse=True)


def _passwords(text: str) -> set[str]:
    """The password of a URI, as it stands and as programs decode it."""
    _, scheme, rest = text.partition("://")
    user, at, _ = rest.rpartition("@")
    password = user.partition(":")[2]
    if not scheme or not at or not password:
        return set()
    return {password, unquote(password), unquote_plus(password)}


def redact_known(text: str) -> str:
    """The text without the secrets that are known; for code, where a URI may be an example."""
    for secret in secrets():
        text = text.replace(secret, MARK)
    return text


def redact(text: str) -> str:
    """The text without secrets that are known, nor passwords in a URI."""
    return _redact(text, secrets())


def _redact(text: str, known: list[str]) -> str:
    for secret in known:
        text = text.replace(secret, MARK)
    return _USER_IN_URI.sub(_without_password, text)


def _without_password(match: re.Match[str]) -> str:
    return match[0].replace(f":{match[1]}@", f":{MARK}@")


def redact_all(value: Any) -> Any:
    """Plain data without secrets in any of its texts."""
    return _redact_all(value, secrets())


def _redact_all(value: Any, known: list[str]) -> Any:
    if isinstance(value, str):
        return _redact(value, known)
    if isinstance(value, Mapping):
        return {_redact(str(n), known): _redact_all(item, known) for n, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redact_all(item, known) for item in value]
    return value


class RedactedStream:
    """Redacts text that arrives in pieces; holds back an end that may begin a secret."""

    def __init__(self) -> None:
        self._held = ""
        self._secrets: list[str] = []
        self._read = (-math.inf, 0)

    def feed(self, text: str) -> str:
        """What can be written now."""
        text = self._held + text
        self._held = ""
        self._look_again()
        for secret in self._secrets:
            text = text.replace(secret, MARK)
        text = _USER_IN_URI.sub(_without_password, text)
        start = min((self._begun(text, secret) for secret in self._secrets), default=len(text))
        self._held = text[start:]
        return text[:start]

    def rest(self) -> str:
        """What was held back and turned out to be no secret."""
        held, self._held = self._held, ""
        return held

    def _look_again(self) -> None:
        """Find secrets that came into the environment since; not for every line of many."""
        moment, number = self._read
        if time.monotonic() - moment > 1.0 or len(os.environ) != number:
            self._secrets = secrets()
            self._read = (time.monotonic(), len(os.environ))

    @staticmethod
    def _begun(text: str, secret: str) -> int:
        """Where the longest end of `text` starts that is a beginning of `secret`."""
        for length in range(min(len(secret) - 1, len(text)), 0, -1):
            if text.endswith(secret[:length]):
                return len(text) - length
        return len(text)


def refuse_in_config(values: Mapping[str, Any]) -> None:
    """Refuse a configuration that holds a secret, without repeating it.

    Args:
        values: by dotted keys.

    Raises:
        ConfigError: a key is named like a secret, or a value is or holds one.
    """
    known = secrets()
    for key, value in values.items():
        if any(_is_secret(name, text, known) for name, text in _texts(key, value)):
            raise ConfigError(
                f"{key} holds a secret, and the configuration is recorded; leave it out and let "
                "the program that needs it read an environment variable or a file of mode 600"
            )


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """(Name, text) of everything in a value; numbers are no secrets."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(name, item)
    elif isinstance(value, str) and value:
        yield name, value


def _is_secret(name: str, text: str, known: list[str]) -> bool:
    named = any(_is_secret_name(part) for part in name.split("."))
    return named or bool(_USER_IN_URI.search(text)) or any(secret in text for secret in known)


def _is_secret_name(name: str) -> bool:
    if name in _NO_SECRETS:
        return False
    parts = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).upper().replace("-", "_").split("_")
    words = {part.rstrip("0123456789") for part in parts}
    words |= {"API", "KEY"} if "APIKEY" in words else set()
    if words & _PLACES:
        return False
    return bool(words & _SECRET) or ("KEY" in words and bool(words & _OF_KEYS))
