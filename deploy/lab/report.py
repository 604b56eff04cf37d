"""Turn stored results into the tables and plots of docs/lab.md.

The page's prose is written by hand; what stands between `<!-- NAME -->` and `<!-- end -->` is
replaced. A number is the median over seeds, with the least and the largest in brackets.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from deploy.lab.money import Prices, result_of
from marketplace.errors import InputError

__all__ = ["TABLES", "fill", "plot_accuracy", "spread"]

_FIRST = (
    "oracle",
    "PeelShapley",
    "PeelShapley+root",
    "MultiKrumShapley",
    "MultiKrumShapley+root",
    "peel-memory",
    "fed-avg",
    "multi-krum",
)

Row = Mapping[str, Any]
Results = Mapping[str, Sequence[Row]]


def spread(values: Iterable[float], digits: int = 1) -> str:
    """Write the median and, where values differ, the range."""
    found = sorted(values)
    if not found:
        return "–"
    low, middle, high = (f"{value:.{digits}f}" for value in (found[0], median(found), found[-1]))
    return middle if low == high else f"{middle} ({low}–{high})"


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    return groups


def _where(row: Row) -> str:
    source = str(row["data"]).rsplit("/", 1)[-1]
    return f"{source}, {row['split']}, {row['clients']} clients, {row['model']}"


def _accuracy(rows: Sequence[Row]) -> str:
    """Write accuracy in per cent; under a backdoor also its success."""
    if not rows:
        return "–"
    text = spread(100 * row["accuracy"] for row in rows)
    if rows[0]["attack"].startswith(("backdoor", "stealth")):
        text += " / " + spread(100 * row["success"] for row in rows)
    return text


def _lines_and_columns(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Return rules, the oracle and ours first, and attacks, none first, else as they come."""
    rules = dict.fromkeys(row["rule"] for row in rows)
    attacks = dict.fromkeys(row["attack"] for row in rows)
    first = [*(name for name in _FIRST if name in rules)]
    return (
        [*first, *(name for name in rules if name not in first)],
        [*(["none"] if "none" in attacks else []), *(name for name in attacks if name != "none")],
    )


def attack_tables(rows: Sequence[Row]) -> str:
    """Return one table of final accuracy for each data set, split, size and part of attackers."""
    parts = []
    for _, group in _grouped(rows, "data", "split", "clients", "model").items():
        attacked = sorted({row["attackers"] for row in group if row["attack"] != "none"})
        for part in reversed(attacked):
            shown = [row for row in group if row["attack"] == "none" or row["attackers"] == part]
            rules, attacks = _lines_and_columns(shown)
            cells = _grouped(shown, "rule", "attack")
            # The oracle does not see the attack, so that one of its runs stands for all.
            blind = [row for row in shown if row["rule"] == "oracle" and row["attackers"] == part]
            for attack in attacks:
                if blind and attack != "none" and ("oracle", attack) not in cells:
                    cells["oracle", attack] = [{**row, "attack": attack} for row in blind]
            body = [
                [rule, *(_accuracy(cells.get((rule, attack), [])) for attack in attacks)]
                for rule in rules
            ]
            seeds = len({row["seed"] for row in shown})
            title = f"**{_where(group[0])}, {part:.0%} attackers** ({seeds} seeds)"
            parts.append(title + "\n\n" + _markdown(["rule", *attacks], body))
    return "\n\n".join(parts)


def money_table(rows: Sequence[Row], prices: Prices) -> str:
    """Return what each side won and lost under the rule that settles, without and with a root.

    Of two numbers in a cell the second is that with a root trainer.
    """
    best = {_cell(row): row["accuracy"] for row in rows if row["rule"] == "oracle"}
    ours = ("PeelShapley", "PeelShapley+root")
    settled = [row for row in rows if row["rule"] in ours and row["attack"] != "none"]
    body = []
    keys = ("data", "split", "clients", "attackers", "attack")
    for (data, split, clients, part, attack), group in _grouped(settled, *keys).items():
        by_rule = [[row for row in group if row["rule"] == rule] for rule in ours]
        found = [[result_of(row, prices) for row in one] for one in by_rule]
        lost = [
            [100 * (best[_cell(row)] - row["accuracy"]) for row in one if _cell(row) in best]
            for one in by_rule
        ]
        body.append(
            [
                f"{str(data).rsplit('/', 1)[-1]}, {split}, {clients}",
                f"{attack} {part:.0%}",
                _pair(([one.attacker for one in some] for some in found), 2),
                _pair(([one.honest for one in some] for some in found), 2),
                _pair(([one.paid for one in some] for some in found), 0),
                _pair(lost, 1),
                _pair(([one.victims for one in some] for some in found), 0),
            ]
        )
    header = [
        "data",
        "attack",
        "attacker's net",
        "honest net",
        "sponsor pays attackers",
        "accuracy lost, points",
        "honest slashed, of 1,000",
    ]
    return _markdown(header, body)


def _cell(row: Row) -> tuple[Any, ...]:
    """Return what an oracle's run has in common with those that it is compared with."""
    return tuple(row[key] for key in ("data", "split", "clients", "attackers", "seed", "rounds"))


def _pair(groups: Iterable[Sequence[float]], digits: int) -> str:
    """Write the median of each group, so that a table of two rules stays readable."""
    return " / ".join(f"{median(one):.{digits}f}" if one else "–" for one in groups)


def out_table(rows: Sequence[Row]) -> str:
    """Return of how many attackers' and of how many honest verdicts a rule gives no weight."""
    rows = [row for row in rows if row["rule"] != "oracle"]
    rules, _ = _lines_and_columns(rows)
    body = []
    keys = ("clients", "split", "attackers", "attack")
    for (clients, split, part, attack), group in _grouped(rows, *keys).items():
        hostile = 0 if attack == "none" else round(clients * part)
        sides = (slice(clients - hostile, None), slice(0, clients - hostile))
        cells = [
            " / ".join(_out([row for row in group if row["rule"] == rule], side) for side in sides)
            for rule in rules
        ]
        body.append([f"{clients}, {split}", f"{attack} {part:.0%}", *cells])
    return _markdown(["clients", "attack", *rules], body)


def riders_table(rows: Sequence[Row]) -> str:
    """Return what attackers are paid, of what honest trainers are at the mean."""
    rows = [row for row in rows if row["attack"] != "none"]
    rules, _ = _lines_and_columns(rows)
    body = []
    for (clients, split, attack), group in _grouped(rows, "clients", "split", "attack").items():
        cells = [
            spread((_paid_of_honest(row) for row in group if row["rule"] == rule), 2)
            for rule in rules
        ]
        body.append([f"{clients}, {split}", attack, *cells])
    return _markdown(["clients", "sends", *rules], body)


def _paid_of_honest(row: Row) -> float:
    honest = row["clients"] - round(row["clients"] * row["attackers"])
    paid = fmean(row["shares"][:honest])
    return float(fmean(row["shares"][honest:]) / paid) if paid else float("inf")


def _out(rows: Iterable[Row], who: slice) -> str:
    text = "".join("".join(row["verdicts"][who]) for row in rows)
    return f"{100 * (1 - text.count('.') / len(text)):.0f}" if text else "–"


def honest_table(rows: Sequence[Row]) -> str:
    """Return how often honest trainers are set aside or slashed where nobody attacks."""
    body = []
    for _, group in _grouped(rows, "data", "split", "clients").items():
        text = "".join("".join(row["verdicts"]) for row in group)
        rounds = sum(row["rounds"] for row in group)
        hit = sum(
            any(verdict[k] != "." for verdict in row["verdicts"])
            for row in group
            for k in range(row["rounds"])
        )
        body.append(
            [
                _where(group[0]),
                f"{rounds}",
                f"{hit}",
                f"{1000 * sum(map(text.count, 'as')) / len(text):.2f}",
                f"{1000 * text.count('s') / len(text):.2f}",
            ]
        )
    header = [
        "clients",
        "rounds",
        "rounds that lost somebody",
        "set aside, of 1,000 verdicts",
        "slashed, of 1,000",
    ]
    return _markdown(header, body)


def contribution_table(rows: Sequence[Row]) -> str:
    """Return rank correlation, cosine distance and cost of each way of counting.

    `attackers` is what the best-paid attacker gets, of what the worst-paid honest client gets.
    """
    body = []
    counted = [row for row in rows if "way" in row and row["way"] != "exact"]
    lengths = sorted({row["rounds"] for row in counted})
    for (setting, clients, way), group in _grouped(counted, "setting", "clients", "way").items():
        by_length = [[row for row in group if row["rounds"] == length] for length in lengths]
        honest = clients - clients // 3
        paid = [row["paid"] for row in by_length[-1] if setting == "adversarial"]
        body.append(
            [
                setting,
                str(clients),
                way,
                *(spread((row["spearman"] for row in some), 2) for some in by_length),
                *(spread((row["distance"] for row in some), 3) for some in by_length),
                spread((100 * row["relative"] for row in by_length[-1]), 2),
                spread((max(p[honest:]) / min(p[:honest]) for p in paid if min(p[:honest])), 2),
            ]
        )
    header = ["setting", "n", "way"]
    header += [f"{what}, {n} rounds" for what in ("Spearman", "distance") for n in lengths]
    return _markdown([*header, "cost %", "attackers"], body)


def split_table(rows: Sequence[Row]) -> str:
    """Return what dividing one trainer's data over several identities gains."""
    split = [row for row in rows if "gain" in row]
    keys = ("clients", "split", "parts", "longer")
    body = [
        [
            str(clients),
            how,
            str(parts),
            "as long as one" if longer else "once over their part",
            spread((row["gain"] for row in group), 2),
            spread((row["rooted"] for row in group), 2),
        ]
        for (clients, how, parts, longer), group in _grouped(split, *keys).items()
    ]
    header = ["clients", "split", "identities", "each trains", "pay, of that as one", "with a root"]
    return _markdown(header, body)


def time_table(rows: Sequence[Row]) -> str:
    """Return each rule's CPU time from the Gram matrix, by the number of clients."""
    sizes = sorted({row["clients"] for row in rows})
    cells = _grouped(rows, "rule", "clients")
    body = [
        [rule, *(spread([row["rule_ms"] for row in cells.get((rule, n), [])], 2) for n in sizes)]
        for rule in _lines_and_columns(rows)[0]
    ]
    return _markdown(["rule", *(f"{n} clients, ms" for n in sizes)], body)


def privacy_table(rows: Sequence[Row]) -> str:
    """Return accuracy against the privacy budget."""
    body = [
        [
            f"{noise:g}",
            "∞" if noise == 0 else f"{group[0]['epsilon']:.1f}",
            spread(100 * row["accuracy"] for row in group),
        ]
        for (noise,), group in sorted(_grouped(rows, "noise").items())
    ]
    return _markdown(["noise multiplier", "ε", "accuracy %"], body)


def strategy_table(rows: Sequence[Row]) -> str:
    """Return Flower's strategies beside our rules on the same updates."""
    body = [
        [
            row["strategy"],
            f"{row['n']} × {row['d']:,}",
            *(
                f"{row[who]:.1f}" if who in row else "–"
                for who in ("ours_ms", "flower_ms", "byzfl_ms")
            ),
            f"{row['difference']:.0e}" if "difference" in row else "–",
        ]
        for row in _part(rows, "strategies")
    ]
    return _markdown(
        ["strategy", "updates", "ours, CPU ms", "Flower's", "byzfl's", "difference"], body
    )


def race_table(rows: Sequence[Row]) -> str:
    """Return the time of starts, rounds and client tasks, by the wall and by the CPU."""
    races = _part(rows, "race")
    bare = {(row["race"], row["turn"]): row for row in races if row["racer"] == "bare"}
    body = []
    for (race, racer), group in _grouped(races, "race", "racer").items():
        pairs = [(row, bare[race, row["turn"]]) for row in group]
        extra = (
            1000 * (row["round_cpu_s"] - base["round_cpu_s"]) / row["clients"]
            for row, base in pairs
        )
        body.append(
            [
                f"{race}, {group[0]['clients']} clients",
                racer,
                spread((row["start_s"] for row in group), 1),
                spread((row["round_s"] for row in group), 2),
                spread((row["round_s"] / base["round_s"] for row, base in pairs), 2),
                spread((row["round_cpu_s"] / base["round_cpu_s"] for row, base in pairs), 2),
                spread(extra, 1),
                spread((100 * row["accuracy"] for row in group), 1),
            ]
        )
    header = [
        "race",
        "racer",
        "start, s",
        "round, s",
        "of bare",
        "CPU of bare",
        "extra CPU ms a task",
        "accuracy %",
    ]
    return _markdown(header, body)


def crowd_table(rows: Sequence[Row]) -> str:
    """Return time and memory of rounds with very many clients."""
    body = [
        [
            f"{row['clients']:,} × {row['samples']}",
            row["model"],
            f"{row['round_s']:.1f}",
            f"{row['round_cpu_s']:.1f}",
            f"{row['peak_mib'] / 1024:.1f}",
        ]
        for row in _part(rows, "crowd")
    ]
    return _markdown(["clients", "model", "round s", "CPU s", "peak GiB"], body)


def _part(rows: Sequence[Row], name: str) -> list[Row]:
    return [row for row in rows if row["part"] == name]


TABLES: Mapping[str, Callable[[Results], str]] = {
    "attacks": lambda r: attack_tables(r["attacks"]),
    "others": lambda r: attack_tables(r["others"]),
    "heldout": lambda r: attack_tables(r["heldout"]),
    "larger": lambda r: attack_tables(r["larger"]),
    "small": lambda r: attack_tables(r["small"]),
    "copies": lambda r: out_table(r["copies"]),
    "riders": lambda r: riders_table(r["riders"]),
    "roots": lambda r: out_table(r["roots"]) + "\n\n" + attack_tables(r["roots"]),
    "honest": lambda r: honest_table(
        [
            row
            for name in ("honest", "attacks", "heldout", "larger")
            for row in r[name]
            if (row["rule"], row["attack"]) == ("PeelShapley", "none")
        ]
    ),
    "money": lambda r: money_table([*r["attacks"], *r["others"], *r["larger"]], Prices()),
    "time": lambda r: time_table(r["attacks"]),
    "contribution": lambda r: contribution_table(r["contribution"]),
    "split": lambda r: split_table(r["contribution"]),
    "privacy": lambda r: privacy_table(r["privacy"]),
    "lenet": lambda r: attack_tables(r["lenet"]),
    "compare": lambda r: strategy_table(r["compare"]),
    "races": lambda r: race_table(r["compare"]),
    "crowds": lambda r: crowd_table(r["compare"]),
}


def fill(page: str, results: Results) -> str:
    """Return the page with its tables made from the results; InputError for an unknown name."""

    def table(found: re.Match[str]) -> str:
        name = found[1]
        if name not in TABLES:
            raise InputError(f"the page asks for table {name!r}; there are {', '.join(TABLES)}")
        return f"<!-- {name} -->\n\n{TABLES[name](results)}\n\n<!-- end -->"

    return re.sub(
        r"<!-- ([a-z]+) -->\n(?:(?!<!-- end -->).)*<!-- end -->", table, page, flags=re.DOTALL
    )


def plot_accuracy(rows: Sequence[Row], path: Path) -> None:
    """Draw accuracy by attack and rule with ranges over seeds; needs the extra `lab`."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "tribute"
    from matplotlib import pyplot

    rules, attacks = _lines_and_columns([row for row in rows if row["rule"] != "oracle"])
    cells = _grouped(rows, "rule", "attack")
    figure, axes = pyplot.subplots(figsize=(9, 4.2), layout="constrained")
    colours = matplotlib.colormaps["tab20"]
    width = 0.8 / len(rules)
    for k, rule in enumerate(rules):
        found = [[100 * row["accuracy"] for row in cells.get((rule, a), [])] for a in attacks]
        middle = [median(values) if values else 0.0 for values in found]
        below = [m - min(v) if v else 0.0 for m, v in zip(middle, found, strict=True)]
        above = [max(v) - m if v else 0.0 for m, v in zip(middle, found, strict=True)]
        places = [i + (k - (len(rules) - 1) / 2) * width for i in range(len(attacks))]
        axes.bar(
            places,
            middle,
            width,
            yerr=[below, above],
            label=rule,
            color=colours(k % 20),
            error_kw={"lw": 0.7},
        )
    axes.set_xticks(range(len(attacks)), attacks)
    axes.set_ylabel("final accuracy, %")
    figure.legend(ncols=4, fontsize=7, loc="outside lower center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
