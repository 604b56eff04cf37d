"""Tables say what the rows say."""

import json

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.lab.experiment import Cell
from deploy.lab.report import TABLES, fill, plot_accuracy, spread
from marketplace.errors import InputError

NOTHING = {name: [] for name in TABLES}


def row(rule, attack, seed, accuracy, verdicts=("..", "aa"), **changes):
    attackers = 0.0 if attack == "none" else 0.5
    cell = Cell(clients=2, rounds=2, rule=rule, attack=attack, seed=seed, attackers=attackers)
    return {
        **cell.__dict__,
        "accuracy": accuracy,
        "success": 0.25,
        "verdicts": list(verdicts),
        "shares": [2.0, 0.0],
        **changes,
    }


def lines_of(text):
    return [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in text.splitlines()
        if line.startswith("|") and "---" not in line
    ]


def table(name, rows):
    page = fill(f"before\n<!-- {name} -->\nold\n<!-- end -->\nafter", {**NOTHING, name: rows})
    assert page.startswith("before\n") and page.endswith("\nafter") and "old" not in page
    return page


def test_numbers_are_medians_with_their_range():
    assert spread([3.0, 1.0, 2.0]) == "2.0 (1.0–3.0)"
    assert spread([0.51, 0.5104], 2) == "0.51"
    assert spread([]) == "–"


def test_the_attack_table_has_a_line_a_rule_and_a_column_an_attack():
    rows = [row("krum", "none", seed, 0.9) for seed in (0, 1, 2)]
    rows += [row("krum", "zero", seed, accuracy) for seed, accuracy in enumerate((0.5, 0.7, 0.6))]
    rows += [row("oracle", "backdoor:3", 0, 0.8)]
    page = table("attacks", rows)
    assert "50% attackers** (3 seeds)" in page
    assert lines_of(page) == [
        ["rule", "none", "zero", "backdoor:3"],
        # The oracle does not see the attack, so that one of its runs stands for all.
        ["oracle", "–", "80.0", "80.0 / 25.0"],
        ["krum", "90.0", "60.0 (50.0–70.0)", "–"],
    ]


def test_the_money_table_sets_both_rules_beside_the_oracle():
    page = table("money", [])
    assert len(lines_of(page)) == 1
    rows = [
        row("oracle", "ipm", 0, 0.95),
        row("PeelShapley", "zero", 0, 0.9, ("..", "as"), shares=[1.5, 0.5]),
        row("PeelShapley+root", "zero", 0, 0.94, ("..", "as")),
    ]
    page = fill("<!-- money -->\n<!-- end -->", {**NOTHING, "attacks": rows})
    # One strike costs the attacker 25 % of 50 in two rounds, gas 0.225 a round; of two pots of 100
    # it gets half a pot in all, or nothing: 25 - 6.25 - 0.225, or less by 25.
    assert lines_of(page)[1] == [
        "digits, iid, 2", "zero 50%", "18.52 / -6.47", "74.78 / 99.78", "25 / 0", "5.0 / 1.0",
        "0 / 0",
    ]  # fmt: skip


def test_the_honest_table_counts_rounds_and_verdicts():
    rows = [row("PeelShapley", "none", seed, 0.9, verdicts) for seed, verdicts in
            enumerate([("..", ".a"), ("..", ".."), ("s.", ".a")])]  # fmt: skip
    assert lines_of(table("honest", rows))[1][1:] == ["6", "3", "250.00", "83.33"]


def test_contributions_and_splits_have_a_line_each():
    rows = [
        {"setting": "adversarial", "clients": 3, "way": "root", "spearman": x, "distance": n / 100,
         "relative": n / 1000, "paid": [0.5, 0.4, n / 50], "rounds": n}
        for x in (0.9, 1.0) for n in (5, 2)
    ]  # fmt: skip
    rows.append(
        {"gain": 1.02, "rooted": 1.5, "clients": 20, "split": "iid", "parts": 2, "longer": True}
    )
    # The last third attacks: 0.1 of the worst-paid honest client's 0.4.
    assert lines_of(table("contribution", rows)) == [
        ["setting", "n", "way", "Spearman, 2 rounds", "Spearman, 5 rounds", "distance, 2 rounds",
         "distance, 5 rounds", "cost %", "attackers"],
        ["adversarial", "3", "root", "0.95 (0.90–1.00)", "0.95 (0.90–1.00)", "0.020", "0.050",
         "0.50", "0.25"],
    ]  # fmt: skip
    page = fill("<!-- split -->\n<!-- end -->", {**NOTHING, "contribution": rows})
    assert lines_of(page)[1:] == [["20", "iid", "2", "as long as one", "1.02", "1.50"]]


def test_the_out_table_sets_attackers_beside_honest_trainers():
    rows = [row("krum", "zero", 0, 0.9, ("..", "as")), row("krum", "none", 0, 0.9, (".a", ".."))]
    rows.append(row("peel", "zero", 0, 0.9, ("..", ".a")))
    assert lines_of(fill("<!-- copies -->\n<!-- end -->", {**NOTHING, "copies": rows})) == [
        ["clients", "attack", "krum", "peel"],
        ["2, iid", "zero 50%", "100 / 0", "50 / 0"],
        ["2, iid", "none 0%", "– / 25", "– / –"],
    ]


def test_the_riders_table_sets_the_attackers_pay_beside_the_mean_of_the_honest():
    rows = [
        row("krum", "zero", seed, 0.9, clients=4, attackers=0.25, shares=[1.0, 2.0, 3.0, paid])
        for seed, paid in enumerate((1.0, 4.0, 3.0))
    ]
    rows += [row("krum", "none", 0, 0.9), row("peel", "zero", 0, 0.9, shares=[0.0, 2.0])]
    assert lines_of(table("riders", rows)) == [
        ["clients", "sends", "krum", "peel"],
        ["4, iid", "zero", "1.50 (0.50–2.00)", "–"],
        ["2, iid", "zero", "–", "inf"],
    ]


def test_the_time_table_has_a_column_a_size():
    rows = [row("krum", "zero", seed, 0.5, rule_ms=ms) for seed, ms in enumerate((1.0, 3.0, 2.0))]
    assert lines_of(fill("<!-- time -->\n<!-- end -->", {**NOTHING, "attacks": rows})) == [
        ["rule", "2 clients, ms"], ["krum", "2.00 (1.00–3.00)"]
    ]  # fmt: skip


def test_tables_that_are_still_empty_do_not_swallow_what_follows():
    page = "<!-- honest -->\n<!-- end -->\ntext\n<!-- split -->\n<!-- end -->\n"
    once = fill(page, NOTHING)
    assert once.count("<!-- end -->") == 2 and "\ntext\n" in once
    assert fill(once, NOTHING) == once


def test_a_table_that_does_not_exist_is_named():
    with pytest.raises(InputError, match="asks for table 'attack'; there are attacks"):
        fill("<!-- attack -->\n<!-- end -->", NOTHING)


def test_the_command_fills_the_page_and_does_not_change_it_the_second_time(tmp_path):
    page, results = tmp_path / "lab.md", tmp_path / "lab"
    results.mkdir()
    rows = [row("PeelShapley", "none", 0, 0.9)]
    (results / "honest.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    page.write_text("# Lab\n\n<!-- honest -->\n<!-- end -->\n")
    texts = []
    for _ in range(2):
        found = CliRunner().invoke(app, ["lab", "report", str(page), "--results", str(results)])
        assert found.exit_code == 0, found.output
        texts.append(page.read_text())
    assert texts[0] == texts[1]
    assert "| digits, iid, 2 clients, dense:64,64 | 2 |" in texts[0]


def test_plots_are_drawn_as_png_and_svg(tmp_path, require_missing):
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        require_missing("lab", "matplotlib is not installed; pip install '.[lab]'")
    rows = [row("krum", "none", seed, 0.9) for seed in (0, 1)] + [row("krum", "zero", 0, 0.5)]
    plot_accuracy(rows, tmp_path / "plot.png")
    plot_accuracy(rows, tmp_path / "plot.svg")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert "</svg>" in (tmp_path / "plot.svg").read_text()


def test_races_are_told_as_parts_of_the_bare_loop_of_the_same_turn():
    def lap(racer, turn, round_s, cpu):
        return {"part": "race", "race": "small", "turn": turn, "racer": racer, "clients": 50,
                "start_s": 2.0, "start_cpu_s": 1.0, "round_s": round_s, "round_cpu_s": cpu,
                "accuracy": 0.5}  # fmt: skip

    rows = [lap("bare", 0, 1.0, 2.0), lap("ours", 0, 1.5, 2.1)]
    rows += [lap("bare", 1, 2.0, 2.0), lap("ours", 1, 2.0, 2.3)]
    page = fill("<!-- races -->\n<!-- end -->", {**NOTHING, "compare": rows})
    assert lines_of(page)[2] == [
        "small, 50 clients", "ours", "2.0", "1.75 (1.50–2.00)", "1.25 (1.00–1.50)",
        "1.10 (1.05–1.15)", "4.0 (2.0–6.0)", "50.0",
    ]  # fmt: skip


def test_strategies_without_a_rule_of_ours_and_crowds_have_a_line_each():
    rows = [
        {"part": "strategies", "strategy": "Krum", "n": 20, "d": 55050, "ours_ms": 1.66,
         "flower_ms": 6.5, "byzfl_ms": 3.0, "difference": 1.2e-7},
        {"part": "strategies", "strategy": "Bulyan", "n": 20, "d": 55050, "flower_ms": 172.0},
        {"part": "crowd", "clients": 1000, "samples": 60, "model": "lenet5", "round_s": 7.04,
         "round_cpu_s": 13.8, "peak_mib": 2048.0},
    ]  # fmt: skip
    assert lines_of(table("compare", rows))[1:] == [
        ["Krum", "20 × 55,050", "1.7", "6.5", "3.0", "1e-07"],
        ["Bulyan", "20 × 55,050", "–", "172.0", "–", "–"],
    ]
    page = fill("<!-- crowds -->\n<!-- end -->", {**NOTHING, "compare": rows})
    assert lines_of(page)[1:] == [["1,000 × 60", "lenet5", "7.0", "13.8", "2.0"]]
