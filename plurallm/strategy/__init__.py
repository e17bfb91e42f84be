"""The federation on the server: who takes part, how updates are taken and become a model."""

from plurallm.strategy.aggregate import Aggregator
from plurallm.strategy.attendance import Attendance
from plurallm.strategy.choose import make_aggregator
from plurallm.strategy.experts import Experts, gather_experts
from plurallm.strategy.fedavg import GroupFedAvg
from plurallm.strategy.mean import OrderedMean
from plurallm.strategy.members import Node, describe, is_deployment, meet_nodes
from plurallm.strategy.questions import PatientGrid
from plurallm.strategy.replies import Update
from plurallm.strategy.report import FederationError, RoundReport
from plurallm.strategy.roles import assign_roles_of_nodes, extend_roles

__all__ = [
    "Aggregator",
    "Attendance",
    "Experts",
    "FederationError",
    "GroupFedAvg",
    "Node",
    "OrderedMean",
    "PatientGrid",
    "RoundReport",
    "Update",
    "assign_roles_of_nodes",
    "describe",
    "extend_roles",
    "gather_experts",
    "is_deployment",
    "make_aggregator",
    "meet_nodes",
]
