"""Your own search, Grove's server: a plain recursive MCTS in several processes whose leaves are evaluated together.

    python examples/own_search.py [GAMES_PER_PROCESS SIMULATIONS PROCESSES]
"""

import math
import multiprocessing
import sys

import numpy as np
from python_game import TicTacToe

import grove

ROWS = grove.RowSpec(  # all that the server knows of the game
    game="tic-tac-toe", observation_shape=(2, 3, 3), observation_dtype="uint8",
    num_actions=9, num_players=2, zero_sum=True,
)  # fmt: skip


class Node:
    def __init__(self, prior):
        self.prior, self.visits, self.total, self.children = prior, 0, 0.0, {}

    def score(self, parent_visits):
        """PUCT, seen from the seat that moves at the parent."""
        mean = -self.total / self.visits if self.visits else 0.0
        return mean + 1.25 * self.prior * math.sqrt(parent_visits) / (1 + self.visits)


def copy_of(game):
    copy = TicTacToe(0)
    copy.cells, copy.moves = list(game.cells), game.moves
    return copy


def search(node, game, client):
    """Descend once from `node`; return the value for the seat to move there."""
    result = game.utility()
    if result is not None:
        value = result[game.to_play()]
    elif not node.children:  # a leaf: one row to the server, which batches it with those of the other processes
        logits, values = client.evaluate(np.array([game.observe()], np.uint8))
        weights = np.exp(logits[0] - logits[0].max())
        node.children = {action: Node(weights[action]) for action in game.legal_actions()}
        value = float(values[0, 0])
    else:
        action, child = max(node.children.items(), key=lambda item: item[1].score(node.visits))
        game.step(action)
        value = -search(child, game, client)
    node.visits += 1
    node.total += value
    return value


def play(endpoint, games, simulations):
    """Play some games; return their results for the first seat."""
    results = []
    with grove.connect(endpoint) as client:
        for _ in range(games):
            game = TicTacToe(0)
            while game.utility() is None:
                root = Node(1.0)
                for _ in range(simulations):
                    search(root, copy_of(game), client)
                game.step(max(root.children, key=lambda action: root.children[action].visits))
            results.append(game.utility()[0])
    return results


if __name__ == "__main__":
    games, simulations, processes = map(int, sys.argv[1:] or (5, 50, 4))
    workers = multiprocessing.get_context("spawn").Pool(processes)
    with grove.serve(ROWS) as endpoint, workers:
        results = workers.starmap(play, [(endpoint, games, simulations)] * processes)
    print(f"results of the first seat: {results}")
