"""Matrix factorisation: one vector per user and item, their inner product the score.

Source: Koren, Bell, Volinsky, "Matrix Factorization Techniques for Recommender Systems", IEEE Computer 2009.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class MatrixFactorisation(nn.Module):
    """s(u, i) = <p_u, q_i>.

    Args:
        n_users, n_items: Rows of the two tables.
        width: Numbers per vector (D).
        deviation: Standard deviation of the vectors at the start.
    """

    def __init__(self, n_users: int, n_items: int, width: int, *, deviation: float = 0.05) -> None:
        super().__init__()
        self.user_table = nn.Parameter(torch.empty(n_users, width).normal_(std=deviation))
        self.item_table = nn.Parameter(torch.empty(n_items, width).normal_(std=deviation))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """One score per pair of codes, both (B,), to (B,)."""
        return (functional.embedding(users, self.user_table) * functional.embedding(items, self.item_table)).sum(dim=1)
