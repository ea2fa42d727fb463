"""How much a change of one layer costs, before any other layer is changed.

A layer's weight W becomes W + D. Its output at token t moves by D x_t, and the model's answers
diverge from what they were by, to second order in the move,

    KL = 1/2 E[ (g_t . D x_t)^2 ]        g_t = d(-log p(y)) / d(W x_t),  y drawn from p itself

the expectation over the answers y and the tokens t (the Fisher information of the answers, as it
acts on this very change). Errors that cancel within a token cost nothing here, which is what a
sum over single weights (a diagonal of the Fisher matrix) does not see; and nothing of the size
of a weight squared is formed.

Moves of different tokens meet in the answers, too: attention adds up what the values of many
tokens did. So products are summed over a span of neighbouring tokens before they are squared. A
span as long as the sample leaves nothing out, but has one square a sample to take a mean of, and
spans of one token see half of what rounded values cost; sixteen see nearly all of it at no more
noise. That moves of different layers are independent of each other is assumed.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Neighbouring tokens whose moves are added before they are squared.
SPAN = 16


@torch.no_grad()
def sampled_gradient(logits: Tensor, *, generator: torch.Generator) -> Tensor:
    """Draw an answer at every position; returns the gradient of its negative logarithm.

    logits: [tokens, vocabulary]. Returns float32 of that shape: ``p - onehot(y)``.
    """
    chances = torch.softmax(logits.float(), dim=-1)
    # The draw is made on the CPU, so that every device draws the same.
    marks = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64)
    sums = chances.double().cumsum(-1)
    marks = marks.to(logits.device) * sums[:, -1:]
    drawn = torch.searchsorted(sums, marks, right=True).clamp_(max=logits.shape[-1] - 1)
    return chances.scatter_add_(1, drawn, torch.full_like(chances[:, :1], -1.0))


@torch.no_grad()
def squared_effects(grad: Tensor, change: Tensor) -> float:
    """Sum the squares of what a change does to the answers, by the span of tokens.

    grad, change: [batch, seq, width], of and to the same output, or [tokens, width] where tokens
    are no neighbours. Returns twice the divergence, summed over tokens.
    """
    products = (grad.float() * change.float()).sum(-1).double()
    if products.dim() > 1:
        padded = torch.nn.functional.pad(products, (0, -products.shape[-1] % SPAN))
        products = padded.reshape(-1, SPAN).sum(-1)
    return float(products.square().sum())
