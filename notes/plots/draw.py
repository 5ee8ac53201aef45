#!/usr/bin/env python3
"""Writes table.md and the figures (*.svg) of this folder from what `make bench` measured.

Usage: python3 notes/plots/draw.py [build/bench.json | build/room_bench.json]

Needs gnuplot for the figures; without it only the table is written.
"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Dict, List

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE.parent.parent / "build" / "bench.json"

# Curve in bench.json: file, title, what is to the right, what is upward. The others are
# only in the table of what grows with what.
FIGURES = {
    "cost by clients": (
        "cost-by-clients", "What a delivery costs: 64 bytes, 32 messages in flight",
        "clients", "the server's CPU time per delivery, ns"),
    "cost by window": (
        "cost-by-window", "What a delivery costs: 100 clients, 64 bytes",
        "messages in flight at most", "the server's CPU time per delivery, ns"),
    "memory by connections": (
        "memory-by-connections", "What idle connections cost the server",
        "connections", "memory, MiB"),
    "memory by stalled clients": (
        "memory-by-stalled", "What clients that never read cost the server: 5 MB behind",
        "stalled clients", "growth of memory, MiB"),
    "cost of an event by idle ones": (
        "cost-of-an-event", "What it costs to learn of one event",
        "idle descriptors beside the one that is ready", "CPU time per event, us"),
    "messages through a room by servers": (
        "room-by-servers", "What goes through a room: 64 bytes, 200 in flight per server",
        "servers", "messages per second"),
}

# Each server looks the same in all figures: a line type of curves.gp.
STYLES = {"final": 1, "step 6": 2, "floor": 3, "redis": 4, "nats": 5, "room": 6,
          "peer": 7, "evloop": 1, "poll": 4}

Lines = Dict[str, List[List[float]]]    # name of a line: its points


def table_write(lines: Lines, path: pathlib.Path) -> None:
    """Writes a column for x and one for each line; ? where a line has no such point."""
    points = {name: dict(map(tuple, line)) for name, line in lines.items()}
    rows = [["x", *lines]]
    for x in sorted({x for line in points.values() for x in line}):
        rows.append([str(x), *(str(line.get(x, "?")) for line in points.values())])
    path.write_text("".join("\t".join(row) + "\n" for row in rows))


def positive(lines: Lines) -> Lines:
    """Leaves out what cannot stand on a logarithmic axis: that nothing was used."""
    kept = {name: [point for point in line if point[1] > 0]
            for name, line in lines.items()}
    return {name: line for name, line in kept.items() if line}


def figure_draw(curve: str, lines: Lines, folder: pathlib.Path) -> None:
    name, title, xlabel, ylabel = FIGURES[curve]
    data = folder / "data.tsv"
    lines = positive(lines)
    table_write(lines, data)
    variables = {"data": str(data), "output": str(HERE / (name + ".svg")), "title": title,
                 "xlabel": xlabel, "ylabel": ylabel,
                 "styles": " ".join(str(STYLES[line]) for line in lines)}
    settings = [f"columns={1 + len(lines)}", *(f"{k}='{v.replace(chr(39), chr(39) * 2)}'"
                                               for k, v in variables.items())]
    subprocess.run(["gnuplot", "-e", "; ".join(settings), str(HERE / "curves.gp")],
                   check=True)
    print(f"wrote {name}.svg")


def page_write(results: dict) -> None:
    machine = results["machine"]
    origin = (f"Medians of {results['rounds']} rounds, {machine['date']}; "
              f"{machine['system']}, {machine['processors']} processors, "
              f"{machine['processor']}.")
    tables = "\n\n".join(results[key] for key in ("table", "growth") if key in results)
    (HERE / "table.md").write_text(f"{tables}\n\n{origin}\n")
    print("wrote table.md")


def main() -> int:
    results = json.loads(pathlib.Path(*sys.argv[1:2] or [RESULTS]).read_text())
    if "table" in results:
        page_write(results)
    if not shutil.which("gnuplot"):
        print("no figures: gnuplot is not installed")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        for curve, lines in results.get("curves", {}).items():
            if curve in FIGURES:
                figure_draw(curve, lines, pathlib.Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
