"""Which MongoDB records are replicated to: MARL_MONGO_URI, else the embedded one when it is up."""

from __future__ import annotations

import ipaddress
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.tracking import server
from experiments.tracking.redaction import MONGO_URI, read_secret
from marlcore.config_errors import ConfigError

DATABASE = "sacred"
"""Where the URI names none; Omniboard's default."""
INSECURE = "MARL_MONGO_INSECURE"
TIMEOUT_S = 5.0
SOCKET_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Target:
    """A database."""

    uri: str
    database: str
    embedded: bool

    @property
    def name(self) -> str:
        """What a run's directory calls it; the embedded one may change its port."""
        return "the embedded MongoDB" if self.embedded else str(self)

    def __repr__(self) -> str:
        """Without secrets."""
        return f"Target({self})"

    def __str__(self) -> str:
        """Where it is, without secrets."""
        place = redacted(self.uri)
        return f"the embedded MongoDB ({place})" if self.embedded else f"MongoDB at {place}"

    def connect(self) -> Any:
        """A client; it connects when it is used.

        Raises:
            ConfigError: an option of the URI does not hold here (a file, a name server).
        """
        import pymongo

        options = {
            "appname": "marlcore",
            "serverSelectionTimeoutMS": int(TIMEOUT_S * 1000),
            "connectTimeoutMS": int(TIMEOUT_S * 1000),
            "socketTimeoutMS": int(SOCKET_TIMEOUT_S * 1000),
            "w": "majority",
            "journal": True,
        }
        with warnings.catch_warnings():  # they quote options of the URI
            warnings.simplefilter("ignore")
            try:
                return pymongo.MongoClient(self.uri, tz_aware=False, **options)
            except (pymongo.errors.PyMongoError, ValueError, TypeError, OSError) as error:
                raise ConfigError(
                    f"{self} cannot be used with the options of {MONGO_URI} "
                    f"({type(error).__name__}); correct them, or unset it"
                ) from None


def target(runs: Path) -> Target | None:
    """The database to use now; None without a URI while the embedded server is down.

    Raises:
        ConfigError: the URI is malformed, or would send a record over a network unprotected. The
            message holds no password, nor what pymongo says, which may quote a part of the URI.
    """
    uri = read_secret(MONGO_URI)
    if uri:
        return _checked(uri)
    uri = server.uri_if_up(runs)
    return Target(uri, DATABASE, embedded=True) if uri else None


def _checked(uri: str) -> Target:
    from pymongo import errors, uri_parser

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if uri.startswith("mongodb+srv://"):  # its hosts are known to the name server alone
                match = re.match(r"mongodb\+srv://(?:([^@/]+)@)?[^/?]+(?:/([^?]*))?", uri)
                if match is None:
                    raise ValueError
                user, database, hosts = match[1], match[2], [("srv", None)]
            else:
                parts = uri_parser.parse_uri(uri)
                user, database, hosts = parts["username"], parts["database"], parts["nodelist"]
    except (errors.PyMongoError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{MONGO_URI} is no MongoDB URI ({type(error).__name__}); write "
            "mongodb://USER:PASSWORD@HOST:PORT/DATABASE with special characters as %XX, or unset it"
        ) from None
    remote = [host for host, _ in hosts if not _is_loopback(host)]
    if remote and not user and os.environ.get(INSECURE) != "1":
        raise ConfigError(
            f"{MONGO_URI} names a server on another machine ({redacted(uri)}) without user and "
            "password; write mongodb://USER:PASSWORD@HOST:PORT/DATABASE, or set "
            f"{INSECURE}=1 if everybody on that network may read and delete your records"
        )
    return Target(uri, database or DATABASE, embedded=False)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def ping(target: Target) -> None:
    """Ask the server for an answer.

    Raises:
        ConfigError: it does not answer, or refuses.
    """
    from pymongo import errors

    client = target.connect()
    try:
        client[target.database].runs.find_one({}, {"_id": 1})
    except errors.OperationFailure as error:
        raise ConfigError(
            f"{target} refuses access (code {error.code}); check user, password and rights in "
            f"{MONGO_URI}"
        ) from None
    except errors.PyMongoError as error:
        raise ConfigError(
            f"{target} does not answer within {TIMEOUT_S:g} s ({type(error).__name__}); start it, "
            f"or correct {MONGO_URI}"
        ) from None
    finally:
        client.close()


def redacted(uri: str) -> str:
    """The URI without user, password and options."""
    return re.sub(r"//.*@", "//", uri.partition("?")[0])
