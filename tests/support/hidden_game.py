"""Hands: a short card game of three or five players for tests of worlds, as a user would write a compiled game.

Each round deals a few of twelve cards to every seat; the rest stay face down. Seats bid how many tricks they will take,
then play: any card may be played, the highest takes the trick, its owner leads. A round pays one point a trick, and two
more for an exact bid. Utilities are the share of the most points possible, from -1 to 1: they do not sum to zero. The
seed deals every round; the seat after the last dealer begins.

What the mover sees: its own cards, all that was bid and played, and the points. A world ends with its round.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from grove.common.kernels import kernel
from grove.common.rng import below, derive

CARDS, MOST_SEATS, NONE = 12, 5, -1
DOWN, PLAYED = -1, -2
"""Owners of cards that lie face down and of those played."""
STATE = np.dtype([
    ("seed", np.uint64),
    ("owner", np.int8, (CARDS,)),
    ("bid", np.int8, (MOST_SEATS,)), ("laid", np.int8, (MOST_SEATS,)),  # NONE: not yet; laid: in the present trick
    ("tricks", np.int8, (MOST_SEATS,)), ("points", np.int8, (MOST_SEATS,)),
    ("seats", np.int8), ("hand", np.int8), ("rounds", np.int8),  # the rules of this game
    ("round", np.int8), ("age", np.int8), ("mover", np.int8), ("world", np.int8),
])  # fmt: skip


@kernel
def shuffled(key, cards):  # u64, i8[n]
    """Shuffle `cards` in place (Fisher and Yates)."""
    for i in range(cards.shape[0] - 1, 0, -1):
        j = below(key, i, i + 1)
        cards[i], cards[j] = cards[j], cards[i]


@kernel
def deal(state):
    """Deal the state's round and let its first seat begin."""
    cards = np.arange(CARDS).astype(np.int8)
    shuffled(np.uint64(derive(state.seed, state.round)), cards)
    for i in range(CARDS):
        state.owner[cards[i]] = i % state.seats if i < state.seats * state.hand else DOWN
    for seat in range(MOST_SEATS):
        state.bid[seat] = state.laid[seat] = NONE
        state.tricks[seat] = 0
    state.age = 0
    state.mover = state.round % state.seats


@kernel
def initial(seeds, out, seats, rounds):  # u64[B], S[B]
    """Deal the first rounds."""
    for i in range(seeds.shape[0]):
        out[i].seed = seeds[i]
        out[i].seats, out[i].hand, out[i].rounds = seats, (CARDS - 1) // seats, rounds
        out[i].round = out[i].world = 0
        for seat in range(MOST_SEATS):
            out[i].points[seat] = 0
        deal(out[i])


@kernel
def step(states, actions):  # S[B], i32[B]
    """Bid or play a card."""
    for i in range(states.shape[0]):
        state, action = states[i], actions[i]
        state.age += 1
        if action >= CARDS:
            state.bid[state.mover] = action - CARDS
            state.mover = (state.mover + 1) % state.seats
            continue
        state.owner[action] = PLAYED
        state.laid[state.mover] = action
        state.mover = (state.mover + 1) % state.seats
        if state.laid[state.mover] != NONE:
            take(state)


@kernel
def take(state):
    """Give the full trick to its highest card, and end the round with its last trick."""
    best = 0
    for seat in range(state.seats):
        best = seat if state.laid[seat] > state.laid[best] else best
    for seat in range(state.seats):
        state.laid[seat] = NONE
    state.tricks[best] += 1
    state.mover = best
    if state.age == state.seats * (state.hand + 1):
        for seat in range(state.seats):
            state.points[seat] += state.tricks[seat] + 2 * (state.bid[seat] == state.tricks[seat])
        state.round += 1
        if not over(state):
            deal(state)


@kernel
def over(state):
    """Return whether nothing follows: the last round is played, or a world its only one."""
    return state.round == state.rounds or (state.world > 0 and state.round >= state.world)


@kernel
def legal(states, offsets, actions):  # S[B], i64[B + 1], i32[>= 4 B]
    """List the mover's cards, or the bids before the seat has bid."""
    offsets[0] = n = 0
    for i in range(states.shape[0]):
        state = states[i]
        bidding = state.bid[state.mover] == NONE
        for card in range(CARDS):
            if not bidding and state.owner[card] == state.mover:
                actions[n] = card
                n += 1
        for tricks in range(state.hand + 1):
            if bidding:
                actions[n] = CARDS + tricks
                n += 1
        offsets[i + 1] = n


@kernel
def to_play(states, out):  # S[B], i8[B]
    """Write the seats to move."""
    for i in range(states.shape[0]):
        out[i] = states[i].mover


@kernel
def outcome(states, done, utility):  # S[B], bool[B], f64[B, P]
    """Over after the last round, a world after its own."""
    for i in range(states.shape[0]):
        state = states[i]
        done[i] = over(state)
        for seat in range(state.seats):
            utility[i, seat] = 2.0 * state.points[seat] / (state.rounds * (state.hand + 2)) - 1.0


@kernel
def observe(states, out):  # S[B], i8[B, 12 + 4 P + 1]
    """Write the cards (1 own, -1 unseen, -2 played); bid, card laid, tricks and points of every seat; the round."""
    for i in range(states.shape[0]):
        state = states[i]
        for card in range(CARDS):
            owner = state.owner[card]
            out[i, card] = 1 if owner == state.mover else PLAYED if owner == PLAYED else DOWN
        for k in range(state.seats):
            seat = (state.mover + k) % state.seats
            at = CARDS + 4 * k
            out[i, at], out[i, at + 1] = state.bid[seat], state.laid[seat]
            out[i, at + 2], out[i, at + 3] = state.tricks[seat], state.points[seat]
        out[i, CARDS + 4 * state.seats] = state.round


@kernel
def determinize(states, seeds, out):  # S[B], u64[B], S[B]
    """Deal the cards that the mover does not see anew; the seed of the deals to come stays unknown."""
    for i in range(states.shape[0]):
        out[i] = states[i]
        world = out[i]
        world.seed = 0
        world.world = world.round + 1
        places, cards = np.empty(CARDS, np.int8), np.empty(CARDS, np.int8)
        unseen = 0
        for seat in range(DOWN, world.seats):  # by owner: what the order of cards would tell is hidden too
            for card in range(CARDS):
                if world.owner[card] == seat and seat != world.mover:
                    places[unseen] = seat
                    unseen += 1
        unseen = 0
        for card in range(CARDS):
            if world.owner[card] != PLAYED and world.owner[card] != world.mover:
                cards[unseen] = card
                unseen += 1
        shuffled(seeds[i], cards[:unseen])
        for k in range(unseen):
            world.owner[cards[k]] = places[k]


@kernel
def age(states, out):  # S[B], i32[B]
    """Write the moves of the present round."""
    for i in range(states.shape[0]):
        out[i] = states[i].age


class Hands:
    """Hands as a :class:`grove.game.contract.Game`; spec ``tests.support.hidden_game:Hands`` for three seats and two
    rounds."""

    num_actions = CARDS + (CARDS - 1) // 3 + 1
    max_legal = (CARDS - 1) // 3 + 1
    state_dtype = STATE
    observation_dtype = np.dtype(np.int8)
    zero_sum = False
    compiled = True
    hidden_information = True
    symmetries = None

    step = staticmethod(step)
    legal = staticmethod(legal)
    to_play = staticmethod(to_play)
    outcome = staticmethod(outcome)
    observe = staticmethod(observe)
    determinize = staticmethod(determinize)
    age = staticmethod(age)

    def __init__(self, seats: int = 3, rounds: int = 2) -> None:
        self.name = f"tests.support.hidden_game:{'Hands' if seats == 3 else 'FiveHands'}"
        self.num_players, self.rounds = seats, rounds
        self.max_moves = rounds * seats * ((CARDS - 1) // seats + 1)
        self.observation_shape = (CARDS + 4 * seats + 1,)
        self.units = {"matches": 1, "rounds": rounds}

    def initial(self, seeds: NDArray[np.uint64], out: NDArray[Any]) -> None:
        """Deal the first rounds."""
        initial(seeds, out, self.num_players, self.rounds)

    def annotate(self, seed: int, moves: list[int]) -> dict[str, Any]:
        """Return the points of every seat after the moves."""
        states = np.zeros(1, STATE)
        self.initial(np.array([seed], np.uint64), states)
        for move in moves:
            step(states, np.array([move], np.int32))
        return {"points": states["points"][0, : self.num_players].tolist()}

    def parse(self, text: str) -> int:
        """Return the action of a card 0..11 or of a bid b0..b3."""
        return CARDS + int(text[1:]) if text.startswith("b") else int(text)

    def render_action(self, action: int) -> str:
        """Return the number of the card, or b and the bid."""
        return f"b{action - CARDS}" if action >= CARDS else str(action)

    def render_move(self, state: NDArray[Any], action: int) -> str:
        """Return the same text wherever the action is played."""
        return self.render_action(action)

    def render(self, state: NDArray[Any]) -> str:
        """Return the owner of each card: a seat, - face down, * played."""
        return "".join({DOWN: "-", PLAYED: "*"}.get(int(o), str(o)) for o in state.reshape(-1)[0]["owner"])


class FiveHands(Hands):
    """Five seats with two cards each."""

    def __init__(self) -> None:
        super().__init__(seats=5)
