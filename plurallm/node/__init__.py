"""A data holder's node: its own survey and groups, and what a run may ask of them."""

from plurallm.node.guard import guard
from plurallm.node.permission import (
    ALLOWED,
    LARGEST,
    RefusalError,
    check_overrides,
    own_config,
    own_roles,
    own_survey,
)
from plurallm.node.settings import NodeSettings, node_settings

__all__ = [
    "ALLOWED",
    "LARGEST",
    "NodeSettings",
    "RefusalError",
    "check_overrides",
    "guard",
    "node_settings",
    "own_config",
    "own_roles",
    "own_survey",
]
