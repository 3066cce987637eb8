"""Linear centered kernel alignment, CKA, from mini-batches (paper section 3.2; Nguyen et al., ICLR 2021, section 3).

CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = XXᵀ, L = YYᵀ. Over mini-batches each HSIC is the mean of
those of the batches. The plain HSIC of few samples is far above zero even for independent features; the unbiased one
(Song et al., JMLR 13, 2012) is not, and its mean over batches does not depend on the size of the batches.

Either is an inner product of centred Gram matrices: of the usual centring for the plain one, and of the U-centring
(Székely and Rizzo, Annals of Statistics 42, 2014) for the unbiased one. So a layer's Gram matrix is centred once, and a
whole map of CKA is one matrix product a batch.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["unbiased", "biased"]

FEWEST_SAMPLES = 4  # below, the unbiased estimate is not defined


def centred_gram(features: Tensor, estimator: Estimator = "unbiased") -> Tensor:
    """The Gram matrix of samples, centred and scaled so that inner products of two such are their HSIC.

    Args:
        features: (samples, features), at least four samples.

    Returns:
        (samples, samples) float64.
    """
    centred = features - features.mean(dim=0)  # changes no HSIC, but keeps the digits that matter in float32
    gram = (centred @ centred.T).double()
    return _u_centred(gram) if estimator == "unbiased" else _centred(gram)


def hsic(grams: Tensor, others: Tensor) -> Tensor:
    """HSIC between layers: (layers, samples, samples) and (other layers, samples, samples), both centred, give
    (layers, other layers).
    """
    return grams.flatten(1) @ others.flatten(1).T


def cka(batches: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """The map of CKA between the layers of two networks that saw the same batches.

    Args:
        batches: per batch (layers, samples, samples), centred.
        others: the same for the other network: (other layers, samples, samples).

    Returns:
        (layers, other layers), 1 for equal layers up to rotation and scale; NaN for a layer that answers alike to
        all samples.
    """
    cross = torch.stack([hsic(a, b) for a, b in zip(batches, others, strict=True)]).mean(dim=0)
    return cross / torch.outer(_norm(batches), _norm(others))


def _norm(batches: Sequence[Tensor]) -> Tensor:
    return torch.stack([grams.square().sum(dim=(1, 2)) for grams in batches]).mean(dim=0).sqrt()


def _centred(gram: Tensor) -> Tensor:
    count = len(gram)
    rows = gram.mean(dim=0, keepdim=True)
    centred: Tensor = gram - rows - rows.T + gram.mean()
    return centred / (count - 1)


def _u_centred(gram: Tensor) -> Tensor:
    count = len(gram)
    hollow = gram.clone().fill_diagonal_(0)
    rows = hollow.sum(dim=0, keepdim=True) / (count - 2)
    centred: Tensor = hollow - rows - rows.T + hollow.sum() / ((count - 1) * (count - 2))
    return centred.fill_diagonal_(0).div_(math.sqrt(count * (count - 3)))
