#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""What a run of the benchmarks came to: a table, and a page with one picture for each path.

A path's picture has what it takes here, the floor that the same run measured, and what Linux KVM's
code takes for the same where that is known (benchmarks/kvm.tsv); below it stands what earlier runs
took, oldest first. The page needs no other file and no network.

Usage: bench_report.py [OPTIONS] RUN.json…
  RUN.json           what Google Benchmark wrote of this run, one file for each program
  --kvm FILE         nanoseconds of KVM, a line for each benchmark
  --earlier FILE     an earlier run, as --merged wrote it; may be repeated, and order does not count
  --merged FILE      writes this run as one file, for a later one's --earlier
  --page FILE        writes the page
  --docs FILE        writes the table between the two lines of FILE that mark its place
"""

import argparse
import html
import json
import sys
from dataclasses import dataclass, field

BEGIN = "<!-- The table of one run, by ./run bench --docs: begin -->"
END = "<!-- The table of one run: end -->"


class ReportError(Exception):
    """What is wrong with a file, for its user."""


@dataclass
class Path:
    name: str
    ns: float  # an item
    floor: float | None = None
    kvm: float | None = None
    earlier: list = field(default_factory=list)  # (date, ns), oldest first


def load(file):
    try:
        with open(file, encoding="utf-8") as text:
            run = json.load(text)
        context, results = run["context"], run["benchmarks"]
        if "date" not in context:
            raise KeyError("date")
        return context, results
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReportError(f"{file}: no result of a benchmark ({error})") from error


def plain_name(name):
    """Without what Google Benchmark adds of how it was run."""
    return "/".join(part for part in name.split("/")
                    if not part.startswith(("real_time", "manual_time", "iterations:",
                                            "process_time")))


def measured(benchmarks):
    """{name: (ns an item, floor or None)}. Of repetitions, the fastest."""
    found = {}
    for result in benchmarks:
        if result.get("run_type") == "aggregate" or "ns_per_item" not in result:
            continue
        ns, multiple = result["ns_per_item"], result.get("x_floor")
        name = plain_name(result["name"])
        if name not in found or ns < found[name][0]:
            found[name] = (ns, ns / multiple if multiple else None)
    return found


def read_kvm(file):
    if file is None:
        return {}
    with open(file, encoding="utf-8") as text:
        lines = [line.rstrip("\n").split("\t") for line in text if not line.startswith("#")]
    return {name: float(ns) for name, ns in lines}


def paths_of(run, kvm, earlier):
    """`earlier`: [(date, {name: (ns, floor)})]. Floors are no paths: each stands beside one."""
    paths = []
    for name, (ns, floor) in run.items():
        if name.startswith("BM_Floor"):
            continue
        history = [(date, was[name][0]) for date, was in sorted(earlier, key=lambda e: e[0])
                   if name in was]
        paths.append(Path(name, ns, floor, kvm.get(name), history))
    return paths


def number(value):
    """Three digits that count, as a person writes them."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def change(path):
    """By how much the run differs from the last one before it, or nothing."""
    if not path.earlier:
        return "–"
    return f"{(path.ns / path.earlier[-1][1] - 1) * 100:+.0f} %"


def table(paths):
    lines = ["| benchmark | ns an item | its floor | × floor | KVM, ns | of KVM | since the last |",
             "|---|---|---|---|---|---|---|"]
    for path in paths:
        multiple = path.ns / path.floor if path.floor else None
        part = path.ns / path.kvm if path.kvm else None
        lines.append(f"| {path.name} | {number(path.ns)} | {number(path.floor)} | "
                     f"{number(multiple)} | {number(path.kvm)} | {number(part)} | "
                     f"{change(path)} |")
    return lines


STYLE = """
:root { color-scheme: light dark; --ours: #2868b0; --floor: #8a94a0; --kvm: #c06a28;
        --ink: #1c2228; --soft: #5c6670; --page: #fff; --line: #d8dde2; }
@media (prefers-color-scheme: dark) {
  :root { --ours: #6aa6ea; --floor: #7c8690; --kvm: #e09a60; --ink: #e6eaee; --soft: #a2acb6;
          --page: #14181c; --line: #323a42; }
}
body { background: var(--page); color: var(--ink); font: 15px/1.45 system-ui, sans-serif;
       margin: 2rem auto; max-width: 76rem; padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin: 0; }
p { color: var(--soft); max-width: 46rem; }
.paths { display: grid; gap: 1.1rem; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); }
figure { border: 1px solid var(--line); border-radius: 6px; margin: 0; padding: .7rem .9rem; }
figcaption { display: flex; font-weight: 600; justify-content: space-between; }
figcaption span { color: var(--soft); font-weight: 400; }
svg { display: block; width: 100%; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
.ours { fill: var(--ours); } .floor { fill: var(--floor); } .kvm { fill: var(--kvm); }
.history { fill: none; stroke: var(--ours); stroke-width: 1.6; }
.base { stroke: var(--line); }
"""

WIDTH, LABEL, VALUE, BAR = 340, 46, 70, 18


def bars(path):
    """[SVG], and how high they are: what it takes, its floor, KVM, by length from zero."""
    rows = [("ours", "ours", path.ns), ("floor", "floor", path.floor), ("kvm", "KVM", path.kvm)]
    rows = [row for row in rows if row[2] is not None]
    longest = max(value for _, _, value in rows) or 1
    out = []
    for i, (kind, label, value) in enumerate(rows):
        y = i * (BAR + 5) + 4
        length = max(value / longest * (WIDTH - LABEL - VALUE), 1)
        out.append(f'<text x="0" y="{y + 13}">{label}</text>'
                   f'<rect class="{kind}" x="{LABEL}" y="{y}" width="{length:.1f}" '
                   f'height="{BAR}" rx="2"/>'
                   f'<text x="{LABEL + length + 5:.1f}" y="{y + 13}">{number(value)} ns</text>')
    return out, len(rows) * (BAR + 5) + 4


def history(path, top):
    """The line of all runs, this one last, from zero."""
    values = [ns for _, ns in path.earlier] + [path.ns]
    if len(values) < 2:
        return [], top
    height, most = 40, max(values) or 1
    step = (WIDTH - LABEL - VALUE) / (len(values) - 1)
    points = [(LABEL + i * step, top + 8 + height - value / most * height)
              for i, value in enumerate(values)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    bottom = top + 8 + height
    dots = "".join(
        f'<circle class="ours" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{html.escape(when)}: '
        f'{number(value)} ns</title></circle>'
        for (x, y), value, when in zip(points, values,
                                       [date for date, _ in path.earlier] + ["this run"]))
    return [f'<text x="0" y="{bottom - 14}">runs</text>'
            f'<line class="base" x1="{LABEL}" y1="{bottom}" x2="{WIDTH - VALUE}" y2="{bottom}"/>'
            f'<polyline class="history" points="{line}"/>{dots}'
            f'<text x="{WIDTH - VALUE + 8}" y="{points[-1][1] + 4:.1f}">'
            f'{change(path)}</text>'], bottom + 6


def picture(path):
    drawn, height = bars(path)
    line, height = history(path, height)
    multiple = f"{path.ns / path.floor:.1f} × its floor" if path.floor else ""
    name = html.escape(path.name.removeprefix("BM_"))
    return (f'<figure><figcaption>{name}<span>{multiple}</span></figcaption>'
            f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{name}">'
            f'{"".join(drawn + line)}</svg></figure>')


def page(paths, date, host):
    return ("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
            "<meta name=\"viewport\" content=\"width=device-width\">"
            f"<title>Benchmarks of libtdp</title><style>{STYLE}</style></head><body>"
            f"<h1>Benchmarks of libtdp</h1><p>{html.escape(date)}, {html.escape(host)}. "
            "Nanoseconds an item; shorter is better. The floor is what this machine took in the "
            "same run for the least that the path must do. KVM's figures are of its own code in "
            "user space, on one machine that is named in benchmarks/kvm.tsv: where that is "
            "another, compare multiples of floors.</p>"
            f'<div class="paths">{"".join(picture(path) for path in paths)}</div>'
            "</body></html>\n")


def write(file, text):
    try:
        with open(file, "w", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise ReportError(f"{file}: {error.strerror}") from error


def write_docs(file, lines, date):
    with open(file, encoding="utf-8") as text:
        before, begin, rest = text.read().partition(BEGIN)
        _, end, after = rest.partition(END)
    if not begin or not end:
        raise ReportError(f"{file}: has no place for the table ({BEGIN} and {END})")
    middle = "\n".join([begin, "", f"Of the run of {date.split('T')[0]}:", "", *lines, "", end])
    write(file, before + middle + after)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--kvm")
    parser.add_argument("--earlier", action="append", default=[])
    parser.add_argument("--merged")
    parser.add_argument("--page")
    parser.add_argument("--docs")
    return parser.parse_args(argv)


def main(argv):
    options = parse(argv)
    runs = [load(file) for file in options.runs]
    benchmarks = [result for _, results in runs for result in results]
    context, date = runs[0][0], runs[-1][0]["date"]
    host = f"{context.get('num_cpus', '?')} CPUs of {context.get('mhz_per_cpu', '?')} MHz"
    earlier = [(was["date"], measured(results)) for was, results in map(load, options.earlier)]
    paths = paths_of(measured(benchmarks), read_kvm(options.kvm), earlier)
    if not paths:
        raise ReportError("no benchmark ran that is a path: nothing to show")
    lines = table(paths)
    print("\n".join(lines))
    if options.merged:
        write(options.merged, json.dumps({"context": context | {"date": date},
                                          "benchmarks": benchmarks}, indent=1) + "\n")
    if options.page:
        write(options.page, page(paths, date, host))
    if options.docs:
        write_docs(options.docs, lines, date)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ReportError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(1)
