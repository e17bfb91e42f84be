"""Types of ``conf/export.yaml`` and ``conf/serve.yaml``."""

from dataclasses import dataclass

from plurallm.config.error import require

LIMITS = (
    "max_body_bytes",
    "max_items",
    "max_options",
    "max_contexts",
    "max_context_options",
    "max_concurrency",
)
"""Keys of ``ServeConfig`` that bound what a request may ask for."""


@dataclass
class ExportConfig:
    """What ``plurallm export`` writes."""

    run: str
    folder: str
    weights: str
    release_context: list[str]
    context_questions: int | None
    survey: str | None
    layout: str
    license: str | None

    def __post_init__(self) -> None:
        require(self.weights in ("last", "best"), "weights", self.weights, "'last' or 'best'")
        require(
            self.context_questions is None or self.context_questions >= 1,
            "context_questions",
            self.context_questions,
            ">= 1 or null",
        )
        require(
            self.layout in ("custom", "globalopinionqa"),
            "layout",
            self.layout,
            "'custom' or 'globalopinionqa'",
        )


@dataclass
class ServeConfig:
    """How ``plurallm serve`` answers."""

    bundle: str
    device: str
    threads: int | None
    measure: str
    over_groups: str
    alpha: float
    unparsable: float
    host: str
    port: int
    token_file: str | None
    tls_certificate: str | None
    tls_key: str | None
    allow_insecure: bool
    max_body_bytes: int
    max_items: int
    max_options: int
    max_contexts: int
    max_context_options: int
    max_concurrency: int
    body_timeout: float
    shutdown_timeout: int

    def __post_init__(self) -> None:
        require(0 <= self.port < 65536, "port", self.port, "0..65535")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, ">= 1 or null")
        for key in LIMITS:
            require(getattr(self, key) >= 1, key, getattr(self, key), ">= 1")
        for key in ("body_timeout", "shutdown_timeout"):
            require(getattr(self, key) > 0, key, getattr(self, key), "> 0")
        require(
            (self.tls_certificate is None) == (self.tls_key is None),
            "tls_key",
            self.tls_key,
            "given together with tls_certificate",
        )
