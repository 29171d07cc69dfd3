// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The runs of the report, what is measured of them, and how they are named and grouped.

'use strict';

// A file holds one run, the list of those of a sweep, or what Google Benchmark wrote.
const FILES = JSON.parse(document.getElementById('runs').textContent);
const BENCHES = FILES.filter((file) => file.benchmarks);
const RUNS = FILES.filter((file) => !file.benchmarks).flat();

const at = (run, path) => path.split('.').reduce((value, key) => value?.[key], run);
const ratio = (a, b) => (b ? a / b : null);

// What is shown of a run. `path` is where the JSON has it; `of` computes what it has not. `less`:
// whether less is better.
const METRICS = [
  {name: 'accesses', path: 'accesses'},
  {name: 'TLB misses', path: 'tlb.misses', less: true},
  {name: 'misses per 1,000 instructions', path: 'tlb.mpki', less: true},
  {name: 'walks', path: 'walks.count', less: true},
  {name: 'references a walk', path: 'walks.references_per_walk', less: true},
  {name: 'cycles a walk', path: 'walks.cycles_per_walk', less: true},
  {name: 'walk cycles an access', of: (run) => ratio(at(run, 'walks.cycles'), run.accesses), less: true},
  {name: 'guest page faults', path: 'page_faults', less: true},
  {name: 'VM exits', path: 'exits', less: true},
  {name: 'guest table bytes', path: 'tables.guest_table_bytes', less: true},
  {name: 'EPT table bytes', path: 'tables.ept_table_bytes', less: true},
  {name: 'wrong mappings', path: 'check.mismatches', less: true},
];
const measure = (metric, run) => (metric.path ? at(run, metric.path) : metric.of(run)) ?? null;

function number(value) {
  if (value === null || value === undefined) return '–';
  if (typeof value !== 'number') return String(value);
  if (Number.isInteger(value)) return value.toLocaleString('en-US');
  const digits = Math.abs(value) >= 100 ? 1 : Math.abs(value) >= 1 ? 2 : 4;
  return value.toLocaleString('en-US', {maximumFractionDigits: digits});
}

const fileName = (path) => path.split('/').pop();

// Options whose values are not the same in all runs; null and what is left out count as no value.
const VARIED = [...new Set(RUNS.flatMap((run) => Object.keys(run.options)))].filter(
    (name) => new Set(RUNS.map((run) => JSON.stringify(run.options[name] ?? null))).size > 1);
const SEVERAL_TRACES = new Set(RUNS.map((run) => run.trace)).size > 1;

function nameOf(run, without = []) {
  const words = VARIED.filter((name) => !without.includes(name) && run.options[name] !== null)
      .map((name) => `${name} ${run.options[name]}`);
  if (SEVERAL_TRACES) words.unshift(fileName(run.trace));
  return words.join(', ') || fileName(run.trace);
}

// Runs that differ in their seed alone are one group.
function groups() {
  const found = new Map();
  for (const run of RUNS) {
    const options = {...run.options, seed: null};
    const key = run.trace + JSON.stringify(options);
    if (!found.has(key)) found.set(key, {name: nameOf(run, ['seed']), runs: []});
    found.get(key).runs.push(run);
  }
  return [...found.values()];
}

// Student's t for 95 %, by degrees of freedom from 1.
const STUDENT = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16,
  2.14, 2.13, 2.12, 2.11, 2.10, 2.09];

// Mean of some values, and half of its 95 % confidence interval; 0 for a single one.
function summary(values) {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  if (values.length < 2) return {mean, half: 0};
  const variance =
      values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1);
  const t = STUDENT[values.length - 2] ?? 1.96;
  return {mean, half: t * Math.sqrt(variance / values.length)};
}

// What an exit of each cause costs where nobody says otherwise, and which fields count them.
const EXIT_PRICES = JSON.parse(document.getElementById('prices').textContent);
const exitsOf = (run, cause) => cause.fields.reduce((sum, field) => sum + (at(run, field) ?? 0), 0);

// VM exits of a run by cause, those that are not there left out.
function exitsByCause(run) {
  const causes = [];
  const add = (name, count) => { if (count) causes.push({name, count}); };
  const pages = (cause) => Object.values(cause).reduce((a, b) => a + b, 0);
  for (const [cause, sizes] of Object.entries(run.violations.mapped)) {
    add(`violation: ${cause.replace('_', ' ')}`, pages(sizes));
  }
  add('violation: spurious', run.violations.spurious);
  add('violation: retry', run.violations.retry);
  for (const [kind, prefix] of [['shadow_exits', 'shadow'], ['nested_exits', 'nested']]) {
    for (const [cause, count] of Object.entries(run[kind])) {
      if (cause !== 'total') add(`${prefix}: ${cause.replace('_', ' ')}`, count);
    }
  }
  return causes;
}
