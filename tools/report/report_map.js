// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The address space, folded: a row for each 2 MiB of which pages were recorded, a mark for each
// page. What lies between rows is a line that says how much it is.

'use strict';

const BLOCK = 2097152, PAGE = 4096, MOST_ROWS = 256;
const hexadecimal = (address) => '0x' + address.toString(16);

function bytes(count) {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  for (; count >= 1024 && unit + 1 < units.length; unit++) count /= 1024;
  return `${number(Math.round(count * 10) / 10)} ${units[unit]}`;
}

// Pages by block, those of the blocks that are used most, by address.
function blocksOf(used) {
  const blocks = new Map();
  used.gva.forEach((gva, i) => {
    const start = gva - gva % BLOCK;
    if (!blocks.has(start)) blocks.set(start, {start, accesses: 0, pages: []});
    const block = blocks.get(start);
    block.accesses += used.accesses[i];
    block.pages.push({gva, accesses: used.accesses[i], walks: used.walks?.[i]});
  });
  const all = [...blocks.values()].sort((a, b) => b.accesses - a.accesses);
  const shown = all.slice(0, MOST_ROWS).sort((a, b) => a.start - b.start);
  for (const block of shown) block.pages.sort((a, b) => a.gva - b.gva);
  return {shown, hidden: all.length - shown.length};
}

// One row: a strip of 512 pages. Left and right go from page to page, up and down to other rows.
function blockRow(block, most, say) {
  const strip = svg('svg', {class: 'strip', viewBox: '0 0 512 12', preserveAspectRatio: 'none',
    tabindex: 0, role: 'img', 'aria-label': `${hexadecimal(block.start)}: ${number(block.pages.length)} pages`});
  const marks = block.pages.map((page) => {
    const mark = svg('rect', {x: (page.gva - block.start) / PAGE, y: 0, width: 1, height: 12, class: 'page'});
    // Shades by the logarithm: few pages have most of the accesses.
    mark.style.fillOpacity = 0.15 + 0.85 * Math.log(1 + page.accesses) / Math.log(1 + most);
    return mark;
  });
  strip.append(svg('rect', {x: 0, y: 0, width: 512, height: 12, class: 'ground'}), ...marks);
  let current = -1;
  const choose = (i) => {
    marks[current]?.classList.remove('chosen');
    current = i;
    marks[current].classList.add('chosen');
    say(block.pages[current]);
  };
  strip.addEventListener('focus', () => choose(Math.max(current, 0)));
  strip.addEventListener('keydown', (event) => {
    const rows = [...strip.closest('table').querySelectorAll('svg.strip')];
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    const row = {ArrowUp: -1, ArrowDown: 1}[event.key];
    if (step) choose(Math.max(0, Math.min(marks.length - 1, current + step)));
    else if (event.key === 'Home') choose(0);
    else if (event.key === 'End') choose(marks.length - 1);
    else if (row) rows[rows.indexOf(strip) + row]?.focus();
    else return;
    event.preventDefault();
  });
  strip.addEventListener('pointerdown', (event) => {
    const box = strip.getBoundingClientRect();
    const gva = block.start + (event.clientX - box.left) / box.width * BLOCK;
    const distance = (page) => Math.abs(page.gva + PAGE / 2 - gva);
    choose(block.pages.reduce((best, page, i) => (distance(page) < distance(block.pages[best]) ? i : best), 0));
  });
  return element('tr', {}, element('th', {scope: 'row'}, hexadecimal(block.start)), element('td', {}, strip),
      element('td', {}, number(block.pages.length)), element('td', {}, number(block.accesses)));
}

function addressMap(run) {
  const used = run.pages;
  if (!used || !Array.isArray(used.gva) || used.gva.length === 0) return null;
  const {shown, hidden} = blocksOf(used);
  const most = Math.max(...used.accesses);
  const said = element('p', {class: 'said', 'aria-live': 'polite'}, 'Choose a page with the pointer or the arrow keys.');
  const say = (page) => {
    said.textContent = `${hexadecimal(page.gva)}: ${number(page.accesses)} accesses` +
        (page.walks === undefined ? '' : `, ${number(page.walks)} walks`) +
        `, ${number(100 * page.accesses / run.accesses)} % of all`;
  };
  const rows = shown.flatMap((block, i) => {
    const gap = i === 0 ? 0 : block.start - shown[i - 1].start - BLOCK;
    const row = blockRow(block, most, say);
    return gap === 0 ? [row] :
      [element('tr', {class: 'gap'}, element('td', {colspan: 4}, `${bytes(gap)} without a page of these`)), row];
  });
  const heads = ['2 MiB from', 'its 512 pages', 'pages', 'accesses'];
  const more = hidden ? ` ${number(hidden)} blocks with fewer accesses are left out.` : '';
  return section('The address space', `The ${number(used.gva.length)} most used of ${number(used.touched)} pages.${more}`,
      said, element('div', {class: 'scroll'}, element('table', {class: 'map'},
          element('thead', {}, element('tr', {}, ...heads.map((head) => element('th', {scope: 'col'}, head)))),
          element('tbody', {}, ...rows))));
}
