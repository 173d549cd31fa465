// What all accounts come to, live, and what holds them back.

import { about, ask, cause, count, every, h, history, lastOverview, live, panel, put, rate, span, svg, table, when } from './lib.js';

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const tick = (seconds) => new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' }).format(new Date(seconds * 1000));

/** A plot of lines of `history`, as wide as its place. */
function plot(title, lines) {
  const place = h('div', { class: 'plot' });
  const told = h('span', { class: 'values' });
  const figure = h('figure', { class: 'panel' }, h('figcaption', {}, title, told), place);
  let drawn;
  const data = () => [history.at, ...lines.map((line) => history[line.of])];
  const draw = () => {
    drawn?.destroy();
    const axis = { stroke: color('--dim'), font: '11px system-ui, sans-serif', grid: { stroke: color('--grid'), width: 1 }, ticks: { show: false } };
    const brief = (values) => values.map((value) => (value >= 1e6 ? `${value / 1e6}M` : value >= 1e4 ? `${value / 1e3}k` : String(value)));
    drawn = new window.uPlot({
      width: Math.max(place.clientWidth - 12, 60),
      height: 142,
      padding: [8, 26, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 5 } },
      scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [
        { ...axis, space: 70, size: 22, values: (_, values) => values.map(tick) },
        { ...axis, size: 46, space: 30, values: (_, values) => brief(values) },
      ],
      series: [{}, ...lines.map((line, number) => ({
        stroke: color(number ? '--dim' : '--accent'), width: number ? 1.25 : 1.75, dash: number ? [5, 4] : undefined,
        fill: number ? undefined : color('--accent-soft'), points: { show: false }, spanGaps: true,
      }))],
      hooks: {
        setCursor: [(self) => {
          const at = self.cursor.idx;
          tell(at ?? history.at.length - 1, at !== null && at !== undefined);
        }],
      },
    }, data(), place);
  };
  const value = (line, at) => (line.whole ? count : rate)(history[line.of][at]);
  // What is under the pointer, or the last of all.
  const tell = (at, pointed) => {
    if (at < 0) return;
    put(told, pointed && h('span', { class: 'dim' }, tick(history.at[at])),
      lines.map((line, number) => h('span', { class: 'dim' }, lines.length > 1 && h('span', { class: number ? 'key second' : 'key' }), `${value(line, at)} ${line.name}`)));
  };
  const latest = () => tell(history.at.length - 1, false);
  const resized = new ResizeObserver(() => drawn?.setSize({ width: Math.max(place.clientWidth - 12, 60), height: 142 }));
  const scheme = matchMedia('(prefers-color-scheme: dark)');
  scheme.addEventListener('change', draw);
  return {
    figure,
    start() { draw(); resized.observe(place); latest(); },
    update() {
      drawn?.setData(data());
      if (drawn && (drawn.cursor.idx === null || drawn.cursor.idx === undefined)) latest();
    },
    end() { resized.disconnect(); scheme.removeEventListener('change', draw); drawn?.destroy(); },
  };
}

function tile(name, value, unit, under, kind) {
  return h('div', { class: 'tile' }, h('div', { class: 'name' }, name), h('div', { class: `value ${kind ?? ''}` }, value, unit && h('small', {}, ` ${unit}`)), h('div', { class: 'under' }, under ?? '\u00a0'));
}

function tiles(told) {
  const sum = (name) => told.platforms.reduce((all, platform) => all + (platform[name] ?? 0), 0);
  const slots = told.nodes.reduce((all, node) => all + node.slots, 0);
  const allowed = told.allowed ? `of ${rate(told.allowed)}/s allowed` : 'no limit by time';
  const eta = told.waiting === 0 ? ['nothing', 'waits'] : told.eta ? [span(Date.parse(told.eta.at) - Date.parse(told.now)), [told.eta.about && 'about', told.eta.by && `most by ${told.eta.by}`, told.without_eta && `but for ${count(told.without_eta)} held`].filter(Boolean).join(', ')] : ['–', 'not known'];
  const refused = told.rates_minute.throttled;
  return h('div', { class: 'tiles' },
    tile('Calls', rate(told.rates.calls), '/s', allowed),
    tile('Waiting', count(told.waiting), '', `${count(sum('accounts'))} accounts${told.postponed ? `, ${count(told.postponed)} put aside` : ''}`),
    tile('In flight', count(told.in_flight), '', slots ? `of ${count(slots)} at most` : undefined),
    tile('Until done', eta[0], '', eta[1]),
    tile('Refused by providers', rate(refused), '/s', 'in the last minute', refused > 0 ? 'warn' : ''),
    tile('Dead letters', told.dead === undefined ? '–' : count(told.dead), '', `${count(sum('held'))} accounts held`, told.dead ? 'bad' : ''));
}

/** A bar of a part of a whole, drawn: no style is written into the page. */
export function bar(part, kind = 'fill') {
  const share = Math.max(0, Math.min(1, Number.isFinite(part) ? part : 0));
  return svg('svg', { class: 'meter', viewBox: '0 0 100 6', preserveAspectRatio: 'none', 'aria-hidden': 'true' },
    svg('rect', { class: 'gauge', width: 100, height: 6, rx: 1 }), svg('rect', { class: `gauge ${kind}`, width: 100 * share, height: 6, rx: 1 }));
}

function causes(told) {
  const all = {};
  for (const platform of told.platforms) for (const [name, number] of Object.entries(platform.causes)) all[name] = (all[name] ?? 0) + number;
  const rows = Object.entries(all).filter(([, number]) => number > 0).sort((one, other) => other[1] - one[1]);
  const whole = rows.reduce((sum, [, number]) => sum + number, 0);
  return table('What accounts wait for', [
    { name: 'Accounts wait for', kind: 't', cell: ([name]) => cause(name) },
    { name: '', label: 'Part', wide: true, cell: ([, number]) => bar(number / whole) },
    { name: 'Accounts', kind: 'n', cell: ([, number]) => count(number) },
  ], rows, { empty: 'No account waits.', cards: false });
}

function nodes(told) {
  const well = (node) => (node.store_away ? h('span', { class: 'bad' }, 'store away') : node.back_away ? h('span', { class: 'bad' }, about.mode === 'run' ? 'state away' : 'NATS away') : h('span', { class: 'good' }, 'at work'));
  return table('Nodes', [
    { name: 'Node', kind: 'name', cell: (node) => node.node },
    { name: 'State', cell: well },
    { name: 'Partitions', kind: 'n', cell: (node) => count(node.partitions) },
    { name: 'Accounts', kind: 'n', cell: (node) => count(node.known) },
    { name: 'With an actor', kind: 'n', cell: (node) => count(node.live) },
    { name: 'Calls', kind: 'n', cell: (node) => `${count(node.slots - node.slots_open)} of ${count(node.slots)}` },
    { name: 'For others', kind: 'n', cell: (node) => count(node.guests ?? 0) },
  ], told.nodes);
}

export function findings(told) {
  if (!told.findings.length) return h('p', { class: 'empty' }, told.waiting ? 'Nothing but its limits’ pace holds it back.' : 'Nothing holds it back: nothing waits.');
  return told.findings.map((found) => h('div', { class: 'finding' },
    h('div', { class: 'what' }, h('span', {}, found.what), h('span', { class: 'dim t' }, `${Math.round(100 * found.share)} % of the time`)),
    h('ul', {}, found.evidence.map((line) => h('li', {}, line))),
    h('p', { class: 'advice' }, found.advice)));
}

export function overview(root) {
  const plots = [
    plot('Calls', [{ of: 'calls', name: 'calls/s' }, { of: 'allowed', name: 'allowed' }]),
    plot('Waiting', [{ of: 'waiting', name: 'fetches', whole: true }]),
    plot('In flight', [{ of: 'flight', name: 'calls', whole: true }]),
  ];
  const [top, why, doctor, below] = [h('div'), h('div'), h('div', {}, h('p', { class: 'empty' }, 'Looking …')), h('div')];
  root.append(h('h1', { class: 'unseen' }, 'Overview'), top, h('div', { class: 'plots' }, plots.map((one) => one.figure)),
    h('div', { class: 'two' }, panel('What holds it back', 'of the last 30 s', doctor), panel('What accounts wait for', 'now', why)),
    panel('Nodes', undefined, below));
  for (const one of plots) one.start();
  const update = () => {
    const told = lastOverview();
    if (!told) return;
    put(top, tiles(told));
    put(why, causes(told));
    put(below, nodes(told));
    for (const one of plots) one.update();
  };
  update();
  live.addEventListener('overview', update);
  const asking = every(5000, async (signal) => put(doctor, findings(await ask('doctor?window_s=30', { signal }))));
  return () => {
    live.removeEventListener('overview', update);
    asking.end();
    for (const one of plots) one.end();
  };
}
