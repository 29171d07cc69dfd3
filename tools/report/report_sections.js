// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The sections of the report. Each is a function of the run and the baseline chosen, and null where
// the runs have nothing for it.

'use strict';

function tiles(run, base) {
  const box = element('div', {class: 'tiles'});
  for (const metric of METRICS) {
    const value = measure(metric, run), before = measure(metric, base);
    let change = null;
    if (run !== base && value !== null && before !== null) {
      const percent = before ? (value / before - 1) * 100 : value ? Infinity : 0;
      const worse = metric.less && percent > 0, better = metric.less && percent < 0;
      const text = Number.isFinite(percent) ? `${percent > 0 ? '+' : ''}${percent.toFixed(1)} %` : 'new';
      change = element('span', {class: `change ${worse ? 'worse' : better ? 'better' : ''}`},
          `${text} against ${number(before)}`);
    }
    box.append(element('div', {class: 'tile'}, element('span', {class: 'name'}, metric.name),
        element('b', {}, number(value)), change));
  }
  return box;
}

function runsTable(run) {
  const rows = RUNS.map((one, i) => [nameOf(one), ...METRICS.map((metric) =>
    (metric.path ? {value: measure(metric, one), run: i, path: metric.path} : measure(metric, one)))]);
  return section('Runs', null, table(['run', ...METRICS.map((metric) => metric.name)], rows,
      {commands: RUNS.map((one) => one.command), chosen: RUNS.indexOf(run)}));
}

function smallMultiples() {
  const all = groups();
  if (all.length < 2) return null;
  const shown = METRICS.filter((metric) => {
    const values = RUNS.map((run) => measure(metric, run));
    return !values.includes(null) && new Set(values).size > 1;
  });
  if (shown.length === 0) return null;
  const seeds = all.some((group) => group.runs.length > 1);
  return section('Side by side',
      seeds ? 'Runs that differ in their seed alone are one bar: their mean, and its 95 % confidence interval.' : null,
      element('div', {class: 'multiples'}, ...shown.map((metric) => element('figure', {},
          element('figcaption', {}, metric.name),
          bars(all.map((group) => {
            const {mean, half} = summary(group.runs.map((run) => measure(metric, run)));
            return {name: group.name, parts: [{value: mean}], half};
          }))))));
}

// Walk cycles, or references at a price where nobody counted cycles.
const walkCycles = (run, reference) => at(run, 'walks.cycles') || (at(run, 'walks.references.guest.total') +
    at(run, 'walks.references.ept.total')) * reference;

function slider(name, value, most, step, changed, source = null) {
  const shown = element('output', {}, number(value));
  const input = element('input', {type: 'range', min: 0, max: most, step, value, oninput: () => {
    shown.textContent = number(Number(input.value));
    changed();
  }});
  return {label: element('label', source ? {title: source} : {}, element('span', {}, name, ' ', shown), input),
    get value() { return Number(input.value); }};
}

// The prices of VM exits that the reader sets: one for all, or one for each cause that a run has.
function exitPrices(changed) {
  const one = slider('cycles a VM exit:', 1500, 10000, 50, changed);
  const causes = EXIT_PRICES.filter((cause) => RUNS.some((run) => exitsOf(run, cause)))
      .map((cause) => ({cause, slider: slider(`cycles, ${cause.name}:`, cause.cycles, 50000, 1, changed, cause.source)}));
  const mode = element('select', {onchange: () => { show(); changed(); }},
      element('option', {value: 'one'}, 'one for all'), element('option', {value: 'causes'}, 'by cause'));
  const byCause = () => mode.value === 'causes';
  const box = element('div', {class: 'sliders'});
  function show() {
    box.replaceChildren(element('label', {}, 'prices of VM exits', mode),
        ...(byCause() ? causes.map((each) => each.slider.label) : [one.label]));
  }
  show();
  return {box, byCause, cyclesOf: (run) => (byCause()
    ? causes.reduce((sum, each) => sum + exitsOf(run, each.cause) * each.slider.value, 0)
    : run.exits * one.value)};
}

// At which price of an exit, or at how many times the prices by cause, `run` costs what `base`
// costs; null where there is none. `rest`: what a run costs an access but for its exits.
function crossover(run, base, prices, rest) {
  const weight = (one) => (prices.byCause() ? prices.cyclesOf(one) : one.exits) / one.accesses;
  const more = weight(base) - weight(run);
  if (run === base || run.trace !== base.trace || more === 0) return null;
  const price = (rest(run) - rest(base)) / more;
  if (price <= 0) return null;
  return [nameOf(run), prices.byCause() ? Number(price.toPrecision(3)) : Math.round(price), more > 0 ? 'above' : 'below'];
}

function costs(base) {
  if (RUNS.every((run) => run.exits === 0 && run.page_faults === 0)) return null;
  const body = element('div');
  const counted = RUNS.every((run) => at(run, 'walks.cycles'));
  const prices = exitPrices(() => draw());
  const fault = slider('cycles a guest page fault:', 1000, 10000, 50, () => draw());
  const reference = slider('cycles a reference:', 4, 100, 1, () => draw());
  const walk = (run) => walkCycles(run, reference.value) / run.accesses;
  const faults = (run) => run.page_faults * fault.value / run.accesses;
  const parts = (run) => [walk(run), prices.cyclesOf(run) / run.accesses, faults(run)];
  const names = ['page walks', 'VM exits', 'guest page faults'];
  function crossovers() {
    const rows = RUNS.map((run) => crossover(run, base, prices, (one) => walk(one) + faults(one))).filter(Boolean);
    if (rows.length === 0) return null;
    const [which, unit] = prices.byCause() ? ['At how many times these prices', 'times the prices']
      : ['At which price of an exit', 'cycles a VM exit'];
    return element('div', {},
        element('p', {class: 'quiet'}, `${which} a run costs what the baseline (${nameOf(base)}) costs, and where it wins:`),
        table(['run', unit, 'wins'], rows, {commands: [base.command]}));
  }
  function draw() {
    const format = (value) => value.toFixed(value < 10 ? 3 : 1);
    body.replaceChildren(legend(names), bars(RUNS.map((run) => ({name: nameOf(run),
      parts: parts(run).map((value, i) => ({value, colour: colour(i), title: `${names[i]}: ${format(value)}`}))})), format));
    const table_of_them = crossovers();
    if (table_of_them) body.append(table_of_them);
  }
  draw();
  return section('What it costs, in cycles an access',
      'Counts become time by prices. They are assumptions: move them. Those by cause begin with what --exit-prices linux-boot says.',
      prices.box, element('div', {class: 'sliders'}, fault.label, counted ? null : reference.label), body);
}

function exits(run, index) {
  const causes = exitsByCause(run);
  if (causes.length === 0) return null;
  const mapped = Object.entries(run.violations.mapped).map(([cause, sizes]) => [cause.replace('_', ' '),
    ...['4k', '2m', '1g'].map((size) => ({value: sizes[size], run: index, path: `violations.mapped.${cause}.${size}`}))]);
  return section('VM exits by cause', null,
      bars(causes.map((cause) => ({name: cause.name, parts: [{value: cause.count}]}))),
      run.violations.total ? table(['mapped for', '4 KiB', '2 MiB', '1 GiB'], mapped, {commands: [run.command]}) : null);
}

// Rows: the guest's levels, then the final address; columns: the guest's own entry, then the EPT's
// levels.
function walkGrid(run) {
  const references = run.walks.references;
  const walks = run.walks.count;
  if (!walks) return null;
  const levels = [5, 4, 3, 2, 1];
  const ept = (guest, level) => references.ept_by_guest_level[guest][level - 1];
  const guestUsed = levels.filter((level) => references.guest[`level_${level}`]);
  const eptUsed = levels.filter((level) => references.ept[`level_${level}`]);
  const rows = [...guestUsed.map((level) => ({name: `guest level ${level}`, level})), {name: 'final address', level: 0}]
      .filter((row) => row.level || eptUsed.length);
  const own = (level) => (level ? references.guest[`level_${level}`] : null);
  const values = rows.flatMap((row) => [own(row.level), ...eptUsed.map((level) => ept(row.level, level))]);
  const most = Math.max(...values.filter((value) => value !== null)) / walks || 1;
  const cell = (count, what) => {
    if (count === null) return element('td', {});
    const value = count / walks;
    return element('td', {class: 'cell', style: `--heat: ${Math.min(1, value / most).toFixed(3)}`, tabindex: 0,
      title: `${what}: ${number(count)} references, ${number(value)} a walk`}, value.toFixed(3));
  };
  const heads = ['', 'guest entry', ...eptUsed.map((level) => `EPT level ${level}`)];
  return section('Where a walk reads', 'References a walk: rows are the tables of the guest, from the root down, ' +
      'and columns the EPT entries that are read to reach each of them.',
  element('div', {class: 'scroll'}, element('table', {class: 'grid'},
      element('thead', {}, element('tr', {}, ...heads.map((head) => element('th', {scope: 'col'}, head)))),
      element('tbody', {}, ...rows.map((row) => element('tr', {}, element('th', {scope: 'row'}, row.name),
          cell(own(row.level), row.name), ...eptUsed.map((level) => cell(ept(row.level, level), `${row.name}, EPT level ${level}`))))))));
}

function processes(run) {
  const counts = run.processes;
  if (!counts) return null;
  const names = Object.keys(counts).filter((name) => Array.isArray(counts[name]));
  const single = Object.keys(counts).filter((name) => !Array.isArray(counts[name]));
  return section('Processes', single.map((name) => `${number(counts[name])} ${name.replaceAll('_', ' ')}`).join(', '),
      table(['process', ...names.map((name) => name.replaceAll('_', ' '))],
          counts.accesses.map((_, i) => [i + 1, ...names.map((name) => counts[name][i])]), {commands: [run.command]}));
}

function cpus(run, index) {
  if (run.per_cpu.length < 2) return null;
  const names = Object.keys(run.per_cpu[0]);
  return section('CPUs', null, table(['CPU', ...names.map((name) => name.replaceAll('_', ' '))],
      run.per_cpu.map((cpu, i) => [i, ...names.map((name) => ({value: cpu[name], run: index, path: `per_cpu.${i}.${name}`}))]),
      {commands: [run.command]}));
}

function options(run, base) {
  const names = Object.keys(run.options);
  const rows = names.map((name) => (run === base ? [name, run.options[name]] :
    [name, run.options[name], base.options[name]]));
  return section('Options', null, element('p', {}, element('code', {}, run.command)),
      table(run === base ? ['option', 'value'] : ['option', 'value', 'baseline'], rows, {commands: [run.command]}));
}
