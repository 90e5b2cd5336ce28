"""A network of your own: any torch.nn.Module that maps observations to policy logits and values.

    python examples/own_network.py [GAMES]
"""

import sys

import torch
from torch import nn

import grove

GAME = "hex:size=5"


class BoardNet(nn.Module):
    def __init__(self, row_spec):
        """row_spec.observation_shape, .num_actions and .value_size say what goes in and comes out."""
        super().__init__()
        planes, height, width = row_spec.observation_shape
        self.body = nn.Sequential(
            nn.Conv2d(planes, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten()
        )
        self.policy = nn.Linear(16 * height * width, row_spec.num_actions)
        self.value = nn.Linear(16 * height * width, row_spec.value_size)

    def forward(self, observations):
        """[B, planes, H, W] in the game's own type (uint8) -> logits [B, A], values [B, V] in -1..1."""
        hidden = self.body(observations.to(self.policy.weight.dtype))
        return self.policy(hidden), torch.tanh(self.value(hidden))


def main(games):
    spec = f"{__file__}:BoardNet"  # how server and workers find the class
    rows = grove.row_spec(grove.load_game(GAME))
    torch.manual_seed(1)
    network = BoardNet(rows)  # this is where you would train it
    version = grove.save_model("board_net.safetensors", spec, rows, network.state_dict())
    summary = grove.selfplay(
        GAME, games=games, simulations=50, network=spec, model="board_net.safetensors", compile="off"
    )
    print(f"{summary.games} games in {summary.folder}, played by model {version}")


if __name__ == "__main__":  # the server imports this file for its class
    main(games=int(sys.argv[1]) if len(sys.argv) > 1 else 100)
