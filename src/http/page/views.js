// Platforms, accounts, dead letters, the configuration.

import { about, accountPath, ask, change, confirm, count, every, h, lastOverview, missing, panel, pause, put, rate, resume, show, table, when } from './lib.js';
import { bar } from './overview.js';

const hash = (path, parameters) => {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value)).toString();
  return `#${path}${query ? `?${query}` : ''}`;
};

/** An account's name with a link to it. */
export const accountLink = (platform, account) => h('a', { href: `#/account/${accountPath(platform, account)}` }, account);

function limitsTable(limits, whose) {
  if (!limits.length) return undefined;
  return table(`Limits of ${whose}`, [
    { name: 'Limit', kind: 'name', cell: (limit) => limit.name },
    { name: 'Counted per', kind: 't', cell: (limit) => limit.per.join(' and ') },
    { name: 'Rule', wide: true, cell: (limit) => [limit.rule, (limit.special ?? []).map((one) => h('div', { class: 'dim' }, `${one.of}: ${one.rule}`))] },
  ], limits);
}

export function platforms(root) {
  const list = h('div', {}, h('p', { class: 'empty' }, 'Looking …'));
  const declared = h('div');
  root.append(h('div', { class: 'head' }, h('h1', {}, 'Platforms')), h('section', { class: 'panel' }, list), declared);
  let shown = '';
  const asking = every(3000, async (signal) => {
    const [told, holds] = await Promise.all([ask('platforms', { signal }), ask('holds', { signal })]);
    const isHeld = (name) => holds.held.find((one) => one.key === name);
    put(list, table('Platforms', [
      { name: 'Platform', kind: 'name', cell: (one) => [h('a', { href: hash('/accounts', { platform: one.name }) }, one.name), isHeld(one.name) && [' ', h('span', { class: 'tag warn', title: isHeld(one.name).reason ?? '' }, 'paused')]] },
      { name: 'Accounts', kind: 'n', cell: (one) => count(one.now.accounts) },
      { name: 'Held', kind: 'n', cell: (one) => count(one.now.held) },
      { name: 'Waiting', kind: 'n', cell: (one) => count(one.now.waiting) },
      { name: 'In flight', kind: 'n', cell: (one) => count(one.now.in_flight) },
      { name: 'Calls/s', kind: 'n', cell: (one) => rate(one.now.rates.calls) },
      { name: 'Allowed/s', kind: 'n', cell: (one) => rate(one.now.allowed) },
      { name: 'Refused/s', kind: 'n', cell: (one) => rate(one.now.rates_minute.throttled) },
      { name: 'Failed/s', kind: 'n', cell: (one) => rate(one.now.rates_minute.failed + one.now.rates_minute.unreachable) },
      { name: '', label: 'What can be done', kind: 'acts', cell: (one) => about.mode === 'serve' && (isHeld(one.name)
        ? h('button', { type: 'button', 'data-focus': `act ${one.name}`, onclick: async () => { await resume({ platform: one.name }); asking.now(); } }, 'Resume')
        : h('button', { type: 'button', 'data-focus': `act ${one.name}`, onclick: async () => { await pause({ platform: one.name }); asking.now(); } }, 'Pause')) },
    ], told.platforms));
    const outlines = told.platforms.map(({ now, ...outline }) => outline);
    if (JSON.stringify(outlines) === shown) return;
    shown = JSON.stringify(outlines);
    put(declared, outlines.map((one) => panel(one.name, one.base_url, limitsTable(one.limits, one.name) ?? h('p', { class: 'empty' }, 'No limit of the whole platform.'),
      one.apis.map((api) => [
        h('div', { class: 'title' }, h('span', {}, api.name), h('code', { class: 'dim' }, `${api.method} ${api.path}`)),
        limitsTable(api.limits, `${one.name} ${api.name}`)]))));
  });
  return () => asking.end();
}

/** Where each page so far begins, and buttons to those before and behind; `again` shows another. A button turns only what it stands under. */
const pager = (again) => {
  let pages = [undefined];
  const button = (name, words, disabled, from, to) => h('button', { type: 'button', 'data-focus': name, disabled, onclick: () => {
    if (pages !== from) return;
    pages = to;
    again();
  } }, words);
  return {
    shown: () => pages,
    first: () => { pages = [undefined]; },
    buttons: (shown, next) => [
      button('back', 'Back', shown.length < 2, shown, shown.slice(0, -1)),
      button('next', 'Next', !next, shown, [...shown, next]),
    ],
  };
};

/** Which way a column is sorted first; the other way is `reverse`. */
const DOWN_FIRST = { waiting: true, in_flight: true, until: false, name: false };

export function accounts(root, _, parameters) {
  const question = {
    search: parameters.get('search') ?? '', platform: parameters.get('platform') ?? '', sort: parameters.get('sort') ?? 'waiting',
    reverse: parameters.get('reverse') === 'true', held: parameters.get('held') === 'true', dead: parameters.get('dead') === 'true',
  };
  const pages = pager(() => asking.now());
  const list = h('div', {}, h('p', { class: 'empty' }, 'Looking …'));
  const foot = h('div', { class: 'foot' });
  const search = h('input', { type: 'search', id: 'search', value: question.search, placeholder: 'Part of a name', 'aria-label': 'Search accounts', autocomplete: 'off', spellcheck: 'false', maxlength: 256 });
  const platform = h('select', { 'aria-label': 'Platform' }, h('option', { value: '' }, 'All platforms'));
  const check = (name, words) => h('label', { class: 'check' }, h('input', { type: 'checkbox', checked: question[name], onchange: (event) => again({ [name]: event.target.checked }) }), words);
  root.append(h('div', { class: 'head' }, h('h1', {}, 'Accounts'), h('span', { class: 'dim', id: 'matching' })),
    h('section', { class: 'panel' }, h('div', { class: 'bar-row' }, search, platform, check('held', 'held'), check('dead', 'with dead letters')), list, foot));
  ask('platforms').then((told) => {
    platform.append(...told.platforms.map((one) => h('option', { value: one.name }, one.name)));
    platform.value = question.platform;
  }).catch(show);
  const again = (changed) => {
    Object.assign(question, changed);
    pages.first();
    // The address says what is shown, and going back leaves the view.
    history.replaceState(null, '', hash('/accounts', { ...question, sort: question.sort === 'waiting' ? '' : question.sort }));
    asking.now();
  };
  let typing;
  search.addEventListener('input', () => { clearTimeout(typing); typing = setTimeout(() => again({ search: search.value.trim() }), 200); });
  platform.addEventListener('change', () => again({ platform: platform.value }));
  const onsort = (by) => again(by === question.sort ? { reverse: !question.reverse } : { sort: by, reverse: false });
  const asking = every(3000, async (signal) => {
    const shown = pages.shown();
    const query = new URLSearchParams({ sort: question.sort, most: 50 });
    for (const name of ['search', 'platform']) if (question[name]) query.set(name, question[name]);
    for (const name of ['reverse', 'held', 'dead']) if (question[name]) query.set(name, 'true');
    if (shown.at(-1)) query.set('after', shown.at(-1));
    const told = await ask(`accounts?${query}`, { signal });
    document.getElementById('matching').textContent = `${count(told.matching)} of those with work or remembered calls`;
    const act = (row) => {
      const scope = { platform: row.platform, account: row.account };
      const paused = row.cause === 'paused';
      const work = async () => { await (paused ? resume(scope) : pause(scope)); asking.now(); };
      return about.mode === 'serve' && h('button', { type: 'button', class: 'quiet', 'data-focus': `act ${row.platform}/${row.account}`, 'aria-label': `${paused ? 'Resume' : 'Pause'} ${row.account}`, onclick: work }, paused ? 'Resume' : 'Pause');
    };
    put(list, table('Accounts', [
      { name: 'Account', kind: 'name', sort: 'name', cell: (row) => accountLink(row.platform, row.account) },
      { name: 'Platform', kind: 't', cell: (row) => row.platform },
      { name: 'Waiting', kind: 'n', sort: 'waiting', cell: (row) => count(row.waiting) },
      { name: 'In flight', kind: 'n', sort: 'in_flight', cell: (row) => count(row.in_flight) },
      { name: 'Waits for', wide: true, cell: (row) => row.because ?? h('span', { class: 'dim' }, row.waiting ? '–' : 'nothing') },
      { name: 'Next call', kind: 't', sort: 'until', cell: (row) => (row.until ? when(row.until) : h('span', { class: 'dim' }, '–')) },
      { name: '', label: 'What can be done', kind: 'acts', cell: act },
    ], told.accounts, { sort: { by: question.sort, down: DOWN_FIRST[question.sort] !== question.reverse }, onsort, empty: question.search ? `No account has “${question.search}” in its name.` : 'No account has work, or calls that its limits remember.' }));
    put(foot,
      pages.buttons(shown, told.next),
      h('span', { class: 'dim push' }, `Page ${shown.length}`, missing(told) && h('span', { class: 'bad' }, `; ${missing(told)}`)));
  });
  return () => { clearTimeout(typing); asking.end(); };
}

function letter(told) {
  const { body_start: body, raw, fetch, ...rest } = told;
  const facts = Object.entries({ number: rest.number, code: rest.code, reason: rest.reason, 'given up': rest.died_at, calls: rest.attempts, status: rest.http_status, source: rest.source, 'request id': rest.request_id });
  const dialog = h('dialog', { class: 'wide', 'aria-labelledby': 'dialog-title' }, h('div', { class: 'inside' },
    h('h2', { id: 'dialog-title' }, `Dead letter ${rest.number}`),
    h('dl', {}, facts.filter(([, value]) => value !== undefined).map(([name, value]) => [h('dt', {}, name), h('dd', {}, String(value))])),
    fetch && [h('span', { class: 'dim' }, 'The fetch'), h('pre', {}, JSON.stringify(fetch, null, 1))],
    raw && [h('span', { class: 'dim' }, 'What came in'), h('pre', {}, raw)],
    body && [h('span', { class: 'dim' }, 'The last answer began with'), h('pre', {}, body)],
    h('div', { class: 'ends' }, h('span', { class: 'dim' }, h('code', {}, `tollgate explain ${rest.code}`), ' says what to do'), h('button', { type: 'button', onclick: () => dialog.close() }, 'Close'))));
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

export function dead(root) {
  const pages = pager(() => asking.now());
  const list = h('div', {}, h('p', { class: 'empty' }, 'Looking …'));
  const foot = h('div', { class: 'foot' });
  root.append(h('div', { class: 'head' }, h('h1', {}, 'Dead letters'), h('span', { class: 'dim' }, 'fetches that were given up')), h('section', { class: 'panel' }, list, foot));
  const replay = async (row) => {
    await change(`letter ${row.number} is collected again`, () => ask(`dead/${row.number}/replay`, { method: 'POST' }));
    asking.now();
  };
  const drop = async (row) => {
    const sure = await confirm(`Drop letter ${row.number}?`, `${row.code}: ${row.reason}`, 'Drop', [], true);
    if (sure) await change(`letter ${row.number} is dropped`, () => ask(`dead/${row.number}`, { method: 'DELETE' }));
    asking.now();
  };
  const asking = every(3000, async (signal) => {
    const shown = pages.shown();
    const after = shown.at(-1);
    const told = await ask(`dead?most=50${after ? `&after=${after}` : ''}`, { signal });
    put(list, table('Dead letters', [
      { name: 'Number', kind: 'n', cell: (row) => h('button', { type: 'button', class: 'link', 'data-focus': `show ${row.number}`, 'aria-label': `Show letter ${row.number}`, onclick: () => letter(row) }, count(row.number)) },
      { name: 'Given up', kind: 't', cell: (row) => when(row.died_at) },
      { name: 'Code', kind: 't', cell: (row) => h('span', { class: 'tag bad' }, row.code) },
      { name: 'Fetch', kind: 'name', cell: (row) => (row.fetch ? [row.fetch.platform && row.fetch.account ? [`${row.fetch.platform} / `, accountLink(row.fetch.platform, row.fetch.account)] : '?', h('div', { class: 'dim' }, [row.fetch.api, row.fetch.id].filter(Boolean).join(' · '))] : row.source ?? '?') },
      { name: 'Reason', wide: true, cell: (row) => [row.reason, row.http_status && h('span', { class: 'dim' }, ` (status ${row.http_status}, ${row.attempts} calls)`)] },
      { name: '', label: 'What can be done', kind: 'acts', cell: (row) => [
        row.fetch && h('button', { type: 'button', 'data-focus': `replay ${row.number}`, 'aria-label': `Replay letter ${row.number}`, onclick: () => replay(row) }, 'Replay'), ' ',
        h('button', { type: 'button', class: 'danger', 'data-focus': `drop ${row.number}`, 'aria-label': `Drop letter ${row.number}`, onclick: () => drop(row) }, 'Drop')] },
    ], told.letters, { empty: shown.length > 1 ? 'No more dead letters.' : 'No dead letters: nothing was given up.' }));
    put(foot,
      pages.buttons(shown, told.next),
      h('span', { class: 'dim push' }, `Page ${shown.length}`));
  });
  return () => asking.end();
}

export function config(root) {
  const text = h('pre', {}, 'Looking …');
  const note = h('span', { class: 'dim' });
  const logs = h('div', {}, h('p', { class: 'empty' }, 'Looking …'));
  root.append(h('div', { class: 'head' }, h('h1', {}, 'Configuration'), h('span', { class: 'dim' }, 'in force on this node; secrets are left out')),
    panel('What nodes log', note, logs), h('section', { class: 'panel' }, h('div', { class: 'pad' }, text)));
  ask('config').then((told) => { text.textContent = told.text; }).catch(show);
  const set = async (row) => {
    const fields = [{ name: 'level', label: 'Level, or levels by target', hint: 'info,tollgate::fetch=debug' }, { name: 'for', label: 'How long; empty: until it is reset', hint: '10m' }];
    const told = await confirm(`What ${row.node} logs`, `Now: ${row.level}`, 'Set', fields);
    if (!told?.level.trim()) return;
    const body = { node: row.node, level: told.level.trim() };
    if (told.for.trim()) body.for = told.for.trim();
    await change(`${row.node} logs ${body.level}`, () => ask('log-level', { method: 'POST', body }));
    asking.now();
  };
  const reset = async (row) => {
    await change(`${row.node} logs as it is configured`, () => ask('log-level', { method: 'POST', body: { node: row.node, reset: true } }));
    asking.now();
  };
  const asking = every(5000, async (signal) => {
    const told = await ask('log-level', { signal });
    note.textContent = missing(told);
    put(logs, table('What nodes log', [
      { name: 'Node', kind: 'name', cell: (row) => row.node },
      { name: 'Level', cell: (row) => h('code', {}, row.level) },
      { name: 'By', kind: 't', cell: (row) => row.by },
      { name: 'Until', kind: 't', cell: (row) => row.until && when(row.until) },
      { name: '', label: 'What can be done', kind: 'acts', cell: (row) => [h('button', { type: 'button', 'data-focus': `set ${row.node}`, onclick: () => set(row) }, 'Change'), ' ', row.by === 'operator' && h('button', { type: 'button', 'data-focus': `reset ${row.node}`, onclick: () => reset(row) }, 'Reset')] },
    ], told.nodes));
  });
  return () => asking.end();
}
