// Which view is shown: `#/accounts?search=x` and the like.

import { about, ask, begin, count, lastOverview, live, show } from './lib.js';
import { overview } from './overview.js';
import { accounts, config, dead, platforms } from './views.js';
import { account } from './account.js';

const ROUTES = [
  [/^\/$/, overview, 'Overview'],
  [/^\/platforms$/, platforms, 'Platforms'],
  [/^\/accounts$/, accounts, 'Accounts'],
  [/^\/account\/([^/]+)\/([^/]+)$/, account, 'Account'],
  [/^\/dead$/, dead, 'Dead letters'],
  [/^\/config$/, config, 'Configuration'],
];

let end = () => {};
let shownPath;

/** A part of the address as it was meant; as it is where it is not encoded well. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function go() {
  const [path, query] = (location.hash.slice(1) || '/').split('?');
  const parameters = new URLSearchParams(query);
  const route = ROUTES.find(([pattern]) => pattern.test(path)) ?? ROUTES[0];
  const parts = (path.match(route[0]) ?? []).slice(1).map(decoded);
  end();
  const main = document.getElementById('main');
  const place = document.createElement('div');
  main.replaceChildren(place);
  end = route[1](place, parts, parameters) ?? (() => {});
  document.title = `${parts.length ? parts.join('/') : route[2]} · Tollgate`;
  const own = path.startsWith('/account/') ? '/accounts' : path;
  for (const link of document.querySelectorAll('#nav a')) {
    if (link.getAttribute('href') === `#${own}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  // Whoever goes by keyboard or screen reader starts at the new view.
  if (shownPath !== undefined && shownPath !== path) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  shownPath = path;
}

document.getElementById('skip').addEventListener('click', (event) => {
  event.preventDefault();
  document.getElementById('main').focus();
});
live.addEventListener('overview', () => {
  const dead = lastOverview().dead ?? 0;
  const place = document.getElementById('dead-count');
  place.hidden = !dead;
  place.textContent = count(dead);
});
addEventListener('hashchange', go);
begin();
try {
  Object.assign(about, await ask('about'));
  document.getElementById('node').textContent = about.node;
  document.getElementById('logout').hidden = !about.login;
} catch (error) {
  show(error);
}
go();
