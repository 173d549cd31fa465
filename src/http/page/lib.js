// What all views share: elements, questions to the API, numbers and times in words. Data becomes text, never markup.

const SVG = 'http://www.w3.org/2000/svg';

/** An element with attributes and children; text stays text. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for drawings. */
export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat(3).filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

/** Why the API did not answer. */
export class Problem extends Error {
  constructor(status, told) {
    super(told?.detail ?? `the node answered ${status}`);
    this.status = status;
    this.code = told?.code;
    this.title = told?.title;
  }

  words() {
    const title = this.title ? `${this.title}: ` : '';
    return `${this.code ? `${this.code}: ` : ''}${title}${this.message}`;
  }
}

/** Asks the API; a body makes it a change. */
export async function ask(path, { method, body, signal } = {}) {
  const headers = body === undefined ? {} : { 'Content-Type': 'application/json' };
  let answer;
  try {
    const text = body === undefined ? undefined : JSON.stringify(body);
    answer = await fetch(`/api/v1/${path}`, { method: method ?? 'GET', headers, body: text, signal });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, { detail: 'the node does not answer' });
  }
  if (answer.status === 401) location.assign('/login');
  const told = await answer.json().catch(() => undefined);
  // Ended while it was read: nobody wants it any more.
  signal?.throwIfAborted();
  if (!answer.ok) throw new Problem(answer.status, told);
  return told;
}

/** The path of an account in this page. */
export const accountPath = (platform, account) => `${encodeURIComponent(platform)}/${encodeURIComponent(account)}`;

/**
 * Does something again and again while a view is shown and the page is seen. Answers what ends it, and what does it anew at once: then
 * what is under way is ended, since it asks what nobody wants to know any more.
 */
export function every(ms, work) {
  let ended = false;
  let anew = false;
  let asking = new AbortController();
  let timer;
  let wake = () => {};
  const again = async () => {
    while (!ended) {
      anew = false;
      if (!document.hidden) {
        asking = new AbortController();
        try {
          await work(asking.signal);
        } catch (error) {
          if (error.name !== 'AbortError') show(error);
        }
      }
      if (!anew && !ended) await new Promise((done) => { wake = done; timer = setTimeout(done, ms); });
    }
  };
  const stop = () => { asking.abort(); clearTimeout(timer); wake(); };
  again();
  return { end() { ended = true; stop(); }, now() { anew = true; stop(); } };
}

/** One live overview a second for everybody here. The stream rests while nobody sees the page. */
export const live = new EventTarget();
export const history = { at: [], calls: [], allowed: [], waiting: [], flight: [] };
const HISTORY_MAX = 600;
let source;
let last;

export const lastOverview = () => last;

function listen() {
  source?.close();
  source = undefined;
  if (document.hidden) return;
  source = new EventSource('/api/v1/events');
  source.addEventListener('overview', (event) => {
    last = JSON.parse(event.data);
    remember(last);
    state('on', 'live');
    banner(missing(last));
    live.dispatchEvent(new Event('overview'));
  });
  source.addEventListener('problem', (event) => {
    const told = JSON.parse(event.data);
    state('off', 'not at work');
    banner(`${told.code}: ${told.detail}`);
  });
  source.onerror = () => {
    // A stream ends now and then, and the browser opens another.
    setTimeout(() => { if (source && source.readyState !== EventSource.OPEN) state('off', 'no connection'); }, 3000);
    if (source?.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  };
}

/** What an answer leaves out, in words; nothing where it is whole. */
export function missing(told) {
  const who = [];
  if (told.silent === null) who.push('NATS does not say which other nodes there are');
  else if (told.silent) who.push(`${told.silent} node(s) of the cluster do not answer`);
  if (told.shards_silent) who.push(`${told.shards_silent} shard(s) do not turn`);
  return who.length ? `${who.join(', and ')}: what is shown leaves them out.` : '';
}

function remember(told) {
  const at = Date.parse(told.now) / 1000;
  if (history.at.length && at <= history.at.at(-1)) return;
  history.at.push(at);
  history.calls.push(told.rates.calls);
  history.allowed.push(told.allowed ?? null);
  history.waiting.push(told.waiting);
  history.flight.push(told.in_flight);
  for (const line of Object.values(history)) if (line.length > HISTORY_MAX) line.shift();
}

export function begin() {
  document.addEventListener('visibilitychange', listen);
  listen();
}

function state(kind, words) {
  const place = document.getElementById('live');
  if (place.textContent === words) return;
  place.className = `live ${kind}`;
  place.textContent = words;
}

let bannerShown = '';
function banner(words) {
  if (words === bannerShown) return;
  bannerShown = words;
  const place = document.getElementById('banner');
  place.hidden = !words;
  place.textContent = words;
}

const whole = new Intl.NumberFormat('en');
export const count = (number) => (number === undefined || number === null ? '–' : whole.format(number));
export function rate(number) {
  if (number === undefined || number === null) return '–';
  return number >= 100 ? whole.format(Math.round(number)) : number.toFixed(number >= 10 ? 1 : 2);
}

/** A length of time, short: `4.2 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`. */
export function span(ms) {
  const s = Math.abs(ms) / 1000;
  if (s < 0.95) return `${Math.round(s * 1000)} ms`;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 3600) return two(Math.round(s), 60, 'min', 's');
  if (s < 129600) return two(Math.round(s / 60), 60, 'h', 'min');
  return two(Math.round(s / 3600), 24, 'd', 'h');
}

function two(total, unit, large, small) {
  const rest = total % unit;
  return `${Math.floor(total / unit)} ${large}${rest ? ` ${rest} ${small}` : ''}`;
}

const sameDay = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const otherDay = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });

/** A moment: the time of day, with the date where it is another one. */
export function clock(text) {
  const at = new Date(text);
  return (at.toDateString() === new Date().toDateString() ? sameDay : otherDay).format(at);
}

/** A moment with how far off it is, for machines and people. */
export function when(text, now = Date.now()) {
  if (!text) return h('span', { class: 'dim' }, '–');
  const off = Date.parse(text) - now;
  const words = Math.abs(off) < 500 ? 'now' : off > 0 ? `in ${span(off)}` : `${span(off)} ago`;
  return h('time', { datetime: text, title: new Date(text).toString() }, words);
}

/** A table: `columns` are {name, cell, …}; the caption is for those who do not see it. */
export function table(caption, columns, rows, { sort, onsort, empty, cards = true } = {}) {
  if (!rows.length) return h('p', { class: 'empty' }, empty ?? 'Nothing.');
  const heading = (column) => {
    const name = column.sort && onsort ? h('button', { type: 'button', onclick: () => onsort(column.sort) }, column.name) : column.name;
    const order = column.sort && sort?.by === column.sort ? (sort.down ? 'descending' : 'ascending') : undefined;
    const seen = column.name || h('span', { class: 'unseen' }, column.label ?? '');
    return h('th', { scope: 'col', class: column.kind, 'aria-sort': order }, column.name ? name : seen);
  };
  const cell = (column, row) => {
    const named = column.name && !['name', 'acts'].includes(column.kind) ? column.name : undefined;
    return h('td', { class: [column.kind, column.wide && 'wide'].filter(Boolean).join(' ') || undefined, 'data-name': named }, column.cell(row) ?? '');
  };
  return h('div', { class: 'scroll' },
    h('table', { class: cards ? 'cards' : undefined },
      h('caption', { class: 'unseen' }, caption),
      h('thead', {}, h('tr', {}, columns.map(heading))),
      h('tbody', {}, rows.map((row) => h('tr', {}, columns.map((column) => cell(column, row)))))));
}

export function panel(title, note, ...children) {
  return h('section', { class: 'panel' }, h('div', { class: 'title' }, h('h2', {}, title), note && h('span', { class: 'dim' }, note)), children);
}

/** Puts other content in place without losing the focus, where the same control is there again. */
export function put(place, ...children) {
  const focused = place.contains(document.activeElement) ? document.activeElement : undefined;
  const name = focused?.getAttribute('data-focus');
  place.replaceChildren(...children.flat(3).filter(Boolean));
  if (name) place.querySelector(`[data-focus="${CSS.escape(name)}"]`)?.focus({ preventScroll: true });
}

/** Says something in a corner. */
export function say(words, bad = false) {
  const note = h('div', { class: bad ? 'note bad' : 'note' }, words);
  const notes = document.getElementById('notes');
  while (notes.children.length > 3) notes.firstChild.remove();
  notes.append(note);
  setTimeout(() => note.remove(), bad ? 9000 : 4500);
}

let shown = { words: '', at: 0 };
export function show(error) {
  const words = error instanceof Problem ? error.words() : String(error);
  // What is asked every second need not be told every second.
  if (words === shown.words && Date.now() - shown.at < 15000) return;
  shown = { words, at: Date.now() };
  say(words, true);
}

/** Asks whoever looks; `fields` are inputs by name. Answers their values, or nothing. */
export function confirm(title, words, action, fields = [], danger = false) {
  return new Promise((done) => {
    const inputs = fields.map((field) => h('label', {}, field.label, h('input', { name: field.name, placeholder: field.hint, maxlength: 200, autocomplete: 'off' })));
    const dialog = h('dialog', { 'aria-labelledby': 'dialog-title' },
      h('form', { method: 'dialog' },
        h('h2', { id: 'dialog-title' }, title),
        words && h('div', { class: 'dim' }, words),
        inputs.length > 0 && h('div', { class: 'fields' }, inputs),
        h('div', { class: 'ends' },
          h('button', { type: 'button', onclick: () => dialog.close() }, 'Cancel'),
          h('button', { class: danger ? 'danger' : 'main', value: 'yes' }, action))));
    dialog.addEventListener('close', () => {
      const yes = dialog.returnValue === 'yes';
      const values = Object.fromEntries(new FormData(dialog.querySelector('form')));
      dialog.remove();
      done(yes ? values : undefined);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Does what changes something, and says how it went. */
export async function change(words, work) {
  try {
    await work();
    say(words);
    return true;
  } catch (error) {
    shown.words = '';
    show(error);
    return false;
  }
}

/** Asks for a hold of a platform, an account, or one of its apis. */
export async function pause(scope) {
  const name = [scope.platform, scope.account, scope.api].filter(Boolean).join('/');
  const fields = [{ name: 'reason', label: 'Reason, for those who wonder', hint: 'asked us to stop' }, { name: 'for', label: 'How long; empty: until it is resumed', hint: '90m, 2h30m' }];
  const told = await confirm(`Pause ${name}`, 'No new calls are made. Calls in flight end.', 'Pause', fields);
  if (!told) return false;
  const body = { ...scope };
  if (told.reason.trim()) body.reason = told.reason.trim();
  if (told.for.trim()) body.for = told.for.trim();
  return change(`${name} is held`, () => ask('pause', { method: 'POST', body }));
}

export async function resume(scope) {
  const name = [scope.platform, scope.account, scope.api].filter(Boolean).join('/');
  return change(`${name} goes on`, async () => {
    const told = await ask('resume', { method: 'POST', body: scope });
    if (!told.ended.length) throw new Problem(409, { detail: told.still.length ? `still held: ${told.still.join(', ')}` : `${name} was not held by itself` });
  });
}

const CAUSES = {
  limit: 'a limit of its own', flight: 'a call in flight', budget: 'a shared limit', hold: 'a hold after an answer', paused: 'an operator’s hold', retry: 'the next try',
  collector: 'a free collector', queue: 'the queue', ledger: 'the ledger', store: 'the object store', nats: 'NATS', signing: 'credentials', drain: 'another node', turn: 'its turn', other: 'something else',
};
export const cause = (name) => CAUSES[name] ?? name;

/** What is known of the node that shows this page; asked once. */
export const about = { version: '', node: '', mode: 'serve', login: false };
