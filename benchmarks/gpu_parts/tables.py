"""What was measured, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dyt.measure.latency import Interval


def tables(results: Mapping[str, Any]) -> Iterator[str]:
    """Markdown tables of what was measured."""
    for key, found in results.items():
        part, _, name = key.partition(": ")
        if part == "device":
            yield "; ".join(f"{what} {value:.1f}" for what, value in found.items()) + "\n"
        elif part == "profile":
            for who, rows in found.items():
                yield f"{name}, {who}: {sum(row[2] for row in rows):.0f} us in"
                yield from (f"    {row[2]:8.1f} us  {row[1]:4d} x  {row[0]}" for row in rows)
                yield ""
        elif part == "kernels":
            yield f"{name}: " + "; ".join(f"{what} {value}" for what, value in found.items()) + "\n"
    speeds = {key.partition(": ")[2]: found for key, found in results.items() if key.startswith("speed: ")}
    if speeds:
        yield "| Model | Dense, ms | Form | Active | ms | Speed-up [98.8 %] | Promised | Share of the promised gain |"
        yield "|---|---|---|---|---|---|---|---|"
        for name, found in speeds.items():
            for row in found["rows"]:
                speedup = Interval(**row["speedup"])
                yield (
                    f"| {name} | {found['dense ms']:.3f} | {row['form']} | {row['active']:.2f} | {row['ms']:.3f} | "
                    f"{speedup} | {row['promised']:.2f} | {row['share']:.0%} |"
                )
        yield ""
    steps = {key.partition(": ")[2]: found for key, found in results.items() if key.startswith("train: ")}
    if steps:
        yield "| Training step | Model | ms | Of the static adapter's | MiB | Of the static adapter's |"
        yield "|---|---|---|---|---|---|"
        for name, found in steps.items():
            for who, row in found.items():
                ratio = Interval(**row["of static"])
                yield (
                    f"| {name} | {who} | {row['ms']:.1f} | {ratio} | {row['MiB']:.0f} | {row['MiB of static']:.2f} |"
                )
        yield ""
    yield from _bank_rows({key.partition(": ")[2]: found for key, found in results.items() if key.startswith("bank: ")})


def _bank_rows(results: Mapping[str, Any]) -> Iterator[str]:
    if results:
        yield "| Bank of eight tasks | Over | ms | Speed-up |"
        yield "|---|---|---|---|"
    for name, found in results.items():
        for who, speedup in found.get("speedup", {}).items():
            yield f"| {name} | {who} | {found['ms'][who]:.2f} | {Interval(**speedup)} |"
