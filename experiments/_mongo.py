"""The MongoDB that Sacred writes to, if MARL_MONGO_URI names one; asked before anything is made."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

from marlcore.config_errors import ConfigError

VARIABLE = "MARL_MONGO_URI"
DATABASE = "sacred"
"""Database where the URI names none (it is Omniboard's default)."""
TIMEOUT_S = 5.0


def connect() -> tuple[Any, str] | None:
    """A client that the server has answered, and the database's name; None without a URI.

    Raises:
        ConfigError: the URI is malformed, or the server does not answer or refuses. The message
            never holds the password, nor what pymongo says, which may quote a part of the URI.
    """
    uri = os.environ.get(VARIABLE)
    if not uri:
        return None
    import pymongo
    from pymongo import errors

    timeout_ms = int(TIMEOUT_S * 1000)
    try:
        with warnings.catch_warnings():  # they quote options of the URI
            warnings.simplefilter("ignore")
            client: Any = pymongo.MongoClient(
                uri, serverSelectionTimeoutMS=timeout_ms, connectTimeoutMS=timeout_ms
            )
        database = client.get_default_database(DATABASE).name
    except (errors.PyMongoError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{VARIABLE} is no MongoDB URI ({type(error).__name__}); write "
            "mongodb://USER:PASSWORD@HOST:PORT/DATABASE with special characters as %XX, or unset it"
        ) from None
    try:
        client[database].runs.find_one({}, {"_id": 1})
    except errors.OperationFailure as error:
        client.close()
        raise ConfigError(
            f"MongoDB at {redacted(uri)} refuses access (code {error.code}); check user, password "
            f"and rights in {VARIABLE}, or unset it"
        ) from None
    except errors.PyMongoError as error:
        client.close()
        raise ConfigError(
            f"MongoDB at {redacted(uri)} does not answer within {TIMEOUT_S:g} s "
            f"({type(error).__name__}); start it, correct {VARIABLE}, or unset it"
        ) from None
    return client, database


def redacted(uri: str) -> str:
    """The URI without user, password and options."""
    return re.sub(r"//.*@", "//", uri.partition("?")[0])
