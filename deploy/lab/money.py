"""Count what an attack brings its players, from a run's shares and verdicts and a project's terms.

Strikes, slashing and deactivation are the marketplace's own (`marketplace.payout.pay`); the gas of
a trainer's two transactions is charged every round. The sponsor pays the pot whatever happens: what
it loses is what attackers are paid of it, and the accuracy that the report puts beside. Not
counted: what training costs; and that who has no stake left does not play on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from deploy.opening import Terms
from marketplace.payout import Standing, pay
from marketplace.scoring import Scores

__all__ = ["TRAINER_GAS", "Prices", "Result", "result_of"]

TRAINER_GAS = 75_000
"""What commit and reveal use in a round, rounded up from the gas report."""

_UNIT = 10**9


@dataclass(frozen=True)
class Prices:
    """State a project's money, in tokens, and what gas costs in tokens."""

    reward: Decimal = Terms.reward
    stake: Decimal = Terms.stake
    slash: tuple[float, ...] = Terms.slash
    gas_price: Decimal = Decimal("0.000003")

    @property
    def round_gas(self) -> float:
        """Return what a trainer pays for its transactions of a round."""
        return float(self.gas_price * TRAINER_GAS)


@dataclass(frozen=True)
class Result:
    """Hold mean amounts in tokens for each trainer and round: of attackers (or NaN), of honest.

    `slashed` is what an honest trainer lost; `victims` how many verdicts of a thousand on honest
    trainers took stake; `paid` what the sponsor paid all attackers, in tokens a round.
    """

    attacker: float
    honest: float
    slashed: float
    victims: float
    paid: float


def result_of(row: Mapping[str, Any], prices: Prices) -> Result:
    """Return who won and lost what in a run."""
    n, rounds = int(row["clients"]), int(row["rounds"])
    hostile = 0 if row["attack"] == "none" else round(n * float(row["attackers"]))
    lost = [_lost(verdicts, prices) for verdicts in row["verdicts"]]
    reward = float(prices.reward)
    nets = [
        (reward * share - loss) / rounds - prices.round_gas
        for share, loss in zip(row["shares"], lost, strict=True)
    ]
    honest = n - hostile
    taken = sum(verdicts.count("s") for verdicts in row["verdicts"][:honest])
    return Result(
        sum(nets[honest:]) / hostile if hostile else float("nan"),
        sum(nets[:honest]) / honest,
        sum(lost[:honest]) / honest / rounds,
        1000 * taken / honest / rounds,
        reward * sum(row["shares"][honest:]) / rounds,
    )


def _lost(verdicts: str, prices: Prices) -> float:
    """Return what one trainer loses of its stake, in tokens, strike by strike."""
    stake = int(prices.stake * _UNIT)
    bps = [round(100 * percent) for percent in prices.slash]
    schedule = bps + bps[-1:] * (16 - len(bps))
    standing = Standing(stake, 0, True)
    for letter in verdicts:
        if not standing.active:
            break
        scores = Scores((0,), (0,), (letter == "s",))
        _, (standing,) = pay([standing], b"", scores, stake, schedule)
    return (stake - standing.stake) / _UNIT
