"""Advantage estimation: pure functions from tensors to tensors. Normalisation is the caller's.

T decisions   E environments   N agents   M = T*N microsteps.
GAE: arXiv 1506.02438.   Agent-chained policy optimisation: arXiv 2606.30072.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def gae(
    *,
    rewards: Float[Tensor, "T E"],
    values: Float[Tensor, "T E"],
    next_values: Float[Tensor, "T E"],
    terminated: Bool[Tensor, "T E"],
    episode_ended: Bool[Tensor, "T E"],
    gamma: float,
    gae_lambda: float,
) -> Float[Tensor, "T E"]:
    """Generalised advantage estimate (GAE eq. 16), in units of reward.

        delta_t = r_t + gamma * (1 - terminated_t) * V(s'_t) - V(s_t)
        A_t     = delta_t + gamma * gae_lambda * (1 - episode_ended_t) * A_{t+1}

    It is the microstep estimate of a single agent.

    Args:
        rewards: team reward of decision t.
        values: V(s_t).
        next_values: V(s'_t) of the state decision t led to, before any reset.
        terminated: decision t reached an absorbing state, whose value is zero.
        episode_ended: terminated or truncated at t; nothing after it counts.
        gamma: discount of a decision.
        gae_lambda: weight of longer returns.
    """
    return microstep_gae(
        rewards=rewards,
        values=values.unsqueeze(-1),
        next_values=next_values,
        terminated=terminated,
        episode_ended=episode_ended,
        gamma_prime=gamma,
        lambda_prime=gae_lambda,
    ).squeeze(-1)


def gae_per_agent(
    *,
    rewards: Float[Tensor, "T E"],
    values: Float[Tensor, "T E N"],
    next_values: Float[Tensor, "T E N"],
    terminated: Bool[Tensor, "T E"],
    episode_ended: Bool[Tensor, "T E"],
    gamma: float,
    gae_lambda: float,
) -> Float[Tensor, "T E N"]:
    """`gae` of N critics side by side: each sees the team reward and its own values."""
    T, E, N = values.shape

    def copies(x_TE: Tensor) -> Tensor:
        return x_TE.unsqueeze(-1).expand(T, E, N).flatten(1)

    advantages_TM = gae(
        rewards=copies(rewards),
        values=values.flatten(1),
        next_values=next_values.flatten(1),
        terminated=copies(terminated),
        episode_ended=copies(episode_ended),
        gamma=gamma,
        gae_lambda=gae_lambda,
    )
    return torch.unflatten(advantages_TM, 1, (E, N))


def microstep_gae(
    *,
    rewards: Float[Tensor, "T E"],
    values: Float[Tensor, "T E N"],
    next_values: Float[Tensor, "T E"],
    terminated: Bool[Tensor, "T E"],
    episode_ended: Bool[Tensor, "T E"],
    gamma_prime: float,
    lambda_prime: float,
) -> Float[Tensor, "T E N"]:
    """Advantage of each agent on the chain of microsteps, in units of reward.

        zeta_t^(i) = gamma' V^(i+1)_t - V^(i)_t                                    i < N
        zeta_t^(N) = r_t + gamma' (1 - terminated_t) V^(1)(s'_t) - V^(N)_t
        A_t^(i)    = zeta_t^(i) + gamma' lambda' A_t^(i+1)                         i < N
        A_t^(N)    = zeta_t^(N) + gamma' lambda' (1 - episode_ended_t) A_{t+1}^(1)

    Args:
        rewards: team reward of decision t.
        values: V^(i)(s_t, b_t^(i)) of agent i's critic.
        next_values: V^(1)(s'_t): the first agent's critic at the true successor, before any reset.
        terminated: decision t reached an absorbing state, whose value is zero.
        episode_ended: terminated or truncated at t; nothing after it counts.
        gamma_prime: discount of a microstep; that of a decision is gamma_prime ** N.
        lambda_prime: weight of longer returns, per microstep.
    """
    chain_TNE = values.transpose(1, 2)
    targets_TE = rewards + gamma_prime * (next_values * ~terminated)
    successors_TNE = torch.cat([gamma_prime * chain_TNE[:, 1:], targets_TE.unsqueeze(1)], dim=1)
    zeta_TNE = successors_TNE - chain_TNE
    trace_TNE = torch.full_like(zeta_TNE, gamma_prime * lambda_prime)
    trace_TNE[:, -1] *= ~episode_ended
    advantages_ME = _solve_backward(zeta_TNE.flatten(0, 1), trace_TNE.flatten(0, 1))
    return advantages_ME.reshape(zeta_TNE.shape).transpose(1, 2)


def _solve_backward(x_ME: Tensor, c_ME: Tensor) -> Tensor:
    """Solve y_m = x_m + c_m * y_{m+1}, y_M = 0, for 0 <= c <= 1.

    The chain is cut into about sqrt(M) blocks that are solved side by side, first each as if
    nothing followed, then again from what does follow, which enters through the product of a
    block's c. About 3 sqrt(M) short loop passes instead of M, and no division, so a zero in c (an
    episode's end) is exact.
    """
    M, E = x_ME.shape
    length = max(1, math.isqrt(M))
    num_blocks = -(-M // length)
    if padding := num_blocks * length - M:
        zeros = x_ME.new_zeros(padding, E)
        x_ME, c_ME = torch.cat([x_ME, zeros]), torch.cat([c_ME, zeros])
    x_LBE = x_ME.reshape(num_blocks, length, E).unbind(1)[::-1]  # backward in every block
    c_LBE = c_ME.reshape(num_blocks, length, E).unbind(1)[::-1]
    start_BE, product_BE = x_LBE[0], c_LBE[0]
    for x, c in zip(x_LBE[1:], c_LBE[1:], strict=True):
        start_BE = torch.addcmul(x, c, start_BE)
        product_BE = c * product_BE
    following = [torch.zeros_like(x_ME[0])]
    for start, product in zip(start_BE[1:].flip(0), product_BE[1:].flip(0), strict=True):
        following.append(torch.addcmul(start, product, following[-1]))
    y_LBE = [torch.stack(following[::-1])]
    for x, c in zip(x_LBE, c_LBE, strict=True):
        y_LBE.append(torch.addcmul(x, c, y_LBE[-1]))
    return torch.stack(y_LBE[:0:-1], dim=1).flatten(0, 1)[:M]
