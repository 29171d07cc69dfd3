// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Puts the report together, and again whenever another run or baseline is chosen.

'use strict';

const chooser = (label, value, changed) => {
  const select = element('select', {onchange: () => changed(Number(select.value))},
      ...RUNS.map((run, i) => element('option', {value: i, selected: i === value}, nameOf(run))));
  return element('label', {}, label, select);
};

const chosen = {run: 0, base: 0};
const content = element('div');

function show() {
  if (RUNS.length === 0) {
    document.querySelector('h1').textContent = 'Benchmarks side by side';
    content.replaceChildren(benchmarks());
    return;
  }
  const run = RUNS[chosen.run], base = RUNS[chosen.base];
  const parts = [tiles(run, base), timeStrip(run), cycleStack(run), walkGrid(run), exits(run, chosen.run), missCurves(run),
    addressMap(run), pages(run), processes(run), cpus(run, chosen.run), smallMultiples(), costs(base), runsTable(run), options(run, base),
    benchmarks()];
  content.replaceChildren(...parts.filter((part) => part !== null));
}

const report = document.getElementById('report');
const versions = [...new Set(RUNS.map((run) => run.tdp_version))].join(', ');
document.getElementById('origin').textContent = RUNS.length === 0 ?
  `Benchmarks: ${BENCHES.map((file) => fileName(file.file)).join(', ')}` :
    `${number(RUNS.length)} ${RUNS.length === 1 ? 'run' : 'runs'} of tdp ${versions}: ` +
    [...new Set(RUNS.map((run) => fileName(run.trace)))].join(', ');
if (RUNS.length > 1) {
  report.append(element('div', {class: 'bar'},
      chooser('run', 0, (i) => { chosen.run = i; show(); }),
      chooser('against the baseline', 0, (i) => { chosen.base = i; show(); })));
}
report.append(content);
show();
document.body.dataset.ready = 'true';
