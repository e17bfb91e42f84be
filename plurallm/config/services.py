"""Types of ``conf/export.yaml`` and ``conf/serve.yaml``."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from plurallm.config.error import require
from plurallm.config.ranges import SECTION, Count, Positive, Text

LIMITS = (
    "max_body_bytes",
    "max_items",
    "max_options",
    "max_contexts",
    "max_context_options",
    "max_concurrency",
)
"""Keys of ``ServeConfig`` that bound what a request may ask for."""


@dataclass(frozen=True, config=SECTION)
class ExportConfig:
    """What ``plurallm export`` writes."""

    run: Text
    folder: Text
    weights: Literal["last", "best"]
    release_context: list[Text]
    context_questions: Count | None
    survey: Text | None
    layout: Literal["custom", "globalopinionqa"]
    license: Text | None


@dataclass(frozen=True, config=SECTION)
class ServeConfig:
    """How ``plurallm serve`` answers."""

    bundle: Text
    device: Text
    threads: Count | None
    measure: Text
    over_groups: Text
    alpha: float
    unparsable: float
    host: Text
    port: Annotated[int, Field(ge=0, le=65535)]
    token_file: Text | None
    tls_certificate: Text | None
    tls_key: Text | None
    allow_insecure: bool
    max_body_bytes: Count
    max_items: Count
    max_options: Count
    max_contexts: Count
    max_context_options: Count
    max_concurrency: Count
    body_timeout: Positive
    shutdown_timeout: Count

    def __post_init__(self) -> None:
        require(
            (self.tls_certificate is None) == (self.tls_key is None),
            "tls_key",
            self.tls_key,
            "given together with tls_certificate",
        )
