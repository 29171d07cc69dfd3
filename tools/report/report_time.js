// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What a run says beside its totals: intervals, cycles by cause, miss curves, pages. Each part is
// there only if the run recorded it.

'use strict';

// Columns of intervals that count something for each of them.
const columnsOf = (intervals) => Object.keys(intervals).filter(
    (name) => name !== 'accesses' && Array.isArray(intervals[name]));

function timeStrip(run) {
  const intervals = run.intervals;
  if (!intervals || !Array.isArray(intervals.accesses) || intervals.accesses.length === 0) return null;
  const names = columnsOf(intervals);
  const count = intervals.accesses.length;
  const ends = [];
  intervals.accesses.reduce((sum, n, i) => (ends[i] = sum + n), 0);
  const starts = [0, ...ends.slice(0, -1)];
  const chosen = element('select', {onchange: () => draw()},
      ...names.map((name) => element('option', {value: name}, name.replaceAll('_', ' '))));
  const bound = (value) => element('input', {type: 'range', min: 0, max: count - 1, step: 1, value, oninput: () => draw()});
  const from = bound(0), to = bound(count - 1);
  const body = element('div');
  const pair = () => [Number(from.value), Number(to.value)].sort((a, b) => a - b);

  // Dragging over the chart is the same as moving the two ends.
  function brush(drawn) {
    const interval = (event) => {
      const box = drawn.chart.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * drawn.chart.viewBox.baseVal.width;
      const part = (x - drawn.left) / (drawn.right - drawn.left);
      return Math.max(0, Math.min(count - 1, Math.floor(part * count)));
    };
    drawn.chart.style.touchAction = 'none';
    drawn.chart.addEventListener('pointerdown', (event) => {
      const first = interval(event);
      const move = (later) => { from.value = first; to.value = interval(later); drawRange(drawn); };
      const end = () => {
        window.removeEventListener('pointermove', move);
        window.removeEventListener('pointerup', end);
      };
      window.addEventListener('pointermove', move);
      window.addEventListener('pointerup', end);
      move(event);
    });
  }

  const sums = element('div', {id: 'range'});
  function drawRange(drawn) {
    const [first, last] = pair();
    drawn.chart.querySelector('.brush')?.remove();
    const x1 = drawn.x(starts[first]), x2 = drawn.x(Math.max(ends[last], 1));
    drawn.chart.append(svg('rect', {class: 'brush', x: x1, y: drawn.top,
      width: Math.max(1, Math.min(x2, drawn.right) - x1), height: drawn.bottom - drawn.top}));
    const sum = (column) => column.slice(first, last + 1).reduce((a, b) => a + b, 0);
    const accesses = sum(intervals.accesses);
    sums.replaceChildren(table(['accesses ' + number(starts[first]) + ' to ' + number(ends[last]), 'count', 'per 1,000 accesses', 'whole run'],
        [['accesses', accesses, 1000, ends[count - 1]], ...names.map((name) => [name.replaceAll('_', ' '), sum(intervals[name]),
          ratio(1000 * sum(intervals[name]), accesses), ratio(1000 * intervals[name].reduce((a, b) => a + b, 0), ends[count - 1])])],
        {commands: [run.command]}));
  }
  function draw() {
    const column = intervals[chosen.value];
    const drawn = lines([{name: chosen.value, points: column.flatMap((value, i) => {
      const rate = ratio(1000 * value, intervals.accesses[i]) ?? 0;
      return [[starts[i], rate], [ends[i], rate]];
    })}]);
    body.replaceChildren(drawn.chart);
    brush(drawn);
    drawRange(drawn);
  }
  draw();
  return section('Time', 'By access number, per 1,000 accesses. Drag over the chart, or move the two ends, for the figures of a part.',
      element('div', {class: 'sliders'}, element('label', {}, 'shown', chosen), element('label', {}, 'from interval', from),
          element('label', {}, 'to interval', to)), body, sums);
}

function cycleStack(run) {
  const stack = run.machine?.stack;
  if (!stack) return null;
  const rows = stack.causes.map((cause, i) => [cause.replaceAll('_', ' '), stack.events[i], stack.cycles[i],
    ratio(stack.cycles[i], run.accesses)]);
  return section('Translation cycles by cause', run.machine.name ?? null,
      bars(rows.filter((row) => row[2]).map((row) => ({name: row[0], parts: [{value: row[3]}]})), (value) => value.toFixed(4)),
      table(['cause', 'events', 'cycles', 'an access'], rows, {commands: [run.command]}));
}

const pageName = (bytes) => ({4096: '4 KiB', 2097152: '2 MiB', 1073741824: '1 GiB'}[bytes] ?? `${bytes} bytes`);

// Entries of data TLBs on the market, for 4 KiB pages.
const PARTS = [[64, 'L1 (most)'], [1536, 'Skylake L2'], [2048, 'Ice Lake L2'], [3072, 'Zen 4 L2']];

function missCurves(run) {
  const curves = run.miss_curves;
  if (!Array.isArray(curves) || curves.length === 0) return null;
  const drawn = lines(curves.map((curve) => ({name: pageName(curve.page_bytes),
    points: curve.entries.map((entries, i) => [entries, 1000 * curve.misses[i] / run.accesses])})), {logarithmic: true, marks: PARTS});
  return section('Misses by the size of the TLB', curves[0].sampled ? 'Of a fully associative TLB with LRU, per 1,000 accesses, by entries; estimated from parts of the run.'
      : 'Of a fully associative TLB with LRU, per 1,000 accesses, by entries.',
      legend(curves.map((curve) => `${pageName(curve.page_bytes)}, ${number(curve.pages)} pages`)), drawn.chart,
      element('div', {class: 'curves'}, ...curves.map((curve) => table([`entries of ${pageName(curve.page_bytes)}`, 'misses'],
          curve.entries.map((entries, i) => [entries, curve.misses[i]]).filter(([entries]) => Number.isInteger(Math.log2(entries))),
          {commands: [run.command]}))));
}

function pages(run) {
  const used = run.pages;
  if (!used || !Array.isArray(used.gva) || used.gva.length === 0) return null;
  const names = Object.keys(used).filter((name) => Array.isArray(used[name]) && name !== 'gva');
  const most = used.gva.slice(0, 100);
  return section('The most used pages', used.touched ? `${number(most.length)} of ${number(used.touched)} pages of 4 KiB that were touched.` : null,
      table(['page', ...names.map((name) => name.replaceAll('_', ' ')), 'share of accesses, %'],
          most.map((gva, i) => ['0x' + gva.toString(16), ...names.map((name) => used[name][i]),
            ratio(100 * used.accesses[i], run.accesses)]), {commands: [run.command]}));
}
