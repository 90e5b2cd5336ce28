"""A game in plain Python as a user writes it: tests copy this file to where a user would have it."""


class Sticks:
    """Take one or two sticks; who takes the last one wins."""

    num_players, num_actions, max_moves = 2, 2, 12
    observation_shape, observation_dtype, zero_sum = (1, 4, 4), "uint8", True

    def __init__(self, seed):
        self.left, self.moves = 7 + seed % 5, 0

    def legal_actions(self):
        return range(min(2, self.left))

    def step(self, action):
        self.left -= action + 1
        self.moves += 1

    def to_play(self):
        return self.moves % 2

    def utility(self):
        winner = (self.moves - 1) % 2
        return None if self.left else [1 if seat == winner else -1 for seat in (0, 1)]

    def observe(self):
        cells = [self.left > i for i in range(16)]
        return [[cells[row * 4 : row * 4 + 4] for row in range(4)]]
