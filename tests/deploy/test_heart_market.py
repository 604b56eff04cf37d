"""Four hospitals train one model on their own heart-disease records (Detrano et al. 1989)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from aggregator.service import AggregatorService
from deploy.devnet import running_anvil
from deploy.opening import Terms, open_project
from deploy.show import verify_model
from ipfs.reader import reader
from marketplace.codec import Description, Training, to_float
from marketplace.history import ProjectView
from marketplace.types import Status
from marketplace.wallet import dev_account
from tests.market import AGGREGATOR, FIRST_TRAINER, SINK, SPONSOR, Town
from trainer.client import TrainerClient
from trainer.data import Dataset, load
from trainer.models import build
from trainer.training import evaluate

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
RECORDS = (303, 294, 123, 200)
"""As the UCI repository's description counts them."""


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with running_anvil() as rpc:
        yield Town(rpc, tmp_path)


@pytest.mark.parametrize(
    ("model", "options"), [("logistic", {}), ("mlp", {"hidden": 16})], ids=["logistic", "mlp"]
)
def test_hospitals_share_a_model_and_no_record(town, heart, model, options):
    # 13 measurements, of which many are missing; any of the grades 1 to 4 is disease.
    names = [
        f"csv:{heart}/processed.{hospital}.data?missing=?&above=0&standardise=1"
        for hospital in HOSPITALS
    ]
    datasets = [load(name) for name in names]
    assert tuple(map(len, datasets)) == RECORDS
    terms = Terms(
        description=Description(
            title="Heart disease",
            model=model,
            model_options={"features": 13, "classes": 2, **options},
            training=Training(learning_rate=0.1, batch_size=16, epochs=4),
        ),
        aggregator=dev_account(AGGREGATOR).address,
        slash_sink=dev_account(SINK).address,
        rounds=4,
        capacity=4,
        min_updates=4,
    )
    project = open_project(town.signer(SPONSOR), town.store, town.srs, terms)
    view = ProjectView(town.chain, project)
    service = AggregatorService(view, town.signer(AGGREGATOR), town.store, town.srs)
    actors = [service] + [
        TrainerClient(
            ProjectView(town.chain, project),
            town.signer(FIRST_TRAINER + k),
            town.store,
            town.srs,
            dataset,
            town.home / "journal",
            seed=k,
        )
        for k, dataset in enumerate(datasets)
    ]
    for _ in range(200):
        if view.ended:
            break
        for actor in actors:
            actor.step()
    view.refresh()
    assert view.state.status == Status.FINISHED
    assert verify_model(view, town.store, town.srs).good

    module = build(model, terms.description.model_options, 0)
    everybody = Dataset(
        torch.cat([dataset.features for dataset in datasets]),
        torch.cat([dataset.labels for dataset in datasets]),
        2,
    )
    sick = float(everybody.labels.double().mean())
    assert sick == pytest.approx(509 / 920)
    final = view.model(reader(town.store), town.srs)
    found = evaluate(module, to_float(final.values, view.params.step_bits), everybody)
    # Always saying "sick" is right for 55 % of the records.
    assert found.accuracy > 0.7
