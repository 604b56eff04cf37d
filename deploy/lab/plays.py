"""Let the lab's attackers play: what they train on, and what they send.

A play is written NAME or NAME:STRENGTH. It sees a `Scene`, all that the attackers of a round can
know, and returns their updates f64[a, d]. Attackers are the last clients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marketplace.errors import InputError
from trainer.attacks import (
    backdoor,
    clones,
    flip_labels,
    frame,
    inner_product,
    inside_threshold,
    little_is_enough,
    min_max,
    min_sum,
    noise_of_honest_size,
    random_values,
    scale,
    sign_flip,
    swap_label,
)
from trainer.data import Dataset

__all__ = ["PLAYS", "TARGET", "Play", "Scene", "find_play"]

TARGET = 0
"""The class that a backdoor leads to."""

Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """Hold what attackers know in a round.

    `honest` f64[h, d] are the honest updates, which commit and reveal keep from real attackers, and
    `before` those of the last round, which everybody reads in an open project (None in the first);
    `own` f64[a, d] what the attackers' own training gave, `moved` f64[d] the model's last movement,
    `root` f64[d] the root trainer's update (None without one), which its own people alone know,
    `strength` the number after the play's name (NaN without one). `accepted` says whether the
    round's rule takes the last a of n updates.
    """

    honest: Vectors
    before: Vectors | None
    own: Vectors
    moved: NDArray[np.float64]
    root: NDArray[np.float64] | None
    round: int
    strength: float
    rng: np.random.Generator
    accepted: Callable[[Vectors], bool]

    @property
    def count(self) -> int:
        """Return how many attackers there are."""
        return len(self.own)

    def strong(self, otherwise: float) -> float:
        """Return the strength, or what it is where none was given."""
        return otherwise if np.isnan(self.strength) else self.strength

    def together(self, update: NDArray[np.float64]) -> Vectors:
        """Return the same update for every attacker."""
        return np.tile(update, (self.count, 1))


@dataclass(frozen=True)
class Play:
    """Say what attackers send, whether they train for it, and on what."""

    send: Callable[[Scene], Vectors]
    poison: Callable[[Dataset, float, np.random.Generator], Dataset] | None = None
    trains: bool = True


def _own(scene: Scene) -> Vectors:
    return scene.own


def _little(scene: Scene) -> Vectors:
    deviations = None if np.isnan(scene.strength) else scene.strength
    return scene.together(little_is_enough(scene.honest, scene.count, deviations))


def _gaussian(scene: Scene) -> Vectors:
    d = scene.honest.shape[1]
    return random_values(scene.count * d, scene.strong(0.1), scene.rng).reshape(scene.count, d)


def _replay(scene: Scene) -> Vectors:
    """Send the model's last movement again; each a little different, or they are duplicates."""
    return clones(scene.moved, scene.count, scene.strong(0.01), scene.rng)


def _momentum(scene: Scene) -> Vectors:
    """Send the model's last movement at an honest length, which the last round's matrix tells."""
    if scene.before is None:
        return np.zeros_like(scene.own)
    size = float(np.median(np.linalg.norm(scene.before, axis=1)))
    stretched = scene.moved * (size / max(float(np.linalg.norm(scene.moved)), 1e-12))
    return clones(stretched, scene.count, scene.strong(0.01), scene.rng)


def _free_noise(scene: Scene) -> Vectors:
    size = float(np.median(np.linalg.norm(scene.honest, axis=1)))
    unit = np.full(scene.honest.shape[1], size / scene.honest.shape[1] ** 0.5)
    return np.array([noise_of_honest_size(unit, scene.rng) for _ in range(scene.count)])


def _frame(scene: Scene, known: Vectors | None) -> Vectors:
    """Draw the crowd away from the first honest trainer; behave while nothing is known of it."""
    if known is None:
        return scene.own
    return frame(known, 0, scene.count, scene.strong(1.0))


def _adapt(scene: Scene, known: Vectors | None) -> Vectors:
    """Go against the honest as far as the rule lets pass; behave while nothing is known of them."""
    if known is None:
        return scene.own
    return inside_threshold(known, scene.count, scene.accepted, scene.rng)


def _copy(scene: Scene, known: Vectors | None) -> Vectors:
    """Send the first honest trainer's update; behave while nothing is known of it."""
    if known is None:
        return scene.own
    return clones(known[0], scene.count, scene.strong(0.1), scene.rng)


def _insider(scene: Scene) -> Vectors:
    """Follow the root, which its sponsor's own trainers know, at the honest ones' median length."""
    if scene.root is None:
        return scene.own
    size = float(np.median(np.linalg.norm(scene.honest, axis=1)))
    followed = scene.root * (size / max(float(np.linalg.norm(scene.root)), 1e-12))
    return clones(followed, scene.count, scene.strong(0.3), scene.rng)


def _sleeper(scene: Scene) -> Vectors:
    """Behave for five rounds, then manipulate inner products."""
    if scene.round < 5:
        return scene.own
    return scene.together(inner_product(scene.honest, scene.strong(0.5)))


def _noisy_ipm(scene: Scene) -> Vectors:
    """Hide that the updates are alike: each carries another honest one's deviation."""
    mean = scene.honest.mean(axis=0)
    deviations = scene.honest[scene.rng.integers(0, len(scene.honest), scene.count)] - mean
    turned: Vectors = inner_product(scene.honest, scene.strong(0.5)) + deviations
    return turned


PLAYS: dict[str, Play] = {
    "random": Play(_gaussian, trains=False),
    "gauss": Play(_gaussian, trains=False),
    "zero": Play(lambda scene: np.zeros_like(scene.own), trains=False),
    "sign": Play(
        lambda scene: sign_flip(scene.own.reshape(-1), scene.strong(1)).reshape(scene.own.shape)
    ),
    "scale": Play(
        lambda scene: scale(scene.own.reshape(-1), scene.strong(10)).reshape(scene.own.shape)
    ),
    "label": Play(_own, lambda data, _, __: flip_labels(data)),
    "swap": Play(_own, lambda data, _, __: swap_label(data, 7, 1)),
    "alie": Play(_little, trains=False),
    "ipm": Play(
        lambda scene: scene.together(inner_product(scene.honest, scene.strong(0.5))), trains=False
    ),
    "noisy-ipm": Play(_noisy_ipm, trains=False),
    "min-max": Play(lambda scene: scene.together(min_max(scene.honest)), trains=False),
    "min-sum": Play(lambda scene: scene.together(min_sum(scene.honest)), trains=False),
    "backdoor": Play(
        lambda scene: scene.strong(3) * scene.own,
        lambda data, _, rng: backdoor(data, TARGET, 0.5, rng),
    ),
    "stealth": Play(
        _own, lambda data, part, rng: backdoor(data, TARGET, 0.1 if np.isnan(part) else part, rng)
    ),
    "replay": Play(_replay, trains=False),
    "momentum": Play(_momentum, trains=False),
    "free-noise": Play(_free_noise, trains=False),
    "sybil": Play(lambda scene: clones(scene.own[0], scene.count, scene.strong(0.1), scene.rng)),
    "copycat": Play(lambda scene: _copy(scene, scene.before)),
    "copycat-now": Play(lambda scene: _copy(scene, scene.honest), trains=False),
    "insider": Play(_insider),
    "sleeper": Play(_sleeper),
    "adaptive": Play(lambda scene: _adapt(scene, scene.before)),
    "adaptive-now": Play(
        lambda scene: _adapt(scene, scene.honest),
        trains=False,
    ),
    "frame": Play(lambda scene: _frame(scene, scene.before)),
    "frame-now": Play(lambda scene: _frame(scene, scene.honest), trains=False),
}


def find_play(attack: str) -> tuple[Play, float]:
    """Return the play that an attack names, and its strength; InputError where there is none."""
    name, _, text = attack.partition(":")
    if name not in PLAYS:
        raise InputError(f"no attack {name!r}; there are none, {', '.join(PLAYS)}")
    try:
        return PLAYS[name], float(text) if text else float("nan")
    except ValueError:
        raise InputError(f"the strength of attack {attack!r} is no number") from None
