"""Tiny Tetris: two rows kept between steps, pieces in a 2 x 2 box, a penalty for what overflows.

The task of Tan and Xu, arXiv 2403.09701, and Tan, Fan and Wei, arXiv 2408.04526, after their public simulator. Few
boards can be reached (2,780 at width 6), so that the MDP is tabular and its exact values are known. Rules and
features: docs/derivations/nora.md §9.7.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from surefoot.envs.tasks.finite import Outcomes, require, sum_range
from surefoot.envs.tensor_env import State, TensorEnv

# A piece is low + 4·high, two rows of two bits; bit 0 is the left column of the box. The lower row is never empty.
PIECES = torch.tensor([low + 4 * high for high in range(4) for low in range(1, 4)]).sort().values
ROTATIONS = 4


class Boards(NamedTuple):
    """All boards that can be reached, and where they lead; a board is lower row + 2^W · upper row, bit c column c."""

    bits: Tensor  # (B,) increasing; the first is empty
    next_board: Tensor  # (B, 12, A), row numbers
    loss: Tensor  # (B, 12, A), rows lost to overflow


class Tetris(TensorEnv):
    """The state is 12 · board + piece, rows of `boards.bits` and of `PIECES`; an action 4 · column + quarter turns.

    The reward is minus the rows lost. Observations (2W + 4) are the bits of the board, lower row first, and the piece.
    """

    def __init__(self, num_envs: int = 1, *, width: int = 6, horizon: int = 40, intercept: bool = True, **kwargs: Any):
        require("width", width, 3 <= width <= 6, "between 3 and 6")
        require("horizon", horizon, horizon >= 1, "at least 1")
        self.width, self.horizon, self.bits = width, horizon, 2 * width + 4
        limit = min(filter(None, (horizon, kwargs.pop("max_episode_steps", None))))
        space = gym.spaces.Box(0.0, 1.0, (self.bits,), np.float32)
        actions = gym.spaces.Discrete(ROTATIONS * (width - 1))
        super().__init__(space, actions, num_envs, max_episode_steps=limit, **kwargs)
        self.boards = Boards(*(field.to(self.device) for field in reachable_boards(width)))
        self.pieces = PIECES.to(self.device)
        self._shown_bits = _bits(self.boards.bits, 2 * width), _bits(self.pieces, 4)
        values = board_features(self.boards.bits, width)
        values = torch.cat([values, torch.ones_like(values[:, :1])], -1) if intercept else values
        self.board_features = values / values.norm(dim=-1).max()  # (B, k): the longest is 1, as LSVI-UCB requires
        self.blocks = feature_blocks(width).to(self.device)  # (12, A)
        self._never = torch.zeros(num_envs, dtype=torch.bool, device=self.device)

    def draw_state(self) -> State:
        return (self._draw_piece(),)  # the empty board is number 0

    def advance(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        board, piece = state[0] // len(PIECES), state[0] % len(PIECES)
        successor = self.boards.next_board[board, piece, action] * len(PIECES) + self._draw_piece()
        return (successor,), -self.boards.loss[board, piece, action].float(), self._never

    def observe(self, state: State) -> Tensor:
        boards, pieces = self._shown_bits
        return torch.cat([boards[state[0] // len(PIECES)], pieces[state[0] % len(PIECES)]], -1).float()

    def decode(self, obs: Tensor) -> Tensor:
        """Return the index (…) of the state that observations (…, 2W + 4 or more) show."""
        bits = obs[..., : self.bits].long() << torch.arange(self.bits, device=obs.device)
        board, piece = bits[..., :-4].sum(-1), bits[..., -4:].sum(-1) >> 2 * self.width
        return torch.searchsorted(self.boards.bits, board) * len(PIECES) + torch.searchsorted(self.pieces, piece)

    def state_index(self, state: State) -> Tensor:
        """Return the index (N,) of each environment's state."""
        return state[0]

    @property
    def state(self) -> Tensor:
        """The index (N,) of the state each environment is in now."""
        return self.state_index(self._state)

    @property
    def value_range(self) -> tuple[Tensor, Tensor]:
        """Least and largest sum of rewards from each step on, (H,) each."""
        return sum_range(self.horizon, -2.0, 0.0, self.device)

    def tabular(self) -> Outcomes:
        """Return the table (1, 12·B, A, 12) of all states; the outcomes are the next pieces."""
        kinds = len(PIECES)
        first = (self.boards.next_board * kinds).flatten(0, 1)[None, ..., None]  # (1, S, A, 1)
        next_state = first + torch.arange(kinds, device=self.device)
        reward = -self.boards.loss.double().flatten(0, 1)[None, ..., None].expand(next_state.shape)
        start = torch.zeros(next_state.shape[1], dtype=torch.float64, device=self.device)
        start[:kinds] = 1 / kinds
        return Outcomes(start, next_state, start[:1].view(1, 1, 1, 1).expand(next_state.shape), reward)

    def features(self, state: Tensor) -> Tensor:
        """Return φ(s, ·) (…, A, d): the k `board_features`, in the block of the column and the turned piece.

        d = 12 (W − 1) k. The papers number 16 blocks per column, of which these 12 can occur.
        """
        values, block = self.block_features(state)
        place = F.one_hot(block, len(PIECES) * (self.width - 1))  # (…, A, blocks)
        return (place[..., None] * values[..., None, :]).flatten(-2)

    def block_features(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `features` are made of: their only non-zero block (…, A, k), and its number (…, A)."""
        block = self.blocks[state % len(PIECES)]
        return self.board_features[state // len(PIECES)][..., None, :].expand(*block.shape, -1), block

    def _draw_piece(self) -> Tensor:
        return torch.randint(len(PIECES), (self.num_envs,), generator=self.generator, device=self.device)


# --- the rules --------------------------------------------------------------------------------------------------------


def turn(piece: Tensor, quarters: Tensor) -> Tensor:
    """Return pieces after quarter turns, bottom left to bottom right; the upper falls into an empty lower row."""
    for count in range(1, ROTATIONS):
        low, high = piece & 3, piece >> 2
        # (l0, l1), (u0, u1) -> (u0, l0), (u1, l1)
        turned = (high & 1) | (low & 1) << 1 | (high >> 1) << 2 | (low >> 1) << 3
        piece = torch.where(quarters >= count, turned, piece)
    return torch.where(piece & 3 == 0, piece >> 2, piece)


def drop(board: Tensor, piece: Tensor, column: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return the boards after turned pieces fall at `column`, and the rows lost to overflow; all shapes broadcast."""
    full = (1 << width) - 1
    low, high = (piece & 3) << column, (piece >> 2) << column
    row0, row1 = board & full, board >> width

    def free(lower: Tensor | int, upper: Tensor | int) -> Tensor:
        return (low & lower == 0) & (high & upper == 0)

    # The box rests at the lowest level that it fits into and can come to from above; nothing is in the way of level 2.
    at0 = free(row0, row1) & free(row1, 0)
    at1 = ~at0 & free(row1, 0)
    at2 = ~(at0 | at1)
    rows = [
        row0 | low * at0,
        row1 | high * at0 | low * at1,
        high * at1 | low * at2,
        high * at2,
    ]
    empty = torch.zeros_like(rows[0])
    for line in (1, 0):  # the second row first, each once
        cleared = rows[line] == full
        shifted = rows[:line] + rows[line + 1 :] + [empty]
        rows = [torch.where(cleared, after, before) for after, before in zip(shifted, rows, strict=True)]
    loss = torch.where(rows[3] > 0, 2, (rows[2] > 0).long())
    kept = [torch.where(loss == 2, rows[i + 2], torch.where(loss == 1, rows[i + 1], rows[i])) for i in (0, 1)]
    return kept[0] | kept[1] << width, loss


@lru_cache
def reachable_boards(width: int) -> Boards:
    """Return every board that play from the empty one leads to."""
    action = torch.arange(ROTATIONS * (width - 1))
    turned, column = turn(PIECES[:, None], action % ROTATIONS), action // ROTATIONS  # (12, A), (A,)
    known = torch.zeros(1, dtype=torch.int64)
    while True:
        following, loss = drop(known[:, None, None], turned, column, width)
        more = torch.unique(torch.cat([known, following.flatten()]))
        if len(more) == len(known):
            return Boards(known, torch.searchsorted(known, following), loss)
        known = more


# --- the papers' features ---------------------------------------------------------------------------------------------


def board_features(bits: Tensor, width: int) -> Tensor:
    """Return (B, W + 2): greatest height, holes, wells, and W − 1 differences of height, from the last column on."""
    cells = _bits(bits, 2 * width).flip(-1).double()  # last column first, upper row first
    upper, lower = cells[:, :width], cells[:, width:]
    height = torch.where(upper > 0, 2.0, lower)
    holes = (upper * (1 - lower)).sum(-1)
    walled = F.pad(height, (1, 1), value=3.0)  # the border counts as high
    wells = ((height < walled[:, :-2]) & (height < walled[:, 2:])).double().sum(-1)
    return torch.cat([torch.stack([height.amax(-1), holes, wells], -1), height.diff(dim=-1)], -1)


def feature_blocks(width: int) -> Tensor:
    """Return (12, A): which block of features a piece and an action fill, 12 · column + turned piece."""
    action = torch.arange(ROTATIONS * (width - 1))
    turned = turn(PIECES[:, None], action % ROTATIONS)
    return action // ROTATIONS * len(PIECES) + torch.searchsorted(PIECES, turned)


def _bits(numbers: Tensor, count: int) -> Tensor:
    """Return the bits (…, count) of numbers (…), the lowest first."""
    return numbers[..., None] >> torch.arange(count, device=numbers.device) & 1
