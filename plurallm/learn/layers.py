"""The layers of the preference transformer, for one model or for several at once.

Weights may be stacked: with one axis more in front they are those of ``B`` models, each of which
takes the sequence of its place.

Dimension letters: ``B`` sequences, ``P`` points, ``W`` model width, ``H`` heads, ``E`` width of a
head, ``I`` inputs, ``O`` outputs.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from plurallm.config.device import records_steps


class Linear(nn.Linear):
    """``torch.nn.Linear``, whose weights may be stacked."""

    def forward(self, x_BPI: Tensor) -> Tensor:
        """Apply the layer."""
        return linear(x_BPI, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """``torch.nn.LayerNorm`` over the last axis, whose weights may be stacked."""

    def forward(self, x_BPW: Tensor) -> Tensor:
        """Apply the layer."""
        if self.weight.dim() == 1:
            return super().forward(x_BPW)
        normal_BPW = layer_norm(x_BPW, self.normalized_shape, eps=self.eps)
        return normal_BPW * self.weight.unsqueeze(-2) + self.bias.unsqueeze(-2)


def linear(x_BPI: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    """Apply one linear map to all sequences, or to each its own.

    Parameters
    ----------
    x_BPI : Tensor of shape (..., I), or (B, P, I) where weights are stacked
        The sequences.
    weight_OI, bias_O : Tensor of shape (O, I) and (O), or (B, O, I) and (B, O)
        Of one map, or stacked.

    Returns
    -------
    Tensor of shape (..., O), or (B, P, O)
        Its gradients of stacked weights lie as the weights do.
    """
    if weight_OI.dim() == 2:
        return nn.functional.linear(x_BPI, weight_OI, bias_O)
    stacked_BPO: Tensor = _StackedLinear.apply(x_BPI, weight_OI, bias_O)  # type: ignore[no-untyped-call]
    return stacked_BPO


def plain_attention(
    query_BHPE: Tensor, key_BHPE: Tensor, value_BHPE: Tensor, mask: Tensor | None = None
) -> Tensor:
    """``torch.nn.functional.scaled_dot_product_attention`` as separate products.

    Parameters
    ----------
    query_BHPE, key_BHPE, value_BHPE : Tensor of shape (B, H, P, E)
        Keys and values have a number of points of their own.
    mask : Tensor, optional
        What is added to scores: minus infinity where a key does not count.

    Returns
    -------
    Tensor of shape (B, H, P, E)
    """
    score_BHPP = (query_BHPE / math.sqrt(query_BHPE.shape[-1])) @ key_BHPE.mT
    if mask is not None:
        score_BHPP = score_BHPP + mask
    return score_BHPP.softmax(-1) @ value_BHPE


class _StackedLinear(torch.autograd.Function):
    """Its weights' gradient lies like the weights, so that all tensors are copied in one kernel."""

    @staticmethod
    def forward(ctx: Any, x_BPI: Tensor, weight_BOI: Tensor, bias_BO: Tensor) -> Tensor:
        ctx.save_for_backward(x_BPI, weight_BOI)
        return torch.baddbmm(bias_BO.unsqueeze(-2), x_BPI, weight_BOI.mT)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        (gradient_BPO,) = gradient
        x_BPI, weight_BOI = ctx.saved_tensors
        # All weights are trained; of the first layer's inputs, embeddings, nothing is asked.
        x_gradient = torch.bmm(gradient_BPO, weight_BOI) if ctx.needs_input_grad[0] else None
        return x_gradient, torch.bmm(gradient_BPO.mT, x_BPI), gradient_BPO.sum(-2)


class Block(nn.Module):
    """Post-norm attention block whose keys and values come from the context."""

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = Linear(width, width)
        self.key_value = Linear(width, 2 * width)
        self.attended = Linear(width, width)
        self.norm_attended = LayerNorm(width)
        self.feedforward = nn.Sequential(
            Linear(width, feedforward), nn.ReLU(), Linear(feedforward, width)
        )
        self.norm = LayerNorm(width)
        # As torch.nn.MultiheadAttention starts: one uniform bound for the three projections.
        bound = math.sqrt(6 / (width + 3 * width))
        for part in (self.query, self.key_value):
            nn.init.uniform_(part.weight, -bound, bound)
        for part in (self.query, self.key_value, self.attended):
            nn.init.zeros_(part.bias)

    def keys_values(self, context_BPW: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, P, E) of the context's tokens."""
        key, value = self.key_value(context_BPW).chunk(2, -1)
        return self._split_heads(key), self._split_heads(value)

    def forward(
        self, token_BPW: Tensor, key_BHPE: Tensor, value_BHPE: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Let tokens, of the context or of targets, attend to the context."""
        query_BHPE = self._split_heads(self.query(token_BPW))
        # A GPU's fused attention may sum gradients in any order: bits would differ between runs.
        fixed_order = records_steps(token_BPW.device) and torch.is_grad_enabled()
        attention = plain_attention if fixed_order else scaled_dot_product_attention
        attended_BHPE = attention(query_BHPE, key_BHPE, value_BHPE, mask)
        attended_BPW = self.attended(attended_BHPE.transpose(-3, -2).flatten(-2))
        token_BPW = self.norm_attended(token_BPW + attended_BPW)
        updated_BPW: Tensor = self.norm(token_BPW + self.feedforward(token_BPW))
        return updated_BPW

    def _split_heads(self, token_BPW: Tensor) -> Tensor:
        head_width = token_BPW.shape[-1] // self.heads
        return token_BPW.view(*token_BPW.shape[:-1], self.heads, head_width).transpose(-3, -2)
