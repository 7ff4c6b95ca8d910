"""What agent i knows of earlier agents' actions in the same decision: three strategies.

The belief of agent i is the concatenation of the distribution parameters of agents j < i, zeros
behind them: [E, N, (N-1) B]. It is part of what agent i observed: computed once, stored, and used
unchanged by the update.

E environments   N agents   B numbers of one agent's distribution parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marlcore import distributed
from marlcore.distributions import ActionDistribution, kl_divergence
from marlcore.policies.layout import ChunkLayout
from marlcore.policies.networks import AgentMLP
from marlcore.policies.protocol import Actors, Beliefs
from marlcore.types import Inputs, Rollout


class EstimateBeliefs(Beliefs):
    """Agent i evaluates its predecessors' policies on what i can see of their inputs.

    Estimates are made in chain order, each given the earlier ones of the same observer.
    """

    def compute(self, actors: Actors, inputs: Inputs) -> Tensor:
        """Run predecessor j once for every observer i > j."""
        layout = actors.layout
        nothing = no_beliefs(layout, next(iter(inputs.values())).float())
        rows = [nothing[:, 0]]
        for observer in range(1, layout.num_agents):
            guessed = nothing  # what everyone believes, as the observer sees it
            for j in range(observer):
                guess = actors.distribution(inputs, guessed, agents=[j], observer=observer)
                parameters = guess.parameters()[:, 0]
                guessed = _tell(guessed, parameters, subject=j, size=layout.belief_size)
            rows.append(guessed[:, observer])
        return torch.stack(rows, dim=1)

    def learn(self, actors: Actors, rollout: Rollout) -> dict[str, float]:
        """Nothing to learn: the estimate is the policy itself."""
        del actors, rollout
        return {}


class OracleBeliefs(Beliefs):
    """The predecessors' true distributions: an upper bound, not for partially seen execution."""

    def compute(self, actors: Actors, inputs: Inputs) -> Tensor:
        """Run agents 0..N-2 in order."""
        layout = actors.layout
        beliefs = no_beliefs(layout, next(iter(inputs.values())).float())
        for j in range(layout.num_agents - 1):
            truth = actors.distribution(inputs, beliefs, agents=[j])
            parameters = truth.parameters()[:, 0]
            beliefs = _tell(beliefs, parameters, subject=j, size=layout.belief_size)
        return beliefs

    def learn(self, actors: Actors, rollout: Rollout) -> dict[str, float]:
        """Nothing to learn: the truth is given."""
        del actors, rollout
        return {}


class LearnedBeliefs(Beliefs):
    """A small network per pair j < i predicts j's parameters from what i itself observes.

    Trained by KL(true || predicted) on the rollout with an optimiser of its own.
    """

    def __init__(
        self,
        layout: ChunkLayout,
        *,
        feature_size: int,
        learning_rate: float,
        generator: torch.Generator,
        shuffle: torch.Generator,
        num_epochs: int = 4,
        batch_size: int = 256,
    ) -> None:
        super().__init__()
        self._layout = layout
        pairs = [(i, j) for i in range(layout.num_agents) for j in range(i)]
        self._observers = [i for i, _ in pairs]
        self._subjects = [j for _, j in pairs]
        self._num_epochs, self._batch_size, self._shuffle = num_epochs, batch_size, shuffle
        self.network = AgentMLP(
            num_groups=max(1, len(pairs)),
            sizes=(feature_size, 128, layout.belief_size),
            activation="tanh",
            output_gain=0.01,
            generator=generator,
        )
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=learning_rate)

    def compute(self, actors: Actors, inputs: Inputs) -> Tensor:
        """Predict every pair from the observers' own features."""
        features_ENF = actors.features(inputs)
        if not self._subjects:
            return no_beliefs(self._layout, features_ENF)
        predicted_EPB = self._predict(features_ENF).parameters()
        beliefs = no_beliefs(self._layout, predicted_EPB)
        for pair, (i, j) in enumerate(zip(self._observers, self._subjects, strict=True)):
            start = j * self._layout.belief_size
            beliefs[:, i, start : start + self._layout.belief_size] = predicted_EPB[:, pair]
        return beliefs

    def learn(self, actors: Actors, rollout: Rollout) -> dict[str, float]:
        """Minimise KL(true || predicted) over the rollout's decisions, averaged over pairs."""
        if not self._subjects:
            return {}
        inputs = rollout.complete_inputs()
        with torch.no_grad():
            features = actors.features(inputs)
            size = max(1, actors.microbatch_size(inputs, None, 0))
            parts = [
                {name: tensor[start : start + size] for name, tensor in inputs.items()}
                for start in range(0, len(features), size)
            ]
            truth = torch.cat([actors.act(part, part["beliefs"])[0].parameters() for part in parts])
        losses: list[float] = []
        for _ in range(self._num_epochs):
            order = torch.randperm(len(truth), generator=self._shuffle).to(truth.device)
            for rows in torch.split(order, self._batch_size):
                losses.append(self._step(features[rows], truth[rows]))
        return {"update/belief_kl": sum(losses) / len(losses)}

    def _step(self, features_BNF: Tensor, truth_BNB: Tensor) -> float:
        truth = self._layout.from_parameters(truth_BNB[:, self._subjects], agents=self._subjects)
        loss = kl_divergence(truth, self._predict(features_BNF)).sum(-1).mean()
        self.optimiser.zero_grad()
        loss.backward()
        distributed.sum_gradients(self.network)
        for parameter in self.network.parameters():
            assert parameter.grad is not None
            parameter.grad /= distributed.world_size()
        self.optimiser.step()
        return loss.item()

    def _predict(self, features_BNF: Tensor) -> ActionDistribution:
        raw = self.network(features_BNF[:, self._observers], range(len(self._subjects)))
        return self._layout.from_raw(raw, agents=self._subjects)


def no_beliefs(layout: ChunkLayout, like: Tensor) -> Tensor:
    """Return zeros [E, N, (N-1) B] for the rows, type and device of `like` [E, ...]."""
    width = (layout.num_agents - 1) * layout.belief_size
    return like.new_zeros(like.shape[0], layout.num_agents, width)


def _tell(beliefs: Tensor, parameters: Tensor, *, subject: int, size: int) -> Tensor:
    """Write one agent's parameters [E, B] into the beliefs of all agents behind it."""
    told = torch.zeros(beliefs.shape[1:], dtype=torch.bool, device=beliefs.device)
    told[subject + 1 :, subject * size : (subject + 1) * size] = True
    everywhere = parameters.repeat(1, beliefs.shape[1] - 1).unsqueeze(1)
    return torch.where(told, everywhere, beliefs)
