"""What comes back through the server is what the network itself says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from grove.game import load_game
from grove.inference_server import InferenceServer, ServerSettings, ZmqClient, private_endpoint
from grove.inference_server.backends.backend import make_backends
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.models.model_file import open_model
from grove.workers.selfplay.direct import DirectNetwork
from grove.workers.selfplay.evaluators import row_spec

SPECS = ["connect_four", "hex:size=5"]
NETWORKS = ["resnet:blocks=2,channels=16", "mlp:layers=1,width=32"]
MOST_BF16_DRIFT = 0.1
"""bf16 keeps 8 bits of mantissa: about 0.4 % a layer, on logits and values of order one."""


def real_rows(spec: str, count: int) -> np.ndarray:
    """Return observations of `count` positions met in random games."""
    game, random = load_game(spec), np.random.default_rng(0)
    states = np.zeros(count, game.state_dtype)
    game.initial(np.arange(count, dtype=np.uint64), states)
    for ply in range(8):
        offsets, legal = np.zeros(count + 1, np.int64), np.zeros(count * game.max_legal, np.int32)
        game.legal(states, offsets, legal)
        after = states.copy()
        game.step(after, legal[offsets[:-1] + (random.random(count) * np.diff(offsets)).astype(np.int64)])
        done, utility = np.zeros(count, np.bool_), np.zeros((count, game.num_players))
        game.outcome(after, done, utility)
        moves = ~done & (np.arange(count) % 8 > ply)
        states[moves] = after[moves]
    rows = np.zeros((count, *game.observation_shape), game.observation_dtype)
    game.observe(states, rows)
    return rows


def served(spec: str, settings: NetworkSettings, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield logits and values of `rows` through either channel, in requests of many sizes."""
    game_rows = row_spec(load_game(spec))
    with ExitStack() as stack:
        backends = make_backends(game_rows, settings, 64, 2)
        for backend in backends:
            stack.callback(backend.close)
        server = stack.enter_context(InferenceServer(game_rows, backends, ServerSettings(max_batch=64)))
        assert server.wait_ready(100)
        endpoint = server.bind(stack.enter_context(private_endpoint()))
        for client in (server.connect(4), ZmqClient(endpoint, game_rows, window=4)):
            parts = np.split(rows, np.cumsum([1, 3, 70, 17]))
            order = [client.submit(part) for part in parts[:4]]
            replies = {}
            for _ in range(4):
                reply = client.collect(60)
                assert reply is not None
                replies[reply.ticket] = reply
            client.submit(parts[4])
            last = client.collect(60)
            assert last is not None
            whole = [replies[number] for number in order] + [last]
            yield np.concatenate([r.logits for r in whole]), np.concatenate([r.values for r in whole])
            client.close()


@torch.inference_mode()
def plain(spec: str, settings: NetworkSettings, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what the network module itself answers in fp32, the whole batch in one call."""
    logits, values = open_model(settings, row_spec(load_game(spec))).network(torch.from_numpy(rows))
    return logits.numpy(), values.numpy()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("network", NETWORKS)
def test_fp32(spec: str, network: str) -> None:
    settings = NetworkSettings(network=network, device="cpu", dtype="fp32", compile="off")
    rows = real_rows(spec, 100)
    logits, values = plain(spec, settings, rows)
    for channel_logits, channel_values in served(spec, settings, rows):
        assert np.abs(channel_logits - logits).max() < 1e-5
        assert np.abs(channel_values - values).max() < 1e-5


@pytest.mark.parametrize("spec", SPECS)
def test_fp32_with_the_operators_chosen_for_speed(spec: str) -> None:
    settings = NetworkSettings(network=NETWORKS[0], device="cpu", dtype="fp32", compile="auto")
    rows = real_rows(spec, 100)
    logits, values = plain(spec, settings, rows)
    for channel_logits, channel_values in served(spec, settings, rows):
        assert np.abs(channel_logits - logits).max() < 1e-5
        assert np.abs(channel_values - values).max() < 1e-5


def test_direct_one_position_a_call() -> None:
    settings = NetworkSettings(network=NETWORKS[0], device="cpu", dtype="fp32", compile="off")
    rows = real_rows("connect_four", 20)
    logits, values = plain("connect_four", settings, rows)
    own = DirectNetwork(row_spec(load_game("connect_four")), settings)
    for i in range(20):
        one_logits, one_values = own.evaluate(rows[i : i + 1])
        assert np.abs(one_logits[0] - logits[i]).max() < 1e-5
        assert np.abs(one_values[0] - values[i]).max() < 1e-5
    own.close()


def test_the_drift_of_bf16_is_bounded_and_reported() -> None:
    rows = real_rows("connect_four", 100)
    fp32 = NetworkSettings(network=NETWORKS[0], device="cpu", dtype="fp32", compile="off")
    bf16 = NetworkSettings(network=NETWORKS[0], device="cpu", dtype="bf16", compile="auto")
    logits, values = plain("connect_four", fp32, rows)
    for channel_logits, channel_values in served("connect_four", bf16, rows):
        assert 0 < np.abs(channel_logits - logits).max() < MOST_BF16_DRIFT
        assert np.abs(channel_values - values).max() < MOST_BF16_DRIFT
    about = make_backends(row_spec(load_game("connect_four")), bf16, 64, 1)[0].describe()
    drift = {name: value for name, value in about.items() if "drift" in name}
    assert drift
    assert about["dtype"] == "bf16"
