"""Settings of the service and its workers, read from the environment, checked before anything runs.

No secret has a default: DATABASE_URL and REDIS_URL must be given (`sparsevit up` gives its own).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.domain.errors import SettingsError
from service.domain.logs import LogFormat


class Settings(BaseSettings):
    """One field per environment variable, of the same name in capitals. Seconds are seconds."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", hide_input_in_errors=True, validate_default=True
    )

    database_url: str = Field(repr=False)
    redis_url: str = Field(repr=False)
    sparsevit_home: Path = Path("~/.sparsevit")
    artifact_root: Path = Path()
    quiet_root: Path = Path()
    data_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    lease_seconds: float = Field(60.0, gt=0, le=3600)
    heartbeat_seconds: float = Field(5.0, gt=0)
    sweep_seconds: float = Field(5.0, gt=0, le=600)
    slice_seconds: float = Field(600.0, gt=0, le=600)
    measure_again_seconds: Annotated[tuple[float, ...], NoDecode] = (60.0, 300.0, 1200.0)
    evaluation_cache_days: float = Field(30.0, gt=0, le=3650)
    open_jobs: int = Field(1000, ge=1, le=1_000_000)
    open_streams: int = Field(100, ge=1, le=1_000_000)
    evaluation_cache_mb: float = Field(1024.0, gt=0, le=2**20)
    device_memory_mb: float | None = Field(None, gt=0, le=2**30)
    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8000, ge=0, le=65535)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: LogFormat = "text"

    @model_validator(mode="before")
    @classmethod
    def _folders_of_home(cls, values: dict[str, object]) -> dict[str, object]:
        """Folders that are not given lie in SPARSEVIT_HOME, the quiet one in ARTIFACT_ROOT."""
        home = Path(str(values.get("sparsevit_home") or "~/.sparsevit")).expanduser()
        artifacts = Path(str(values.get("artifact_root") or home / "artifacts")).expanduser()
        quiet = Path(str(values.get("quiet_root") or artifacts / "quiet")).expanduser()
        folders = {"sparsevit_home": home, "artifact_root": artifacts, "quiet_root": quiet}
        return {**values, **folders}

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: str) -> str:
        if not value.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
            raise ValueError("must start with postgresql:// (no other database is supported)")
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: str) -> str:
        if not value.startswith(("redis://", "rediss://")):
            raise ValueError("must start with redis:// or rediss://")
        return value

    @field_validator("data_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: object) -> object:
        """':' separates folders, as in PATH."""
        if isinstance(value, str):
            return tuple(part for part in value.split(":") if part)
        return value

    @field_validator("measure_again_seconds", mode="before")
    @classmethod
    def _split_seconds(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part for part in value.split(",") if part)
        return value

    @field_validator("measure_again_seconds")
    @classmethod
    def _within_a_day(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < seconds <= 86400 for seconds in value):
            raise ValueError("give seconds joined by commas, each above 0 and at most 86400")
        return value

    @field_validator("data_roots")
    @classmethod
    def _narrow_roots(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in roots:
            if not root.is_absolute() or root == Path("/"):
                raise ValueError("every folder must be an absolute path, and not / itself")
        return roots

    @field_validator("log_level", mode="before")
    @classmethod
    def _capitals(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("log_format", mode="before")
    @classmethod
    def _small_letters(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> Self:
        if self.heartbeat_seconds > self.lease_seconds / 2:
            raise ValueError("HEARTBEAT_SECONDS must be at most half of LEASE_SECONDS")
        return self


def load_settings() -> Settings:
    """Reads the environment.

    Raises:
        SettingsError: naming every variable that is missing or cannot be used.
    """
    try:
        return Settings()  # type: ignore[call-arg]  # pydantic-settings reads the environment
    except ValidationError as error:
        lines = [_line(detail) for detail in error.errors(include_url=False, include_input=False)]
        raise SettingsError("\n".join(lines)) from None


def _line(detail: ErrorDetails) -> str:
    """One finding as 'VARIABLE: what to do'."""
    message = detail["msg"].removeprefix("Value error, ")
    name = str(detail["loc"][0]).upper() if detail["loc"] else ""
    if detail["type"] == "missing":
        return f"{name} is not set: {_HOW[name]}"
    return f"{name}: {message}" if name else message


_HOW = {
    "DATABASE_URL": "give a Postgres URL (postgresql://user:password@host/name), "
    "or run `sparsevit up`, which brings its own Postgres",
    "REDIS_URL": "give a Redis URL (redis://host:6379/0), "
    "or run `sparsevit up`, which brings its own Redis",
}
