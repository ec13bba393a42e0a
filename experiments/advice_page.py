"""The page of advices, from their records alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from poolax.reporting import advice_table, number_text, signed_texts

Record = Mapping[str, Any]

_HEAD = """\
# Advice on real data

<!-- Written by experiments/advice.py from its records; changes are made there. -->

What `poolax advise` says of backbones and data sets that are at hand, as an example of how to read it.
Each section is one run, its numbers are those of its record, its seconds those of a machine that may
have had other work.

## How to read an advice

- **The sentence** names the pooler to take. "Better beyond noise than every other pooler" is said
  only where each comparison holds by itself after Holm's correction. Where some cannot be told
  apart, the cheapest of them is named: of fewest parameters, then of the smallest Lipschitz factor.
- **Validation** chooses, **test** is looked at once: the column *difference to X* is the test score
  of a pooler less that of X, the best by validation, with its 95 % interval by a paired bootstrap over
  test examples and seeds; *adjusted p* is Holm's. An interval that holds 0 says that this test set
  cannot tell the two apart, not that they are equal: it may still be as wide as the interval.
- **Parameters** are those of the pooler, **Lipschitz factor** bounds how far a change of the tokens
  moves the vector, where there is such a bound, and **seconds** is the time for its heads.
- **Reasons** say what else was seen: how far the average alone gets, what twice the data may give,
  vectors that collapse, heads that did not converge, poolers that there was no time for.
- An advice is about this backbone, this data and heads on frozen states. The runs below read a part
  of each data set so that each ends within minutes; more data decides more.
"""


def page(records: Sequence[Record]) -> str:
    """The whole page in Markdown, cases in the order in which they are given."""
    above = [f"## All of them\n\n{overview(records)}"] if records else []
    return "\n".join([_HEAD, *above, *map(_section, records)])


def _title(record: Record) -> str:
    return f"{record['model']} on {record['dataset']}"


def overview(records: Sequence[Record]) -> str:
    """A table of all advices, a row for each."""
    rows = ["| backbone | data | take | decided | test | the average alone | seconds |"]
    rows.append("|" + " --- |" * 7)
    for record in records:
        average = record["test"].get("avg")
        cells = (
            record["model"],
            record["dataset"],
            record["recommended"],
            "yes" if record["decided"] else "no",
            number_text(record["test"][record["recommended"]]["value"]),
            "–" if average is None else number_text(average["value"]),
            f"{record['wall_s']:.0f}",
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _section(record: Record) -> str:
    table = dataclasses.replace(advice_table(record), title=_title(record), notes=())
    reasons = [*record["reasons"], *record["data_warnings"]]
    lines = "\n".join(f"- {_escaped(reason)}" for reason in dict.fromkeys(reasons))
    return "\n".join(
        [
            table.markdown(level=2).replace("\n", f"\n\n**{_escaped(record['sentence'])}**\n", 1),
            f"How sure: {_how_sure(record)}\n",
            f"Reasons:\n\n{lines}\n",
            f"Cost: {_cost(record)}\n",
            f"```sh\n{record['command']}\n```\n",
        ]
    )


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*")


def _how_sure(record: Record) -> str:
    """What the comparisons say, in words."""
    best, compared = record["best"], record["comparisons"]
    if not compared:
        return "no other pooler was tried."
    sign = 1 if record["higher_is_better"] else -1
    worse = {name: found for name, found in compared.items() if name not in record["equals"]}
    better = [
        name
        for name, found in compared.items()
        if found["adjusted"] <= 0.05 and sign * found["value"] > 0
    ]
    alike = [name for name in compared if name not in worse and name not in better]
    parts = [f"{best} was best by validation; on {record['num_tested']} test examples"]
    if worse:
        closest = min(worse, key=lambda name: abs(worse[name]["value"]))
        found = worse[closest]
        parts.append(
            f"{len(worse)} of {len(compared)} others are worse beyond noise, the closest of them "
            f"{closest} by {abs(found['value']):.3g} (interval {_interval(found)}, adjusted p "
            f"{found['adjusted']:.2g})"
        )
    if better:
        parts.append(f"{', '.join(better)} did better beyond noise, which validation did not show")
    if alike:
        widest = max(max(abs(compared[name]["low"]), abs(compared[name]["high"])) for name in alike)
        parts.append(
            f"no difference beyond noise from {best} has {', '.join(alike)}: their intervals reach "
            f"{widest:.3g} at most"
        )
    return parts[0] + " " + "; ".join(parts[1:]) + "."


def _interval(found: Mapping[str, float]) -> str:
    return " to ".join(signed_texts(found["low"], found["high"]))


def _cost(record: Record) -> str:
    cost, splits = record["cost"], record["num_examples"]
    heads = sum(cost["heads_seconds"].values())
    sizes = ", ".join(f"{count} {name}" for name, count in splits.items())
    given = [
        f"examples given: {sizes}",
        *([f"texts cut to {record['max_tokens']} tokens"] if record["max_tokens"] else []),
        *([f"images of {record['image_size']} pixels a side"] if record["image_size"] else []),
    ]
    return (
        f"{record['wall_s']:.0f} s on {record['devices']}, {cost['features_seconds']:.0f} s of them "
        f"for token states and {heads:.0f} s for heads; {'; '.join(given)}. "
        f"{record['minutes']:g} minutes were given."
    )
