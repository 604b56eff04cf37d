"""Profit and loss follow the marketplace's own schedule."""

from decimal import Decimal

import pytest

from deploy.lab.money import Prices, result_of

PRICES = Prices(
    reward=Decimal(100), stake=Decimal(50), slash=(10, 25, 50, 100), gas_price=Decimal("0.00001")
)  # gas: 0.75 a round


def row(verdicts, shares, attackers=0.5, attack="zero"):
    return {
        "clients": len(verdicts),
        "rounds": len(verdicts[0]),
        "attack": attack,
        "attackers": attackers,
        "verdicts": verdicts,
        "shares": shares,
    }


def test_who_is_slashed_every_round_loses_the_whole_stake_and_no_more():
    found = result_of(row(["....", "ssss"], [4.0, 0.0]), PRICES)
    # 10, 25, 50 per cent leave 15 % of the stake, which the fourth strike takes.
    assert found.attacker == pytest.approx(-50 / 4 - 0.75)
    assert found.honest == pytest.approx(100 - 0.75)
    assert found.slashed == found.victims == 0


def test_a_round_that_counts_takes_a_strike_back():
    found = result_of(row(["s.s.", "...."], [2.0, 2.0]), PRICES)
    assert found.slashed == pytest.approx(2 * 5 / 4)  # first strikes of 10 % both
    assert found.victims == 500
    assert found.honest == pytest.approx(200 / 4 - 2.5 - 0.75)


def test_who_is_set_aside_earns_nothing_and_pays_the_gas():
    found = result_of(row(["..", "aa"], [2.0, 0.0]), PRICES)
    assert found.attacker == pytest.approx(-0.75)


def test_without_attackers_all_are_honest():
    found = result_of(row(["..", ".."], [1.0, 1.0], attack="none"), PRICES)
    assert found.attacker != found.attacker
    assert found.honest == pytest.approx(50 - 0.75)
