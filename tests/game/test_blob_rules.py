"""Blob's rules: OpenSpiel, the slow twin, and cases that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pyspiel
import pytest

from grove.common.errors import SettingError
from grove.game import check, load_game
from grove.game.blob import Blob
from tests.support.blob_tools import both, cards_of, play, replay, scores_of, start_state
from tests.support.naive_blob import NaiveRound, match_sizes, observation
from tests.support.positions import legal_actions, mover, result, start
from tests.support.positions import observation as row_of

ROUNDS_PER_SETTING = 250
ORACLE = [(3, c) for c in (1, 2, 4, 7, 10, 13, 17)] + [(4, c) for c in (1, 2, 3, 5, 7, 9, 12)]
ORACLE += [(5, c) for c in (1, 3, 5, 8, 10)] + [(6, c) for c in (1, 2, 3, 5, 8)] + [(7, c) for c in (1, 2, 4, 5, 7)]
"""(players, cards): 29 settings times 250 rounds."""


def oracle_card(card: int) -> int:
    """Return OpenSpiel's number of a card: 4 * rank + suit, suits clubs, diamonds, spades, hearts."""
    return 4 * (card % 13) + (2, 3, 0, 1)[card // 13]


def oracle_round(players: int, cards: int, rng: np.random.Generator):
    """Return an OpenSpiel state at its first bid, and hands, trump and dealer as we number them."""
    text = f"oh_hell(players={players},num_tricks_fixed={cards},off_bid_penalty=true,points_per_trick=1)"
    state = pyspiel.load_game(text).new_initial_state()
    order = [int(card) for card in rng.permutation(52)]
    dealer, upcard = int(rng.integers(players)), order[players * cards]
    for action in (cards, dealer, *map(oracle_card, order[: players * cards]), oracle_card(upcard)):
        state.apply_action(action)
    hands = [set(order[seat : players * cards : players]) for seat in range(players)]
    return state, hands, upcard // 13, dealer


@pytest.mark.parametrize(("players", "cards"), ORACLE)
def test_rounds_agree_with_openspiel(players: int, cards: int) -> None:
    game, rng = Blob(players, cards), np.random.default_rng([players, cards])
    theirs, ours = [], []
    for _ in range(ROUNDS_PER_SETTING):
        state, hands, trump, dealer = oracle_round(players, cards, rng)
        theirs.append(state)
        ours.append(start_state(game, hands, trump, dealer))
    states = np.concatenate(ours)
    moves = 0
    seats, done = np.zeros(len(states), np.int8), np.zeros(len(states), np.bool_)
    offsets, actions = np.zeros(len(states) + 1, np.int64), np.zeros(len(states) * game.max_legal, np.int32)
    utility = np.zeros((len(states), players))
    while not theirs[0].is_terminal():
        game.to_play(states, seats)
        game.legal(states, offsets, actions)
        chosen = np.empty(len(states), np.int32)
        for i, state in enumerate(theirs):
            legal = actions[offsets[i] : offsets[i + 1]].tolist()
            bids = moves < players
            mapped = [52 + a for a in legal] if bids else sorted(map(oracle_card, legal))
            assert state.current_player() == seats[i]
            assert state.legal_actions() == mapped
            chosen[i] = legal[rng.integers(len(legal))]
            state.apply_action(52 + int(chosen[i]) if bids else oracle_card(int(chosen[i])))
        game.step(states, chosen)
        moves += 1
    assert moves == game.max_moves
    game.outcome(states, done, utility)
    assert done.all()
    scores = np.maximum(0, np.array([state.returns() for state in theirs]))
    np.testing.assert_allclose(utility, 2 * scores / (10 + cards) - 1, atol=1e-12)


@pytest.mark.parametrize("spec", ["blob:players=8,cards=6", "blob:players=4,cards=13", "blob:players=5,cards=4"])
def test_rounds_agree_with_the_twin(spec: str) -> None:
    """What OpenSpiel cannot express: eight players, all 52 cards dealt, no trump."""
    game, rng = load_game(spec), np.random.default_rng(3)
    for number in range(150):
        state, twin = both(game, rng, trump=4 if number % 2 else None)
        while not twin.over():
            assert mover(game, state) == twin.mover
            assert legal_actions(game, state) == twin.legal()
            play(game, state, twin, int(rng.choice(twin.legal())))
        assert scores_of(game, state) == twin.scores()


@pytest.mark.parametrize("layout", ["rotated", "source"])
def test_rows_equal_the_list_of_slots(layout: str) -> None:
    rng = np.random.default_rng(4)
    unit = np.full(256, 1 / 120)
    unit[52:104] = 8 / 120
    for players, cards in ((3, 13), (4, 5), (5, 7), (8, 6), (7, 7)):
        game = Blob(players, cards, layout=layout)  # type: ignore[arg-type]
        for _ in range(8):
            state, twin = both(game, rng)
            while not twin.over():
                wanted = np.array(observation(twin, layout == "rotated"))
                assert np.abs(row_of(game, state) * unit - wanted).max() <= 1 / 240 + 1e-12
                play(game, state, twin, int(rng.choice(twin.legal())))


@pytest.mark.parametrize("spec", ["blob:players=3,cards=4", "blob:players=5,match=3", "blob:players=8,cards=6"])
def test_the_contract_is_kept(spec: str) -> None:
    check(load_game(spec), games=3)


# -- matches ---------------------------------------------------------------------------------------------------------


def test_sizes_of_a_match() -> None:
    assert Blob(5, match=7).rounds == match_sizes(7, 5)
    assert len(match_sizes(7, 5)) == 18
    assert Blob(3, match=1).rounds == [1] * 4
    assert Blob(4, match=3, ones=1).rounds == [3, 2, 1, 2, 3]


def test_a_match_carries_scores_and_draws_new_deals() -> None:
    game, rng = Blob(4, match=3), np.random.default_rng(0)
    for seed in (0, 1, 2, 12345678901234567890, 2**64 - 1):
        state, moves = start(game, seed), []
        totals = np.zeros(4, int)
        for number, size in enumerate(match_sizes(3, 4)):
            fields = state[0]
            assert (fields["cards"], fields["trump"], fields["dealer"]) == (size, number % 5, number % 4)
            hands = [cards_of(hand) for hand in fields["hands"]]
            assert len(set.union(*hands)) == 4 * size
            twin = NaiveRound(hands, number % 5, number % 4)
            while not twin.over():
                assert legal_actions(game, state) == twin.legal()
                moves.append(int(rng.choice(twin.legal())))
                play(game, state, twin, moves[-1])
            totals += twin.scores()
            assert state[0]["totals"].tolist() == totals.tolist()
        np.testing.assert_allclose(result(game, state), 2 * totals / sum(10 + c for c in match_sizes(3, 4)) - 1)
        check_annotations(game, seed, moves, totals)


def check_annotations(game: Blob, seed: int, moves: list[int], totals: np.ndarray) -> None:
    """The record alone must give the same scores: deal, bids and cards."""
    extra, left = game.annotate(seed, moves), list(moves)
    assert [replay(setup, left).scores() for setup in extra["setup"]] == extra["scores"]
    assert not left
    assert np.sum(extra["scores"], axis=0).tolist() == totals.tolist()


# -- texts and limits ------------------------------------------------------------------------------------------------


def test_texts() -> None:
    game = Blob(4, 5)
    assert [game.parse(text) for text in ("SA", "h10", "bid 3", "S2/bid 0")] == [12, 21, 3, 0]
    assert game.render_move(start(game, 3), 3) == "bid 3"
    for text in ("", "bid 60", "X4", "S1", "SA/bid 1"):
        with pytest.raises(SettingError, match="bid or a card"):
            game.parse(text)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("blob:players=2", "3 to 8"),
        ("blob:players=9", "3 to 8"),
        ("blob:players=4,cards=14", "1 to 13"),
        ("blob:players=4,cards=-1", "1 to 13"),
        ("blob:players=8,match=7", "1 to 6"),
        ("blob:players=4,cards=5,match=7", "one round of `cards` or a match"),
        ("blob:ones=3", "setting of a match"),
        ("blob:layout=mine", "rotated or source"),
    ],
)
def test_limits(spec: str, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        load_game(spec)


def test_canonical_names() -> None:
    for given, name in {
        "blob": "blob:players=4,cards=5",
        "blob:players=5,match=7,ones=6": "blob:players=5,match=7",
        "blob:players=5,match=7,ones=2": "blob:players=5,match=7,ones=2",
    }.items():
        assert load_game(given).name == name
        assert load_game(name).name == name
