"""Secrets are kept out of every record."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.tracking import redaction
from experiments.tracking.redaction import (
    RedactedStream,
    read_secret,
    redact,
    redact_all,
    refuse_in_config,
)
from marlcore.config_errors import ConfigError


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARL_MONGO_URI", "mongodb://user:p%40ss-canary@host:1/db")
    monkeypatch.setenv("WANDB_API_KEY", "wandb-canary-0123456789")
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "token-canary")
    monkeypatch.setenv("DB_PASS2", "quo'te\\canary")
    monkeypatch.setenv("DATABASE_URL", "postgres://me:spaced+canary@host/db")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "disabled")
    monkeypatch.setenv("AWS_TOKEN_FILE", "/home/me/token")


@pytest.mark.parametrize(
    "secret",
    [
        "p%40ss-canary",
        "p@ss-canary",
        "mongodb://user:p%40ss-canary@host:1/db",
        "wandb-canary-0123456789",
        "token-canary",
        "quo'te\\canary",
        repr("quo'te\\canary"),
        "spaced canary",
    ],
)
def test_a_secret_is_marked(secret: str) -> None:
    assert "canary" not in redact(f"before {secret} after")
    assert redact(f"before {secret} after").startswith("before ")


@pytest.mark.parametrize("text", ["disabled", "/home/me/token", "", "user", "a canary sings"])
def test_other_texts_stay(text: str) -> None:
    assert redact(text) == text


def test_a_password_in_any_uri_is_marked() -> None:
    assert redact("postgres://me:other-secret@db/x") == "postgres://me:[redacted]@db/x"


def test_plain_data_is_redacted_at_every_depth() -> None:
    data = {"a": ["token-canary", {"b": ("token-canary", 1, None)}], "token-canary": True}
    assert "canary" not in repr(redact_all(data))


@given(pieces=st.lists(st.sampled_from(["token-", "canary", "tok", "en-canary", "x", "\n", "t"])))
def test_a_secret_in_pieces_is_marked(pieces: list[str]) -> None:
    stream = RedactedStream()
    output = "".join(stream.feed(piece) for piece in pieces) + stream.rest()
    assert output == "".join(pieces).replace("token-canary", redaction.MARK)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("env.factory_kwargs.api_key", "anything"),
        ("env.factory_kwargs.apiKey", "anything"),
        ("env.factory_kwargs.password", "anything"),
        ("env.factory_kwargs.x", "token-canary"),
        ("env.factory_kwargs.x", ["a", {"b": "wandb-canary-0123456789"}]),
        ("logging.wandb_project", "http://me:hushhush@host"),
        ("env.factory_kwargs.x", [{"password": "anything"}]),
        ("env.factory_kwargs.credentials.value", "anything"),
        ("env.factory_kwargs.x", "redis://:hushhush@host"),
    ],
)
def test_a_configuration_with_a_secret_is_refused_without_repeating_it(
    key: str, value: object
) -> None:
    with pytest.raises(ConfigError, match="holds a secret") as caught:
        refuse_in_config({"seed": 1, key: value})
    assert str(caught.value).startswith(key)
    assert not any(part in str(caught.value) for part in ("canary", "hush", "anything"))


def test_a_configuration_without_secrets_is_taken() -> None:
    values = {"seed": 1, "policy.share_policy": True, "env.factory_kwargs.token": None}
    assert refuse_in_config(values) is None
    assert refuse_in_config({"env.factory_kwargs": {"num_pass": 2, "token_dim": 64}}) is None


def test_a_secret_comes_from_a_file_that_nobody_else_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    path = tmp_path / "key"
    path.write_text("file-canary-123\n")
    monkeypatch.setenv("WANDB_API_KEY_FILE", str(path))
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_secret("WANDB_API_KEY")
    path.chmod(0o600)
    assert read_secret("WANDB_API_KEY") == "file-canary-123"
    assert "canary" not in redact("the key is file-canary-123")
    path.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secret("WANDB_API_KEY")
