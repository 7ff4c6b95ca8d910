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

    return gae(
        rewards=copies(rewards),
        values=values.flatten(1),
        next_values=next_values.flatten(1),
        terminated=copies(terminated),
        episode_ended=copies(episode_ended),
        gamma=gamma,
        gae_lambda=gae_lambda,
    ).unflatten(1, (E, N))


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
    successor_values = torch.cat(
        [values[..., 1:], (next_values * ~terminated).unsqueeze(-1)], dim=-1
    )
    zeta_TEN = gamma_prime * successor_values - values
    zeta_TEN[..., -1] += rewards
    trace_TEN = torch.full_like(values, gamma_prime * lambda_prime)
    trace_TEN[..., -1] *= ~episode_ended
    chain_ME = _solve_backward(_serialise(zeta_TEN), _serialise(trace_TEN))
    T, E, N = values.shape
    return chain_ME.reshape(T, N, E).transpose(1, 2)


def _serialise(chain_TEN: Tensor) -> Tensor:
    """[T, E, N] -> [M, E]: agent after agent, decision after decision."""
    return chain_TEN.transpose(1, 2).flatten(0, 1)


def _solve_backward(x_ME: Tensor, c_ME: Tensor) -> Tensor:
    """Solve y_m = x_m + c_m * y_{m+1}, y_M = 0, for 0 <= c <= 1.

    The chain is cut into about sqrt(M) blocks that are solved side by side, each as if nothing
    followed; what follows a block then enters through the product of its c. About 2 sqrt(M) short
    loop passes instead of M, and no division, so a zero in c (an episode's end) is exact.
    """
    M, E = x_ME.shape
    length = max(1, math.isqrt(M))
    num_blocks = -(-M // length)
    padding = x_ME.new_zeros(num_blocks * length - M, E)
    y_BLE = torch.cat([x_ME, padding]).reshape(num_blocks, length, E)
    c_BLE = torch.cat([c_ME, padding]).reshape(num_blocks, length, E)
    local, products = [y_BLE[:, -1]], [c_BLE[:, -1]]
    for m in range(length - 2, -1, -1):
        local.append(torch.addcmul(y_BLE[:, m], c_BLE[:, m], local[-1]))
        products.append(c_BLE[:, m] * products[-1])
    y_BLE = torch.stack(local[::-1], dim=1)
    c_BLE = torch.stack(products[::-1], dim=1)
    following = [torch.zeros_like(x_ME[0])]
    for block in range(num_blocks - 1, 0, -1):
        following.append(torch.addcmul(y_BLE[block, 0], c_BLE[block, 0], following[-1]))
    following_B1E = torch.stack(following[::-1]).unsqueeze(1)
    return torch.addcmul(y_BLE, c_BLE, following_B1E).flatten(0, 1)[:M]
