"""Trains a dialogue policy by PPO on a toy environment and logs to TensorBoard only, as toolkits do.

The agent names the slots of a goal within a few turns; the reward is -1 a turn, and 20 for the one that
succeeds. Arguments: a folder for the events, epochs, and a file for what was logged last.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tensorboardX import SummaryWriter

SLOTS = 3
MOST_TURNS = 8
DIALOGUES = 16  # an epoch
EVALUATED = 32


class Turn(NamedTuple):
    state: torch.Tensor
    action: torch.Tensor
    log_probability: torch.Tensor
    reward: float
    last: bool


class Dialogue:
    def __init__(self, generator: torch.Generator) -> None:
        self.goal = torch.randint(0, 2, (SLOTS,), generator=generator).float()
        self.told = torch.zeros(SLOTS)
        self.turns = 0

    def state(self) -> torch.Tensor:
        return torch.cat([self.goal, self.told])

    def act(self, slot: int) -> tuple[float, bool, bool]:
        """Reward, whether it is over, whether it is a success."""
        self.turns += 1
        self.told[slot] = 1.0
        success = bool(torch.all(self.told >= self.goal))
        return (20.0 if success else -1.0), success or self.turns == MOST_TURNS, success


class Policy(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.policy = torch.nn.Sequential(
            torch.nn.Linear(2 * SLOTS, 16), torch.nn.Tanh(), torch.nn.Linear(16, SLOTS)
        )
        self.value = torch.nn.Linear(2 * SLOTS, 1)

    def actions(self, states: torch.Tensor) -> torch.distributions.Categorical:
        return torch.distributions.Categorical(logits=self.policy(states))


def collect(policy: Policy, dialogues: int, generator: torch.Generator) -> list[Turn]:
    turns = []
    for _ in range(dialogues):
        dialogue, over = Dialogue(generator), False
        while not over:
            state = dialogue.state()
            with torch.no_grad():
                actions = policy.actions(state)
                action = torch.multinomial(actions.probs, 1, generator=generator)[0]
            reward, over, _ = dialogue.act(int(action))
            log_probability = actions.log_prob(action)  # type: ignore[no-untyped-call]
            turns.append(Turn(state, action, log_probability, reward, over))
    return turns


def update(policy: Policy, optimizer: torch.optim.Optimizer, turns: list[Turn]) -> None:
    states = torch.stack([turn.state for turn in turns])
    actions = torch.stack([turn.action for turn in turns])
    before = torch.stack([turn.log_probability for turn in turns])
    returns, value = torch.zeros(len(turns)), 0.0
    for index in reversed(range(len(turns))):
        value = turns[index].reward + (0.0 if turns[index].last else 0.99 * value)
        returns[index] = value
    for _ in range(4):
        values = policy.value(states).squeeze(-1)
        advantages = returns - values.detach()
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        distribution = policy.actions(states)
        ratio = torch.exp(distribution.log_prob(actions) - before)  # type: ignore[no-untyped-call]
        surrogate = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        loss = -surrogate.mean() + 0.01 * torch.nn.functional.mse_loss(values, returns)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
        optimizer.step()


def evaluate(policy: Policy) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1000)
    successes, returns, lengths = [], [], []
    for _ in range(EVALUATED):
        dialogue, over, success, total = Dialogue(generator), False, False, 0.0
        while not over:
            with torch.no_grad():
                action = int(policy.policy(dialogue.state()).argmax())
            reward, over, success = dialogue.act(action)
            total += reward
        successes.append(success)
        returns.append(total)
        lengths.append(dialogue.turns)
    return {
        "complete_rate": np.average(successes),
        "success_rate": np.average(successes),
        "success_rate_strict": np.average([all(successes[:2]), *successes[1:]]),
        "avg_return": np.average(returns),
        "turns": np.average(lengths),
    }


def main(folder: str, epochs: int, result: str) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    policy = Policy()
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.02)
    tb_writer = SummaryWriter(folder)
    evaluation = evaluate(policy)
    for key in evaluation:
        tb_writer.add_scalar(key, evaluation[key], 0)
    for epoch in range(1, epochs + 1):
        update(policy, optimizer, collect(policy, DIALOGUES, generator))
        evaluation = evaluate(policy)
        for key in evaluation:
            tb_writer.add_scalar(key, evaluation[key], epoch * DIALOGUES)
        print(
            f"epoch {epoch}: success {evaluation['success_rate']:.3f}, return {evaluation['avg_return']:.3f}"
        )
    tb_writer.close()
    weights = [float(each.detach().double().sum()) for each in policy.parameters()]
    logged = {key: float(value) for key, value in evaluation.items()}
    Path(result).write_text(json.dumps({"logged": logged, "step": epochs * DIALOGUES, "weights": weights}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
