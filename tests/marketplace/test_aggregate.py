"""A round is decided the same way everywhere, and each fault has its reason."""

import hashlib
import math
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketplace.aggregate import aggregate
from marketplace.codec import ONE, Model, Update, unpack_gram
from marketplace.proof.commitment import R, combine, commit
from marketplace.proof.srs import Srs, generate
from marketplace.scoring import MultiKrumParams, multi_krum_shapley
from marketplace.types import NOBODY, Exclusion, Params, Reveal

D = 12
N = 6
CLIP = 5000
RULE = "MultiKrumShapley"
MODEL = Model(np.arange(D, dtype=np.int64) << 30, 77)


def params(min_updates=3):
    values = {field.name: 0 for field in fields(Params)}
    values |= {
        "root": NOBODY,
        "dimension": D,
        "min_updates": min_updates,
        "clip_norm": CLIP,
        "reward": 10**20 + 7,
        "rule_params": MultiKrumParams().pack(),
    }
    return Params(**values)


def honest(n=N):
    rng = np.random.default_rng(1)
    return [Update(rng.normal(500, 200, D).astype(np.int16), 1000 + k) for k in range(n)]


def reveal_of(srs, update, k):
    point = commit(srs, update.values, update.blinding)
    return Reveal(f"0x{k:040x}", point, hashlib.sha256(bytes([k])).digest())


@pytest.fixture(scope="module")
def srs(tmp_path_factory) -> Srs:
    return generate(tmp_path_factory.mktemp("srs") / "srs", D + 8, b"aggregate")


@pytest.fixture(scope="module")
def reveals(srs):
    return tuple(reveal_of(srs, update, k) for k, update in enumerate(honest()))


def decide(srs, reveals, updates, min_updates=3):
    return aggregate(srs, params(min_updates), RULE, reveals, updates, MODEL)


def digest(outcome):
    """Return a hash of all bytes of an outcome."""
    parts = [outcome.exclusions, *outcome.points, outcome.updates.tobytes(), outcome.gram or b""]
    parts += [repr(outcome.scores).encode(), repr(outcome.blindings).encode()]
    if outcome.model is not None:
        parts += [outcome.model.values.tobytes(), str(outcome.model.blinding).encode()]
    return hashlib.sha256(b"|".join(parts)).hexdigest()


def test_a_round_without_fault_is_decided_by_its_matrix(srs, reveals):
    updates = honest()
    outcome = decide(srs, reveals, updates)
    rows = [update.values.tolist() for update in updates]
    products = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]
    assert unpack_gram(outcome.gram, N).tolist() == products
    assert outcome.exclusions == b""
    assert outcome.points == tuple(reveal.point for reveal in reveals)
    assert outcome.updates.tolist() == rows
    assert outcome.blindings == tuple(update.blinding for update in updates)
    expected = multi_krum_shapley(np.array(products), MultiKrumParams(), 10**20 + 7)
    assert outcome.scores == expected
    for k in range(D):
        moved = sum(w * row[k] for w, row in zip(expected.weights, rows, strict=True))
        assert outcome.model.values[k] == MODEL.values[k] + moved


def test_the_roots_update_divides_the_pot_and_stays_out_of_the_model(srs, reveals):
    updates = honest()
    # The last trainer goes against the root; nobody can be an outlier here.
    updates[5] = Update((-0.3 * updates[2].values).astype(np.int16), updates[5].blinding)
    reveals = [reveal_of(srs, update, k) for k, update in enumerate(updates)]
    lenient = replace(params(), rule_params=MultiKrumParams(0, 10_000).pack())
    terms = replace(lenient, root=reveals[2].trainer)
    outcome = aggregate(srs, terms, RULE, reveals, updates, MODEL)
    rows = [update.values.astype(int) for update in updates]
    plain = aggregate(
        srs, lenient, RULE, reveals[:2] + reveals[3:], updates[:2] + updates[3:], MODEL
    )
    assert plain.scores.weights[4] > 0
    assert outcome.scores.weights[2] == outcome.scores.weights[5] == outcome.scores.shares[5] == 0
    assert sum(outcome.scores.weights) == ONE and not any(outcome.scores.outliers)
    paid = [k for k in range(N) if outcome.scores.weights[k]]
    values = {k: outcome.scores.weights[k] * int(rows[k] @ rows[2]) for k in paid}
    # Pay grows with the power 3/2 of a contribution.
    counted = {k: value * math.isqrt(value) for k, value in values.items()}
    for k in paid:
        share = terms.reward * counted[k] // sum(counted.values())
        assert 0 <= outcome.scores.shares[k] - share < N
    moved = sum(w * row for w, row in zip(outcome.scores.weights, rows, strict=True))
    assert outcome.model.values.tolist() == (MODEL.values + moved).tolist()
    # Excluded, it is no root.
    gone = [Exclusion.MALFORMED if k == 2 else update for k, update in enumerate(updates)]
    assert aggregate(srs, terms, RULE, reveals, gone, MODEL).scores == plain.scores


def test_the_next_model_opens_the_commitment_that_the_chain_implies(srs, reveals):
    outcome = decide(srs, reveals, honest())
    implied = combine(
        [commit(srs, MODEL.values, MODEL.blinding), *outcome.points], [1, *outcome.scores.weights]
    )
    assert commit(srs, outcome.model.values, outcome.model.blinding) == implied


def test_without_a_reference_string_openings_are_believed_and_nothing_else(srs, reveals):
    updates = honest()
    updates[2] = Update(updates[2].values + np.int16(1), updates[2].blinding)
    assert decide(srs, reveals, updates).exclusions[2] == Exclusion.MISMATCH
    assert decide(None, reveals, updates).exclusions == b""
    updates[1] = Exclusion.UNAVAILABLE
    assert decide(None, reveals, updates).exclusions == b"\0\1\0\0\0\0"


def spoil(fault, srs, reveals, updates):
    """Spoil the third update; return the reason that it must be excluded for."""
    good, reveal = updates[2], reveals[2]
    match fault:
        case "missing":
            updates[2] = Exclusion.UNAVAILABLE
            return Exclusion.UNAVAILABLE
        case "malformed":
            updates[2] = Exclusion.MALFORMED
            return Exclusion.MALFORMED
        case "another update":
            updates[2] = Update(good.values + np.int16(1), good.blinding)
            return Exclusion.MISMATCH
        case "another blinding":
            updates[2] = Update(good.values, good.blinding + 1)
            return Exclusion.MISMATCH
        case "numbers beyond 16 bits":
            # The proof alone would take it: its statement knows no range.
            beyond = combine([reveal.point, srs.raw(3, 4)], [1, 1 << 40])
            reveals[2] = Reveal(reveal.trainer, beyond, reveal.cid)
            return Exclusion.MISMATCH
        case "numbers beyond the model's dimension":
            beyond = combine([reveal.point, srs.raw(D, D + 1)], [1, 7])
            reveals[2] = Reveal(reveal.trainer, beyond, reveal.cid)
            return Exclusion.MISMATCH
        case "point off the curve":
            reveals[2] = Reveal(reveal.trainer, b"\x01" * 96, reveal.cid)
            return Exclusion.BAD_POINT
        case "point outside the subgroup":
            # (0, 2) is on y² = x³ + 4 and has order 3.
            reveals[2] = Reveal(reveal.trainer, bytes(95) + b"\x02", reveal.cid)
            return Exclusion.BAD_POINT
        case "identity":
            reveals[2] = Reveal(reveal.trainer, bytes(96), reveal.cid)
            return Exclusion.BAD_POINT
        case "bad point without content":
            reveals[2] = Reveal(reveal.trainer, b"\x01" * 96, reveal.cid)
            updates[2] = Exclusion.UNAVAILABLE
            return Exclusion.BAD_POINT
        case "copy":
            reveals[2] = Reveal(reveal.trainer, reveals[0].point, reveal.cid)
            updates[2] = updates[0]
            return Exclusion.DUPLICATE
        case "negated copy":
            reveals[2] = Reveal(reveal.trainer, combine([reveals[0].point], [-1]), reveal.cid)
            updates[2] = Update(-updates[0].values, R - updates[0].blinding)
            return Exclusion.DUPLICATE
        case "too long":
            # The norm's limit leaves room for rounding: 5000 + isqrt(12) + 1 = 5004.
            updates[2] = Update(np.array([5005, *[0] * (D - 1)], dtype=np.int16), 5)
            reveals[2] = reveal_of(srs, updates[2], 2)
            return Exclusion.OUT_OF_RANGE
    raise AssertionError(fault)


FAULTS = (
    "missing",
    "malformed",
    "another update",
    "another blinding",
    "numbers beyond 16 bits",
    "numbers beyond the model's dimension",
    "point off the curve",
    "point outside the subgroup",
    "identity",
    "bad point without content",
    "copy",
    "negated copy",
    "too long",
)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_excludes_its_update_alone_and_by_its_reason(srs, reveals, fault):
    updates, revealed = honest(), list(reveals)
    reason = spoil(fault, srs, revealed, updates)
    outcome = decide(srs, revealed, updates)
    assert outcome.exclusions == bytes([0, 0, reason, 0, 0, 0])
    kept = [k for k in range(N) if k != 2]
    rest = decide(srs, [reveals[k] for k in kept], [honest()[k] for k in kept])
    assert rest.exclusions == b""
    for name in ("points", "gram", "scores", "blindings"):
        assert getattr(outcome, name) == getattr(rest, name)
    assert outcome.model.values.tolist() == rest.model.values.tolist()


def test_every_reason_is_met_by_some_fault(srs, reveals):
    met = {spoil(fault, srs, list(reveals), honest()) for fault in FAULTS}
    assert met == set(Exclusion) - {Exclusion.NONE}


def test_an_update_of_exactly_the_longest_norm_counts(srs, reveals):
    updates, revealed = honest(), list(reveals)
    updates[2] = Update(np.array([-5004, *[0] * (D - 1)], dtype=np.int16), 5)
    revealed[2] = reveal_of(srs, updates[2], 2)
    assert decide(srs, revealed, updates).exclusions == b""


def test_the_longest_update_that_int16_allows_is_measured_exactly(srs, reveals):
    updates, revealed = honest(), list(reveals)
    updates[2] = Update(np.full(D, -(2**15), dtype=np.int16), 5)
    revealed[2] = reveal_of(srs, updates[2], 2)
    outcome = decide(srs, revealed, updates)
    assert outcome.exclusions == bytes([0, 0, Exclusion.OUT_OF_RANGE, 0, 0, 0])


def test_a_copy_is_excluded_even_where_the_original_is_no_good(srs, reveals):
    # As in the contract, which compares what is included, so the copy could count; but who copies
    # a commitment cannot open it unless the original's content is known.
    updates, revealed = honest(), list(reveals)
    revealed[2] = Reveal(revealed[2].trainer, revealed[0].point, revealed[2].cid)
    updates[0] = Exclusion.UNAVAILABLE
    outcome = decide(srs, revealed, updates)
    expected = [Exclusion.UNAVAILABLE, 0, Exclusion.DUPLICATE, 0, 0, 0]
    assert outcome.exclusions == bytes(expected)


@pytest.mark.parametrize(("missing", "fails"), [(3, False), (4, True), (6, True)])
def test_a_round_with_too_few_updates_fails_with_its_reasons(srs, reveals, missing, fails):
    updates = [Exclusion.UNAVAILABLE] * missing + honest()[missing:]
    outcome = decide(srs, reveals, updates)
    assert outcome.exclusions == bytes([1] * missing + [0] * (N - missing))
    assert len(outcome.points) == len(outcome.updates) == len(outcome.blindings) == N - missing
    assert ((outcome.gram, outcome.scores, outcome.model) == (None, None, None)) is fails


def test_one_update_is_enough_where_the_terms_say_so(srs, reveals):
    outcome = decide(srs, reveals[:1], honest(1), min_updates=1)
    assert outcome.scores.weights == (ONE,)
    moved = MODEL.values + ONE * honest(1)[0].values.astype(np.int64)
    assert outcome.model.values.tolist() == moved.tolist()


@settings(max_examples=25)
@given(faults=st.lists(st.sampled_from(["", *FAULTS[:4], "too long"]), min_size=N, max_size=N))
def test_any_mixture_of_faults_leaves_the_others_counted(srs, reveals, faults):
    updates, revealed, expected = honest(), list(reveals), [0] * N
    for k, fault in enumerate(faults):
        if fault:
            one, two = list(revealed), list(updates)
            one[2], two[2] = revealed[k], updates[k]
            expected[k] = spoil(fault, srs, one, two)
            revealed[k], updates[k] = one[2], two[2]
    # Updates that are too long are all the same here, and copies of each other.
    first = [k for k, reason in enumerate(expected) if reason == Exclusion.OUT_OF_RANGE]
    for k in first[1:]:
        expected[k] = Exclusion.DUPLICATE
    outcome = decide(srs, revealed, updates)
    assert outcome.exclusions == (bytes(expected) if any(expected) else b"")
    assert len(outcome.points) == expected.count(0)


def whole(folder):
    """Decide a round with faults from nothing; return the digest of all that came out."""
    srs = generate(folder / "srs", D + 8, b"aggregate")
    updates = honest()
    reveals = [reveal_of(srs, update, k) for k, update in enumerate(updates)]
    for k, fault in ((2, "copy"), (2, "missing")):
        spoil(fault, srs, reveals, updates)
        reveals[k], updates[k] = reveals[2], updates[2]
    return digest(decide(srs, reveals, updates))


PROGRAM = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("round", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.whole(pathlib.Path(sys.argv[2])))
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_another_process_gives_the_same_bytes(tmp_path, threads):
    (tmp_path / "there").mkdir()
    other = subprocess.run(
        [sys.executable, "-c", PROGRAM, __file__, str(tmp_path / "there")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": threads, "PYTHONHASHSEED": "7"},
    )
    assert other.stdout.strip() == whole(tmp_path)
