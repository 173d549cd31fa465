// One account: what its next call waits for, and how much of each limit's window is used.

import { about, ask, clock, count, every, h, panel, pause, put, resume, span, svg, table, when } from './lib.js';
import { bar } from './overview.js';

const KINDS = {
  every: 'between two calls', sliding: 'in any window', bucket: 'bucket', concurrent: 'in flight', calendar: 'by the calendar', first_use: 'from the first call on', score: 'score', jobs: 'jobs',
};

/** The calls that count of a window, in time: the window behind, and what comes. */
function strip(counter, limit, next, now) {
  const window = limit.window_ms;
  const begin = counter.since ? Math.min(Date.parse(counter.since), now) : now - window;
  const clears = counter.clears ? Date.parse(counter.clears) : now;
  const end = Math.max(now + window * 0.15, Math.min(clears, now + window));
  const x = (at) => (1000 * (at - begin)) / (end - begin);
  const widest = Math.max(1, ...counter.calls.map((call) => call.units));
  const marks = counter.calls.map((call) => {
    const height = 6 + (12 * call.units) / widest;
    return svg('rect', { class: 'used', x: x(Date.parse(call.at)) - 1.5, y: 20 - height, width: 3, height },
      svg('title', {}, `${clock(call.at)}: ${call.units}`));
  });
  const coming = next.filter((one) => Date.parse(one.at) < end).map((one) => svg('rect', { class: 'next', x: x(Math.max(Date.parse(one.at), now)) - 1.5, y: 8, width: 3, height: 12 }));
  const words = `${counter.used} of ${limit.max} used; ${counter.calls.length} charges shown from ${span(now - begin)} ago`;
  return svg('svg', { class: 'strip', viewBox: '0 0 1000 22', preserveAspectRatio: 'none', role: 'img', 'aria-label': words },
    svg('rect', { class: 'ground', width: Math.max(x(now), 0), height: 20 }), marks, coming,
    svg('line', { class: 'now', x1: x(now), x2: x(now), y1: 0, y2: 22, 'vector-effect': 'non-scaling-stroke' }));
}

function limitRow(limit, told) {
  const now = Date.parse(told.now);
  const unit = limit.window_ms ? ` in ${span(limit.window_ms)}` : '';
  const rule = limit.kind === 'every' ? `one call each ${span(limit.window_ms)}` : `at most ${count(limit.max)}${unit}`;
  const head = h('div', { class: 'line' }, h('b', {}, limit.name), h('span', {}, rule), h('span', { class: 'dim' }, [KINDS[limit.kind] ?? limit.kind, `per ${limit.per.join(' and ')}`, limit.api && `of ${limit.api}`, limit.guard_ms !== undefined && `guard ${span(limit.guard_ms)}`].filter(Boolean).join(' · ')));
  if (!limit.counters.length) return h('div', { class: 'limit' }, head, h('div', { class: 'dim' }, limit.shared ? 'Shared with other accounts; what counts of it is not known here.' : 'Nothing counts.'));
  const api = (counter) => counter.api ?? limit.api;
  const next = (counter) => told.next.filter((one) => !api(counter) || one.api === api(counter));
  return h('div', { class: 'limit' }, head, limit.counters.map((counter) => {
    const reserved = counter.reserved ? `, ${count(counter.reserved)} in flight` : '';
    const frees = counter.frees && Date.parse(counter.frees) > now ? ['first leaves ', when(counter.frees, now)] : '';
    return [h('div', { class: 'line' }, h('span', {}, `${counter.api ? `${counter.api}: ` : ''}${count(counter.used)} of ${count(limit.max)} used${reserved}`), h('span', { class: 'dim push' }, frees)),
      bar(counter.used / limit.max, counter.used >= limit.max ? 'full' : 'fill'),
      limit.window_ms && (counter.calls.length || next(counter).length) ? strip(counter, limit, next(counter), now) : undefined,
      limit.window_ms && counter.calls.length ? h('div', { class: 'line' }, h('span', { class: 'dim' }, counter.calls_left_out ? `${count(counter.calls_left_out)} older charges are not drawn` : clock(counter.calls[0].at)), counter.since && h('span', { class: 'dim push' }, `window since ${clock(counter.since)}`)) : undefined];
  }));
}

export function account(root, [platform, name]) {
  const scope = { platform, account: name };
  const [top, limits, side] = [h('div'), h('div', {}, h('p', { class: 'empty' }, 'Looking …')), h('div')];
  const acts = h('span', { class: 'push' });
  root.append(h('div', { class: 'head' }, h('h1', {}, h('a', { class: 'crumb', href: `#/accounts?platform=${encodeURIComponent(platform)}` }, `${platform} / `), name), acts),
    top, h('div', { class: 'two' }, panel('Limits', 'what counts of each window; the line is now, outlines are calls to come', limits), side));
  const asking = every(2000, async (signal) => {
    let told;
    try {
      // By query: a path cannot have the names `.` and `..`.
      told = await ask(`account?${new URLSearchParams({ platform, account: name })}`, { signal });
    } catch (error) {
      if (error.status !== 404) throw error;
      put(top, h('section', { class: 'panel' }, h('p', { class: 'empty' }, 'This account has nothing waiting, and its limits remember no call.')));
      put(limits, h('p', { class: 'empty' }, 'Nothing counts.'));
      put(side);
      return;
    }
    const now = Date.parse(told.now);
    const paused = told.holds.find((hold) => hold.by === 'operator' && hold.of === `${platform}/${name}`);
    const act = async () => { await (paused ? resume(scope) : pause(scope)); asking.now(); };
    put(acts, about.mode === 'serve' && h('button', { type: 'button', 'data-focus': 'pause', class: paused ? 'main' : undefined, onclick: act }, paused ? 'Resume' : 'Pause'));
    const tile = (title, value, under) => h('div', { class: 'tile' }, h('div', { class: 'name' }, title), h('div', { class: 'value' }, value), h('div', { class: 'under' }, under ?? '\u00a0'));
    const eta = told.eta ? [span(Date.parse(told.eta.at) - now), [told.eta.about && 'about', told.eta.by && `most by ${told.eta.by}`].filter(Boolean).join(', ')] : ['–', undefined];
    put(top, h('div', { class: 'tiles' },
      tile('Waiting', count(told.waiting), 'fetches'), tile('In flight', count(told.in_flight), 'calls'),
      tile('Next call', told.until ? when(told.until, now) : told.waiting ? '–' : 'none', told.because ?? (told.waiting ? undefined : 'nothing waits')),
      tile('Until done', told.waiting ? eta[0] : 'nothing waits', told.waiting ? eta[1] : undefined),
      tile('State', told.state.replace('_', ' '), told.node ? `on ${told.node}` : undefined), tile('Holds', count(told.holds.length), told.holds[0]?.reason)));
    put(limits, told.limits.length ? told.limits.map((limit) => limitRow(limit, told)) : h('p', { class: 'empty' }, 'No limit is declared.'));
    put(side,
      panel('Holds', undefined, table('Holds', [
        { name: 'By', kind: 't', cell: (hold) => hold.by },
        { name: 'Of', cell: (hold) => hold.of },
        { name: 'Reason', wide: true, cell: (hold) => hold.reason },
        { name: 'Ends', kind: 't', cell: (hold) => (hold.until ? when(hold.until, now) : 'when resumed') },
      ], told.holds, { empty: 'Nothing holds it but its limits.' })),
      panel('Next calls', 'if nothing else comes', table('Next calls', [
        { name: 'When', kind: 't', cell: (one) => when(one.at, now) }, { name: 'At', kind: 't', cell: (one) => clock(one.at) }, { name: 'Api', cell: (one) => one.api },
      ], told.next, { empty: 'No call is to come.', cards: false })),
      panel('Last answers', 'the newest first', table('Last answers', [
        { name: 'When', kind: 't', cell: (one) => when(one.at, now) }, { name: 'Api', cell: (one) => one.api },
        { name: 'Outcome', cell: (one) => h('span', { class: one.class === 'ok' ? 'good' : 'bad' }, `${one.class}${one.status ? ` (${one.status})` : ''}`) },
      ], told.answers, { empty: 'None since its actor began.', cards: false })),
      panel('Lanes', 'what waits', table('Lanes', [
        { name: 'Api', cell: (lane) => lane.api }, { name: 'Priority', kind: 't', cell: (lane) => lane.priority }, { name: 'Waiting', kind: 'n', cell: (lane) => count(lane.waiting) },
      ], told.lanes, { empty: 'Nothing waits.', cards: false })));
  });
  return () => asking.end();
}
