"""Typed configuration: what ``conf/`` may say, and how overrides become a ``Config``."""

from plurallm.config.compare import changed_on_resume, config_dict, config_digest
from plurallm.config.compose import (
    absolute_overrides,
    config_directory,
    hydra_quote,
    load_config,
    load_tool_config,
    split_overrides,
    typed_config,
)
from plurallm.config.data import DataConfig, FileData, OpinionQAData, SyntheticData
from plurallm.config.error import ConfigError
from plurallm.config.federation import FederationConfig, StrategyConfig
from plurallm.config.learning import (
    CausalLMEmbedding,
    EmbeddingConfig,
    GaussianTraining,
    HashingEmbedding,
    MiniLMEmbedding,
    ModelConfig,
    SentenceTransformerEmbedding,
    TableEmbedding,
    TrainingConfig,
)
from plurallm.config.reward import LIMITS, ExportConfig, ServeConfig
from plurallm.config.types import (
    CompareConfig,
    Config,
    EvaluationConfig,
    TrackingConfig,
    WandbTracking,
)

__all__ = [
    "LIMITS",
    "CausalLMEmbedding",
    "CompareConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "EmbeddingConfig",
    "EvaluationConfig",
    "ExportConfig",
    "FederationConfig",
    "FileData",
    "GaussianTraining",
    "HashingEmbedding",
    "MiniLMEmbedding",
    "ModelConfig",
    "OpinionQAData",
    "SentenceTransformerEmbedding",
    "ServeConfig",
    "StrategyConfig",
    "SyntheticData",
    "TableEmbedding",
    "TrackingConfig",
    "TrainingConfig",
    "WandbTracking",
    "absolute_overrides",
    "changed_on_resume",
    "config_dict",
    "config_digest",
    "config_directory",
    "hydra_quote",
    "load_config",
    "load_tool_config",
    "split_overrides",
    "typed_config",
]
