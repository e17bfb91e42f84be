"""A data holder's node: its own survey and groups, and what a run may ask of them."""

from plurallm.node.guard import guard
from plurallm.node.memory import check_run_name, check_unchanged
from plurallm.node.permission import (
    ALLOWED,
    LARGEST,
    RefusalError,
    check_overrides,
    may_send_experts,
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
    "check_run_name",
    "check_unchanged",
    "guard",
    "may_send_experts",
    "node_settings",
    "own_config",
    "own_roles",
    "own_survey",
]
