// SPDX-License-Identifier: ZPL-2.1
// The pages work without this.  It asks before buttons that cannot be undone, knows some keys, and keeps the parts of a
// page up to date that are marked with data-live: it asks for the page again and again, which costs next to nothing as
// long as nothing was committed.
'use strict';

(() => {
  const PAUSE = 2000, LONGEST_PAUSE = 60000, KEY = 'remotetask-live';
  const isOfThePast = new URLSearchParams(location.search).has('at');
  let tag = null, pause = PAUSE, timer = null, isOn = stored() !== 'off';

  function stored(value) {
    try {
      if (value !== undefined) localStorage.setItem(KEY, value);
      return localStorage.getItem(KEY);
    } catch { return null; }            // a browser may refuse to remember anything
  }

  // Questions

  document.addEventListener('submit', event => {
    const question = event.submitter && event.submitter.dataset.ask;
    if (question && !confirm(question)) event.preventDefault();
  });

  document.addEventListener('change', event => {
    const name = event.target.dataset.all;
    if (name) for (const box of document.querySelectorAll(`input[name="${name}"]`)) box.checked = event.target.checked;
  });

  // Freshness

  function selected(part) {
    return new Set([...part.querySelectorAll('input:checked')].map(box => box.value));
  }

  function freshen(text) {
    const fresh = new DOMParser().parseFromString(text, 'text/html');
    for (const part of document.querySelectorAll('[data-live]')) {
      const other = fresh.getElementById(part.id);
      if (!other || other.innerHTML === part.innerHTML) continue;
      const focused = part.contains(document.activeElement) ? document.activeElement : null;
      if (focused && focused.matches('input:not([type=checkbox]), textarea, select')) continue;
      const checked = selected(part), open = [...part.querySelectorAll('details')].map(each => each.open);
      const place = focused && placeOf(focused, part);
      part.innerHTML = other.innerHTML;         // made by our own server, where it was escaped
      for (const box of part.querySelectorAll('input[type=checkbox][value]')) box.checked = checked.has(box.value);
      part.querySelectorAll('details').forEach((each, index) => { if (index < open.length) each.open = open[index]; });
      reveal(part);
      const again = place && findPlace(place, part);
      if (again) again.focus({preventScroll: true});
    }
  }

  const FOCUSABLE = 'a, button, input, summary, pre, [tabindex]';

  function placeOf(element, part) {
    const row = element.closest('tr[id]'), within = row || part;
    return {row: row && row.id, index: [...within.querySelectorAll(FOCUSABLE)].indexOf(element), self: element === part};
  }

  function findPlace(place, part) {
    if (place.self) return part;
    const within = place.row ? document.getElementById(place.row) : part;
    return within && within.querySelectorAll(FOCUSABLE)[place.index];
  }

  async function look() {
    try {
      const headers = tag ? {'If-None-Match': tag} : {};
      const response = await fetch(location.href, {headers, cache: 'no-store', credentials: 'same-origin'});
      if (response.status === 200) {
        tag = response.headers.get('ETag');
        freshen(await response.text());
      } else if (response.status !== 304) {
        throw new Error(response.status);
      }
      pause = PAUSE;
      say('');
    } catch {
      pause = Math.min(2 * pause, LONGEST_PAUSE);
      say('The server does not answer. ');
    }
    next();
  }

  function next() {
    clearTimeout(timer);
    if (isOn && !document.hidden) timer = setTimeout(look, pause);
  }

  document.addEventListener('visibilitychange', next);
  window.addEventListener('online', () => { pause = PAUSE; next(); });

  // The switch

  const place = document.getElementById('live'), message = document.createElement('span');
  const button = document.createElement('button');

  function say(text) {
    message.textContent = text;
    button.textContent = isOn ? 'Stop updating' : 'Update by itself';
  }

  button.type = 'button';
  button.addEventListener('click', () => { isOn = !isOn; stored(isOn ? 'on' : 'off'); say(''); next(); });
  message.setAttribute('role', 'status');

  function reveal(part) {
    for (const box of part.querySelectorAll('[data-all]')) box.hidden = false;
  }

  reveal(document);
  if (place && document.querySelector('[data-live]') && !isOfThePast) {
    place.append(message, button);
    say('');
    next();
  }

  // Keys: / goes to the filter, j and k to the next and the last row, g and a letter to another page.

  let isGoing = false;
  const PAGES = {o: 0, j: 1, s: 2, t: 3, h: 4, c: 5};

  document.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches('input, textarea, select')) return;
    const key = event.key;
    if (isGoing) {
      isGoing = false;
      const links = document.querySelectorAll('header nav a');
      if (key in PAGES) links[PAGES[key]].click();
    } else if (key === '/') {
      const filter = document.getElementById('filter');
      if (filter) { filter.focus(); event.preventDefault(); }
    } else if (key === 'g') {
      isGoing = true;
    } else if (key === 'j' || key === 'k') {
      const links = [...document.querySelectorAll('tbody tr th a')];
      const now = links.indexOf(document.activeElement);
      const link = links[now < 0 ? 0 : now + (key === 'j' ? 1 : -1)];
      if (link) link.focus();
    }
  });
})();
