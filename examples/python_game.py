"""A game in plain Python: write a class, play it, look at what was played.

    python examples/python_game.py [GAMES]
"""

import sys

import grove

LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


class TicTacToe:
    num_players = 2
    num_actions = 9  # the cells
    max_moves = 9
    observation_shape = (2, 3, 3)
    observation_dtype = "uint8"
    zero_sum = True

    def __init__(self, seed):
        self.cells = [None] * 9
        self.moves = 0

    def legal_actions(self):
        return [cell for cell in range(9) if self.cells[cell] is None]

    def step(self, action):
        self.cells[action] = self.to_play()
        self.moves += 1

    def to_play(self):
        return self.moves % 2

    def utility(self):
        """None while the game goes on; at its end one number in [-1, 1] per seat."""
        for a, b, c in LINES:
            if self.cells[a] is not None and self.cells[a] == self.cells[b] == self.cells[c]:
                return [1, -1] if self.cells[a] == 0 else [-1, 1]
        return [0, 0] if self.moves == 9 else None

    def observe(self):
        """What the network sees, from the seat to move: its own stones, then the other's."""
        me = self.to_play()
        planes = [[cell == seat for cell in self.cells] for seat in (me, 1 - me)]
        return [[plane[0:3], plane[3:6], plane[6:9]] for plane in planes]


def main(games):
    summary = grove.selfplay(TicTacToe, games=games, simulations=30)
    print(f"{summary.games} games in {summary.folder}")
    game = next(grove.read_games(summary.folder))
    for position in game.positions(rules=game.record.game):  # the rules are named, because they are code
        shares = ", ".join(f"{action}: {position.visits[action]:.2f}" for action in position.legal)
        print(f"seat {position.seat} plays {position.action} of {{{shares}}}, and ends with {position.value[0]:+.0f}")


if __name__ == "__main__":  # the workers import this file for its class
    main(games=int(sys.argv[1]) if len(sys.argv) > 1 else 100)
