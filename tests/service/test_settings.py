"""Settings: every mistake names its variable, and no secret is printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.domain.errors import SettingsError
from service.settings import Settings, load_settings

GIVEN = {"DATABASE_URL": "postgresql://ann:secret@host/db", "REDIS_URL": "redis://:secret@host"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with the two variables that must be given, and none of the others."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_defaults_hang_together(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SPARSEVIT_HOME", "/srv/home")
    settings = load_settings()
    assert settings.artifact_root == Path("/srv/home/artifacts")
    assert settings.quiet_root == Path("/srv/home/artifacts/quiet")
    assert settings.data_roots == ()
    assert (settings.lease_seconds, settings.heartbeat_seconds, settings.sweep_seconds) == (
        60,
        5,
        5,
    )
    assert (settings.host, settings.port, settings.log_level) == ("127.0.0.1", 8000, "INFO")


def test_roots_are_separated_like_a_path(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATA_ROOTS", "/a:/b c:")
    environment.setenv("ARTIFACT_ROOT", "/art")
    settings = load_settings()
    assert settings.data_roots == (Path("/a"), Path("/b c"))
    assert settings.quiet_root == Path("/art/quiet")


def test_waits_are_separated_by_commas(environment: pytest.MonkeyPatch) -> None:
    assert load_settings().measure_again_seconds == (60, 300, 1200)
    environment.setenv("MEASURE_AGAIN_SECONDS", "0.5,2")
    assert load_settings().measure_again_seconds == (0.5, 2)
    environment.setenv("MEASURE_AGAIN_SECONDS", "")
    assert load_settings().measure_again_seconds == ()


def test_no_secret_is_printed() -> None:
    assert "secret" not in repr(load_settings())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", None),
        ("DATABASE_URL", "sqlite:///secret"),
        ("REDIS_URL", None),
        ("REDIS_URL", "amqp://secret"),
        ("DATA_ROOTS", "relative"),
        ("DATA_ROOTS", "/"),
        ("LEASE_SECONDS", "0"),
        ("MEASURE_AGAIN_SECONDS", "60,soon"),
        ("MEASURE_AGAIN_SECONDS", "60,0"),
        ("LEASE_SECONDS", "nan"),
        ("HEARTBEAT_SECONDS", "50"),
        ("PORT", "http"),
        ("LOG_LEVEL", "LOUD"),
    ],
)
def test_a_mistake_names_its_variable(
    environment: pytest.MonkeyPatch, name: str, value: str | None
) -> None:
    if value is None:
        environment.delenv(name)
    else:
        environment.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert name in caught.value.message
    assert "secret" not in caught.value.message
