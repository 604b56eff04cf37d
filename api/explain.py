"""Answer "why was I paid this" from the index."""

from __future__ import annotations

from api.errors import NoSuchError
from api.models import Explanation, Step
from api.queries import Found, Reader, hexed
from api.tables import params_of
from marketplace.explain import explain
from marketplace.payout import Record

__all__ = ["explanation"]


def explanation(reader: Reader, project: Found, number: int, trainer: str) -> Explanation:
    """Return why a trainer was paid what it was for a round."""
    row = reader.round_row(project, number)
    if row["status"] != "settled":
        raise NoSuchError(
            f"round {number} is {row['status']}: there is something to explain once it is settled"
        )
    params = params_of(project["params"])
    updates = [found for found in reader.update_rows(project, number) if found["place"] >= 0]
    rule = reader.rules.get(params.rule.lower())
    records = [
        Record(
            share=found["share"],
            slashed=found["slashed"],
            weight=found["weight"],
            strikes=found["strikes"],
            reason=found["reason"],
            outlier=found["status"] in ("outlier", "aside"),
            deactivated=found["deactivated"],
        )
        for found in updates
    ]
    trainers = [found["trainer"] for found in updates]
    update = next((found for found in updates if found["trainer"] == trainer), None)
    if update is None:
        raise NoSuchError(
            f"{trainer} revealed no update in round {number}; these did: {', '.join(trainers)}"
        )
    found = explain(params, rule, trainers, records, row["gram"], trainer, update["stake"])
    return Explanation(
        project=hexed(project["id"]),
        round=number,
        trainer=trainer,
        status=update["status"],
        rule=rule,
        verdict=found.verdict,
        steps=[
            Step(name=line.name, value=line.value, formula=line.formula, shown=line.shown)
            for line in found.lines
        ],
        products={who: str(product) for who, product in found.products.items()},
        distance_rank=found.distance_rank,
        updates=len(found.products),
        share=str(update["share"]),
        pot=str(params.reward),
        slashed=str(update["slashed"]),
        stake=str(update["stake"]),
        strikes=update["strikes"],
        weight=update["weight"],
        token=reader.token(project),
        transaction=hexed(row["transaction"]),
    )
