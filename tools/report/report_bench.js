// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Files of Google Benchmark: every benchmark with the time of each file, beside those of the first.

'use strict';

const NANOSECONDS = {ns: 1, us: 1e3, ms: 1e6, s: 1e9};
const nanoseconds = (value) => `${number(value)} ns`;

// What is measured of a benchmark, the first that all have: a counter of its own, or CPU time.
const BENCH_VALUES = [
  {name: 'nanoseconds an item', of: (one) => one.ns_per_item},
  {name: 'CPU time, nanoseconds', of: (one) => one.cpu_time * NANOSECONDS[one.time_unit ?? 'ns']},
];
const OF_BENCH = BENCH_VALUES.find((value) => BENCHES.every((file) =>
  file.benchmarks.every((one) => one.error_occurred || Number.isFinite(value.of(one))))) ?? BENCH_VALUES[1];

// Times by the benchmark's name: those of its repetitions, without the sums made of them.
function timesOf(file) {
  const times = new Map();
  for (const one of file.benchmarks) {
    if (one.run_type === 'aggregate' || one.error_occurred) continue;
    const name = one.run_name ?? one.name;
    if (!times.has(name)) times.set(name, []);
    times.get(name).push(OF_BENCH.of(one));
  }
  return times;
}

function benchmarks() {
  if (BENCHES.length === 0) return null;
  const files = BENCHES.map((file) => ({name: fileName(file.file), times: timesOf(file)}));
  const names = [...new Set(files.flatMap((file) => [...file.times.keys()]))];
  const found = (file, name) => (file.times.has(name) ? summary(file.times.get(name)) : null);
  const several = files.length > 1;
  const repeated = files.some((file) => [...file.times.values()].some((all) => all.length > 1));
  const rows = names.map((name) => [name, ...files.flatMap((file, i) => {
    const time = found(file, name), first = found(files[0], name);
    const cells = [time?.mean ?? null];
    if (repeated) cells.push(time?.half || null);
    if (i > 0) cells.push(time && first ? ratio(time.mean, first.mean) : null);
    return cells;
  })]);
  const heads = ['benchmark', ...files.flatMap((file, i) => [several ? file.name : OF_BENCH.name,
    ...(repeated ? ['± 95 %'] : []), ...(i > 0 ? [`× ${files[0].name}`] : [])])];
  const commands = BENCHES.map((file) => `${file.file}: ${file.context.executable ?? ''} ${file.context.date ?? ''}`);
  const chart = bars(names.flatMap((name) => files.filter((file) => file.times.has(name)).map((file) => {
    const {mean, half} = found(file, name);
    return {name, parts: [{value: mean, colour: colour(files.indexOf(file)),
      title: `${file.name}: ${nanoseconds(mean)}`}], half};
  })), nanoseconds);
  return section('Benchmarks', `${OF_BENCH.name[0].toUpperCase()}${OF_BENCH.name.slice(1)}.`,
      several ? legend(files.map((file) => file.name)) : null, chart, table(heads, rows, {commands}));
}
