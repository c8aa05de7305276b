// Small comforts; every page works without. Times in the reader's own words, and pages that follow what
// happens: a part that is marked is fetched again when something has changed, and the list of sessions is
// marked in place. Nobody who is typing, or has just chosen something, is disturbed.
"use strict";

const PAUSE = 3000;

function tell(text) {
  const told = document.getElementById("told");
  told.textContent = text;
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => { told.textContent = ""; }, 8000);
}

const ago = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const exact = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });

function times(root) {
  const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    const seconds = Math.round((at - Date.now()) / 1000);
    const [unit, length] = units.find(([, length]) => Math.abs(seconds) >= length) || units[3];
    time.title = exact.format(at);
    time.textContent = Math.abs(seconds) < 7 * 86400
      ? ago.format(Math.trunc(seconds / length), unit)
      : exact.format(at);
  }
}

// Parts of the page, fetched again.

let fetching = false, wanted = false, last = 0;

function busy(part) {
  const focus = document.activeElement;
  if (part.contains(focus) && focus.matches("input, select, textarea")) return true;
  return [...part.querySelectorAll("input[name=label]")].some((field) => field.value !== field.defaultValue);
}

async function again() {
  if (fetching) { wanted = true; return; }
  fetching = true;
  await new Promise((done) => setTimeout(done, Math.max(0, last + PAUSE - Date.now())));
  wanted = false;
  try {
    const response = await fetch(location.href, { credentials: "same-origin", redirect: "manual",
      headers: { accept: "text/html" } });
    // To the page to log in at, which says why: once.
    if (response.type === "opaqueredirect") { location.reload(); return; }
    if (response.ok) put(new DOMParser().parseFromString(await response.text(), "text/html"));
  } catch { /* The connection is gone; the next change tries again. */ }
  last = Date.now();
  fetching = false;
  if (wanted) again();
}

function put(page) {
  for (const part of document.querySelectorAll("[data-live]")) {
    const fresh = page.querySelector(`[data-live="${part.dataset.live}"]`);
    if (!fresh || busy(part)) continue;
    const open = [...part.querySelectorAll("details")].map((details) => details.open);
    const focus = part.contains(document.activeElement) && document.activeElement;
    const place = focus && [...part.querySelectorAll("a, button")].indexOf(focus);
    part.replaceChildren(...document.adoptNode(fresh).childNodes);
    part.querySelectorAll("details").forEach((details, index) => { details.open = open[index]; });
    if (focus) part.querySelectorAll("a, button")[place]?.focus();
    times(part);
  }
}

// The list of sessions, marked in place.

const came = new Set(), left = new Set();

function mark(event) {
  const row = document.querySelector(`[data-session="${CSS.escape(event.id)}"]`);
  const badge = row?.querySelector(".stage");
  if (event.change === "ended") {
    came.delete(event.id);
    if (row && !row.classList.contains("gone")) {
      row.classList.add("gone");
      badge.className = "badge stage gone";
      badge.textContent = event.reason ? `ended: ${event.reason}` : "ended";
      row.querySelectorAll("input").forEach((box) => { box.checked = false; box.disabled = true; });
      left.add(event.id);
    }
  } else if (row) {
    badge.className = `badge stage ${event.stage}`;
    badge.textContent = event.stage;
  } else if (event.change === "bound") {
    came.add(event.id);
  }
  clearTimeout(mark.timer);
  mark.timer = setTimeout(count, 1000);
}

function count() {
  const note = document.getElementById("came");
  const words = (number) => number === 1 ? "1 session has" : `${number} sessions have`;
  note.hidden = came.size === 0;
  note.querySelector("span").textContent = `${words(came.size)} come meanwhile.`;
  note.querySelector("a").href = location.href;
  const news = [];
  if (came.size > 0) news.push(`${words(came.size)} come.`);
  if (left.size > 0) news.push(`${words(left.size)} ended.`);
  left.clear();
  if (news.length > 0) tell(news.join(" "));
}

// A page that nobody looks at holds no connection: a browser has only a few.
function follow(feed) {
  let source = listen(feed);
  document.addEventListener("visibilitychange", () => {
    source.close();
    if (document.hidden) return;
    source = listen(feed);
    again();
  });
}

function listen(feed) {
  const source = new EventSource(feed);
  const marks = document.querySelector("#chosen") !== null;
  const changes = ["connected", "logged-in", "bound", "available", "interested", "unavailable",
    "hibernating", "resumed", "ended"];
  for (const change of changes) {
    source.addEventListener(change, (message) => {
      if (marks) mark(JSON.parse(message.data)); else again();
    });
  }
  source.addEventListener("missed", () => { if (!marks) again(); });
  // Not allowed any more, or the server stops.
  for (const end of ["failed", "done"]) {
    source.addEventListener(end, () => { source.close(); again(); });
  }
  source.addEventListener("open", () => { document.body.dataset.listens = "yes"; });
  return source;
}

times(document);
setInterval(() => times(document), 30000);
if (document.body.dataset.feed) follow(document.body.dataset.feed);
for (const part of document.querySelectorAll("[data-every]")) {
  setInterval(again, Number(part.dataset.every) * 1000);
}
// All at once.
const boxes = () => [...document.querySelectorAll("td.choose input:not(:disabled)")];
const head = document.querySelector(".sessions th .unseen");
if (head && boxes().length > 1) {
  const all = document.createElement("input");
  all.type = "checkbox";
  all.setAttribute("aria-label", "Choose all on this page");
  all.addEventListener("change", () => boxes().forEach((box) => { box.checked = all.checked; }));
  head.after(all);
}
