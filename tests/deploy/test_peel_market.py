"""A market settles under PeelShapley."""

import pytest

from deploy.devnet import running_anvil
from marketplace.errors import NotFoundError
from tests.market import Town


def test_free_riders_who_send_nothing_earn_nothing_and_lose_nothing(tmp_path):
    with running_anvil() as rpc:
        town = Town(rpc, tmp_path)
        with pytest.raises(
            NotFoundError, match="no rule named 'Peel' is deployed here; known: .*PeelShapley"
        ):
            town.open(["honest"], rule="Peel")
        stage = town.open(["honest"] * 4 + ["zero"], rule="PeelShapley", rounds=1)
        stage.play(lambda view: view.state.settled_rounds == 1)
        (settled,) = stage.view.history.settled
    records = dict(
        zip((reveal.trainer for reveal in settled.reveals), settled.settlement.records, strict=True)
    )
    paid = [records[trainer.signer.address] for trainer in stage.trainers]
    assert all(record.share > 0 for record in paid[:4])
    assert (paid[4].share, paid[4].weight, paid[4].slashed, paid[4].outlier) == (0, 0, 0, False)
    assert sum(record.share for record in paid) == stage.view.params.reward
