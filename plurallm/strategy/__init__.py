"""The federation on the server: who takes part, and how updates are taken and averaged."""

from plurallm.strategy.fedavg import GroupFedAvg
from plurallm.strategy.mean import OrderedMean
from plurallm.strategy.members import Node, describe, meet_nodes
from plurallm.strategy.replies import Update
from plurallm.strategy.report import FederationError, RoundReport

__all__ = [
    "FederationError",
    "GroupFedAvg",
    "Node",
    "OrderedMean",
    "RoundReport",
    "Update",
    "describe",
    "meet_nodes",
]
