"""The simulator does what its cells say, the same way each time."""

import numpy as np
import pytest

from deploy.lab.experiment import Cell, read_experiment
from deploy.lab.panel import PANEL, find_rule
from deploy.lab.plays import PLAYS, find_play
from deploy.lab.simulate import divide, run, world_of
from marketplace.errors import InputError
from trainer.errors import ModelError

LABELS = np.repeat(np.arange(10), 60)
SMALL = Cell(clients=6, samples=60, model="dense:16", rounds=3, attackers=0.34, epochs=2)


def with_(cell=SMALL, **changes):
    """Return a cell with some fields changed."""
    return Cell(**{**cell.__dict__, **changes})


@pytest.mark.parametrize("split", ["iid", "shards", "dirichlet:0.5", "dirichlet:0.01"])
def test_clients_hold_equally_many_samples_and_none_twice(split):
    held = divide(LABELS, 7, 80, split, np.random.default_rng(0))
    assert [len(part) for part in held] == [80] * 7
    assert len(np.unique(np.concatenate(held))) == 560


def test_shards_leave_most_clients_two_or_three_classes_and_iid_leaves_all():
    for split, most in (("shards", 3), ("iid", 10)):
        held = divide(LABELS, 10, 60, split, np.random.default_rng(1))
        assert max(len(np.unique(LABELS[part])) for part in held) <= most
    assert min(len(np.unique(LABELS[part])) for part in held) >= 9


@pytest.mark.parametrize(
    "split", ["uniform", "dirichlet", "dirichlet:0", "dirichlet:x", "shards:3"]
)
def test_an_unknown_split_is_refused(split):
    with pytest.raises(InputError, match="none of iid, shards, dirichlet"):
        divide(LABELS, 7, 80, split, np.random.default_rng(0))


def test_more_samples_than_there_are_is_refused():
    with pytest.raises(InputError, match="need 700; the data set has 600"):
        divide(LABELS, 7, 100, "iid", np.random.default_rng(0))


def test_the_same_cell_gives_the_same_result_and_another_seed_another():
    first, again, other = run(SMALL), run(SMALL), run(with_(seed=1))
    for result in (first, again, other):
        del result["seconds"], result["rule_ms"]
    assert first == again
    assert first["shares"] != other["shares"]


def test_honest_trainers_learn_the_digits():
    assert run(with_(rounds=15))["accuracy"] > 0.8  # guessing gives 0.1


def test_averaging_falls_to_scaled_sign_flips_and_the_oracle_does_not():
    attack = {"attack": "sign:8", "rounds": 15}
    assert run(with_(rule="fed-avg", **attack))["accuracy"] < 0.3
    result = run(with_(rule="oracle", **attack))
    assert result["accuracy"] > 0.7
    assert result["verdicts"] == ["." * 15] * 4 + ["a" * 15] * 2
    assert result["shares"][4:] == [0, 0]


@pytest.mark.parametrize("attack", PLAYS)
def test_every_attack_plays_against_every_kind_of_round(attack):
    result = run(with_(attack=attack, rule="multi-krum", rounds=2))
    assert [len(verdict) for verdict in result["verdicts"]] == [2] * 6
    assert sum(result["shares"]) == pytest.approx(2)


def test_an_insider_follows_the_root_at_the_length_of_the_honest():
    seen = []
    cell = with_(attack="insider:0", rule="PeelShapley+root", attackers=0.2)
    run(cell, lambda _, round_: seen.append(round_))
    for round_ in seen:
        *honest, insider = round_.updates
        along = insider @ round_.root / np.linalg.norm(insider) / np.linalg.norm(round_.root)
        assert along == pytest.approx(1)
        assert np.linalg.norm(insider) == pytest.approx(
            np.median([np.linalg.norm(update) for update in honest])
        )
    assert len(seen) == 3


def test_momentum_is_the_last_movement_at_the_length_of_the_last_honest_updates():
    seen = []
    run(with_(attack="momentum:0", rule="fed-avg"), lambda _, round_: seen.append(round_))
    assert not seen[0].updates[-1].any()
    for before, round_ in zip(seen, seen[1:], strict=False):
        rider = round_.updates[-1]
        length = np.linalg.norm(rider)
        assert rider @ round_.moved / np.linalg.norm(round_.moved) == pytest.approx(length)
        honest = [np.linalg.norm(update) for update in before.updates[:4]]
        assert length == pytest.approx(np.median(honest))


@pytest.mark.parametrize("rule", PANEL)
def test_every_rule_of_the_panel_pays_a_whole_pot_each_round(rule):
    result = run(with_(rule=rule, attack="gauss", rounds=2))
    assert sum(result["shares"]) == pytest.approx(2)
    assert 0 <= result["accuracy"] <= 1


def test_a_convolutional_model_trains_one_client_at_a_time():
    cell = with_(data="digits?shape=1,8,8", model="cnn", clients=3, samples=200, rounds=6)
    assert run(cell)["accuracy"] > 0.5
    with pytest.raises(ModelError, match="no model 'transformer'"):
        run(with_(model="transformer"))


def test_an_attack_that_does_not_exist_or_has_no_number_is_refused():
    with pytest.raises(InputError, match="no attack 'ipn'"):
        find_play("ipn")
    with pytest.raises(InputError, match="is no number"):
        find_play("ipm:x")
    assert find_play("ipm:0.5")[1] == 0.5


FILE = """
clients = 4
samples = 10
attackers = [0.25, 0.5]
attack = ["none", "zero"]
seed = [0, 1]
[[only]]
rule = "krum"
[[only]]
rule = "oracle"
attack = "none"
"""


def test_a_file_asks_for_every_combination_once(tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_text(FILE)
    cells = read_experiment(path)
    found = {(c.rule, c.attack, c.attackers, c.seed) for c in cells}
    expected = {("krum", "zero", part, seed) for part in (0.25, 0.5) for seed in (0, 1)}
    # Without attackers there is nothing to vary about them.
    expected |= {(rule, "none", 0.0, seed) for rule in ("krum", "oracle") for seed in (0, 1)}
    assert found == expected
    assert len(cells) == len(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rounds = 0", "rounds = 0 must be at least 1"),
        ("round = 3", "no key 'round'; there are data"),
        ('seed = "a"', "seed = 'a' must be int or a list of it"),
        ("seed = []", "must be int or a list"),
        ("seed = true", "must be int or a list"),
        ("attackers = 1.0", "below 1"),
        ("noise = -1", "not negative"),
        ("only = 3", "list of tables"),
        ("seed = ", "Invalid value"),
    ],
)
def test_a_file_with_a_mistake_says_which(tmp_path, text, message):
    path = tmp_path / "experiment.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_experiment(path)


def test_a_missing_file_is_wrong_input(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml"):
        read_experiment(tmp_path / "none.toml")


def test_a_root_has_as_many_samples_as_its_rule_says():
    def different(rule):
        return len(
            {tuple(row.reshape(-1).tolist()) for row in world_of(with_(rule=rule)).root.features}
        )

    assert different("PeelShapley+root:7") == 7
    assert different("PeelShapley+root") == SMALL.samples  # of 100, cut to a client's


@pytest.mark.parametrize("rule", ["fed-avg:3", "PeelShapley+root:0", "PeelShapley+root:few", "?"])
def test_a_rule_that_there_is_not_is_refused(rule):
    with pytest.raises(InputError, match="how many samples|no rule"):
        find_rule(rule)
