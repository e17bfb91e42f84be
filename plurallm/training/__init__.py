"""Local learning: losses, the schedule, one group after the other or several together."""

from plurallm.training.local import LocalUpdate, learning_rate, received_distance, train_group
from plurallm.training.losses import LOSSES, episode_loss
from plurallm.training.pooled import train_pooled
from plurallm.training.proximal import Proximal
from plurallm.training.together import groups_in_memory, train_groups, train_groups_together

__all__ = [
    "LOSSES",
    "LocalUpdate",
    "Proximal",
    "episode_loss",
    "groups_in_memory",
    "learning_rate",
    "received_distance",
    "train_group",
    "train_groups",
    "train_groups_together",
    "train_pooled",
]
