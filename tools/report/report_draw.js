// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Elements, tables that can be copied as CSV, and charts.

'use strict';

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const COLOURS = 6;
const colour = (i) => `var(--c${i % COLOURS})`;

function section(title, intro, ...children) {
  return element('section', {}, element('h2', {}, title),
      intro ? element('p', {class: 'quiet'}, intro) : null, ...children);
}

const csvField = (value) => {
  const text = value === null || value === undefined ? '' : String(value);
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

// Puts text on the clipboard; a page from disk may not be allowed to, and has the old way.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = element('textarea', {});
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
}

// A table. A cell is a value, or {value, run, path} where the JSON has it. `commands` made it.
function table(heads, rows, {commands = [], chosen = -1} = {}) {
  const plain = (cell) => (cell !== null && typeof cell === 'object' ? cell.value : cell);
  const cellOf = (cell) => {
    const value = plain(cell);
    const attributes = cell !== null && typeof cell === 'object' ?
      {'data-run': cell.run, 'data-path': cell.path, 'data-value': JSON.stringify(value)} : {};
    return element('td', attributes, number(value));
  };
  const csv = () => [...commands.map((command) => `# ${command}`), heads.map(csvField).join(','),
    ...rows.map((row) => row.map((cell) => csvField(plain(cell))).join(','))].join('\n') + '\n';
  const button = element('button', {type: 'button', onclick: async () => {
    await copy(csv());
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = 'Copy as CSV'; }, 1500);
  }}, 'Copy as CSV');
  return element('div', {},
      element('div', {class: 'scroll'}, element('table', {},
          element('thead', {}, element('tr', {}, ...heads.map((head) => element('th', {scope: 'col'}, head)))),
          element('tbody', {}, ...rows.map((row, i) => element('tr', {class: i === chosen ? 'chosen' : ''},
              ...row.map(cellOf)))))),
      element('p', {class: 'tools'}, button));
}

const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

// Horizontal bars of {name, parts: [{value, colour, title}], half}; `half` is that of an interval
// around the sum.
function bars(items, format = number) {
  const width = 660, left = 250, right = 110, step = 22;
  const total = (item) => item.parts.reduce((sum, part) => sum + part.value, 0);
  const most = Math.max(...items.map((item) => total(item) + (item.half ?? 0)), 1e-12);
  const scale = (value) => value / most * (width - left - right);
  const chart = svg('svg', {class: 'bars', viewBox: `0 0 ${width} ${items.length * step + 4}`, role: 'img'});
  items.forEach((item, i) => {
    const y = i * step + 2;
    const name = svg('text', {x: left - 8, y: y + 13, 'text-anchor': 'end'});
    name.textContent = cut(item.name, 42);
    name.append(Object.assign(svg('title'), {textContent: item.name}));
    chart.append(name);
    let x = left;
    for (const part of item.parts) {
      const bar = svg('rect', {x, y, width: scale(part.value), height: step - 6, rx: 2});
      bar.style.fill = part.colour ?? colour(0);
      bar.append(Object.assign(svg('title'), {textContent: part.title ?? format(part.value)}));
      chart.append(bar);
      x += scale(part.value);
    }
    let end = x;
    if (item.half) {
      const from = Math.max(left, x - scale(item.half)), to = x + scale(item.half), middle = y + (step - 6) / 2;
      for (const [x1, y1, x2, y2] of [[from, middle, to, middle], [from, y + 4, from, y + 12],
        [to, y + 4, to, y + 12]]) {
        chart.append(svg('line', {class: 'whisker', x1, y1, x2, y2}));
      }
      end = to;
    }
    const label = svg('text', {x: end + 6, y: y + 13, class: 'quiet'});
    label.textContent = item.half ? `${format(total(item))} ± ${format(item.half)}` : format(total(item));
    chart.append(label);
  });
  return chart;
}

function legend(names) {
  return element('p', {class: 'legend quiet'}, ...names.map((name, i) =>
    element('span', {style: `--colour: ${colour(i)}`}, name)));
}

// Lines of {name, points: [[x, y]…]}; x is logarithmic if `logarithmic`. `marks`: [x, text].
function lines(series, {logarithmic = false, marks = [], format = number, height = 240} = {}) {
  const width = 860, left = 64, bottom = 26, top = 14;
  const all = series.flatMap((one) => one.points);
  const X = logarithmic ? Math.log2 : (x) => x;
  const low = Math.min(...all.map((p) => X(p[0]))), high = Math.max(...all.map((p) => X(p[0])));
  const most = Math.max(...all.map((p) => p[1]), 1e-12);
  const x = (value) => left + (X(value) - low) / (high - low || 1) * (width - left - 10);
  const y = (value) => height - bottom - value / most * (height - bottom - top);
  const chart = svg('svg', {viewBox: `0 0 ${width} ${height}`, role: 'img'});
  for (const part of [0, 0.5, 1]) {
    const text = svg('text', {x: left - 8, y: y(most * part) + 4, 'text-anchor': 'end', class: 'quiet'});
    text.textContent = format(most * part);
    chart.append(svg('line', {class: 'axis', x1: left, x2: width - 10, y1: y(most * part), y2: y(most * part)}), text);
  }
  const ticks = logarithmic ?
    Array.from({length: Math.floor(high) - Math.ceil(low) + 1}, (_, i) => 2 ** (Math.ceil(low) + i)) :
    [0, 0.25, 0.5, 0.75, 1].map((part) => low + part * (high - low));
  for (const tick of ticks) {
    const text = svg('text', {x: x(tick), y: height - 8, 'text-anchor': 'middle', class: 'quiet'});
    text.textContent = number(Math.round(tick));
    chart.append(text);
  }
  marks.forEach(([value, name], i) => {
    if (X(value) < low || X(value) > high) return;
    const text = svg('text', {x: x(value) + 3, y: top + 10 + 14 * i, class: 'quiet'});
    text.textContent = name;
    chart.append(svg('line', {class: 'part', x1: x(value), x2: x(value), y1: top, y2: height - bottom}), text);
  });
  series.forEach((one, i) => {
    const line = svg('polyline', {points: one.points.map((p) => `${x(p[0])},${y(p[1])}`).join(' '),
      fill: 'none', 'stroke-width': 1.6});
    line.style.stroke = colour(i);
    line.append(Object.assign(svg('title'), {textContent: one.name}));
    chart.append(line);
  });
  return {chart, x, left, right: width - 10, top, bottom: height - bottom};
}
