"""Read recorded games into tensors, train on them for a moment, and save weights that the next run can play with.

    grove selfplay --game connect_four --games 200 --out runs/first
    python examples/read_games.py runs/first [EPOCHS]
"""

import sys

import numpy as np
import torch
from torch.nn import functional

import grove
from grove.inference_server.networks.networks import build_network

NETWORK = "resnet:blocks=2,channels=16"
BATCH = 256


def read(folder):
    """Return observations [n, ...], policy targets float32 [n, A] and value targets float32 [n, V]."""
    positions = [
        position for game in grove.read_games(folder) for position in game.positions() if position.searched
    ]
    columns = zip(*((p.observation, p.visits, p.value) for p in positions), strict=True)
    return [torch.from_numpy(np.stack(column)) for column in columns]


def train(network, observations, policies, values, epochs):
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(observations)).split(BATCH):
            logits, predicted = network(observations[chosen])
            loss = functional.cross_entropy(logits, policies[chosen]) + functional.mse_loss(predicted, values[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(chosen)
        print(f"epoch {epoch + 1}: loss {total / len(observations):.3f}")


def main(folder, epochs):
    observations, policies, values = read(folder)
    print(f"observations {tuple(observations.shape)}, policies {tuple(policies.shape)}, values {tuple(values.shape)}")
    rows = grove.row_spec(grove.load_game(next(grove.read_games(folder)).record.game))
    network = build_network(NETWORK, rows).requires_grad_().train()
    train(network, observations, policies, values, epochs)
    version = grove.save_model("trained.safetensors", NETWORK, rows, network.state_dict())
    print(f"model {version}; play with it: grove selfplay --game {rows.game} --model trained.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], epochs=int(sys.argv[2]) if len(sys.argv) > 2 else 3)
