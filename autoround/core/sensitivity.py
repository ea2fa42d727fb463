"""Sensitivity of the output distribution to a layer's quantization error (Fisher information).

A layer's weight W becomes W + D. Its output at token t changes by D x_t, and the model's output
distribution p diverges from what it was by, to second order,

    KL = 1/2 E[ (g_t . D x_t)^2 ]        g_t = d(-log p(y)) / d(W x_t),  label y sampled from p

the expectation over labels y and tokens t (the Fisher information, applied to this very error).
Errors that cancel within a token cost nothing here, which a sum over single weights (the
diagonal of the Fisher matrix) does not see; and nothing of the size of a weight squared is formed.

Errors at different tokens interact as well: attention adds up the values of many tokens. So
products are summed over a span of neighbouring tokens before they are squared. A span as long as
the sample leaves nothing out, but has one square a sample to take a mean of, and spans of one
token see half of what quantized values cost; sixteen see nearly all of it at no more noise. That
errors of different layers are independent of each other is assumed.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Neighbouring tokens whose products are added before they are squared.
SPAN = 16


@torch.no_grad()
def sampled_gradient(logits: Tensor, *, generator: torch.Generator) -> Tensor:
    """Sample a label y at every position; returns the gradient of -log p(y) for the logits.

    Args:
        logits: [tokens, vocabulary], any float dtype.
        generator: on the CPU.

    Returns:
        float32 of that shape: ``p - onehot(y)``.
    """
    probabilities = torch.softmax(logits.float(), dim=-1)
    # Drawn on the CPU, so that every device samples the same labels.
    uniform = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64)
    # float64: a sum over a large vocabulary would miss rare labels in float32.
    cumulative = probabilities.double().cumsum(-1)
    uniform = uniform.to(logits.device) * cumulative[:, -1:]
    labels = torch.searchsorted(cumulative, uniform, right=True).clamp_(max=logits.shape[-1] - 1)
    return probabilities.scatter_add_(1, labels, torch.full_like(probabilities[:, :1], -1.0))


@torch.no_grad()
def squared_effects(grad: Tensor, change: Tensor) -> float:
    """Sum the squared first-order effects of an output error, a span of tokens at a time.

    Args:
        grad: [batch, seq, width], of the sampled labels' -log p for a layer's output; or
            [tokens, width] where tokens are no neighbours.
        change: of the same shape, the error of that output.

    Returns:
        Twice the KL divergence, summed over tokens.
    """
    products = (grad.float() * change.float()).sum(-1).double()  # [batch, seq] or [tokens]
    if products.dim() > 1:
        # [batch, seq] -> [spans], the last span of a sample padded
        padded = torch.nn.functional.pad(products, (0, -products.shape[-1] % SPAN))
        products = padded.reshape(-1, SPAN).sum(-1)
    return float(products.square().sum())
