// Live regions: fetch the page again and replace #live. The page works without this script.
"use strict";
let latest = 0; // number of the latest refresh
let events = null; // of the run in progress

async function refresh(url) {
  const number = ++latest;
  const answer = await fetch(url);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const [now, next] = [document.getElementById("live"), page.getElementById("live")];
  if (number !== latest || !now) return;
  if (!next) return say("This page cannot be refreshed now; load it again.");
  const focused = now.contains(document.activeElement) ? document.activeElement : null;
  const log = now.querySelector("details[open]") && next.querySelector("details");
  now.replaceWith(next);
  if (log) (log.open = true), log.querySelector("pre").scrollTo(0, 1e6); // its end
  if (focused) (again(next, focused) || next).focus({ preventScroll: true });
  follow();
}

// The same control, by what it calls, as pressing it may have changed its label, or by its label.
function again(region, element) {
  const name = (one) =>
    one.closest("form.call")?.action || one.getAttribute("aria-label") || one.textContent;
  return [...region.querySelectorAll("a, button, summary")].find((e) => name(e) === name(element));
}

// A run in progress: the server sends an event at each change.
function follow() {
  const url = document.getElementById("live")?.dataset.events;
  if (events?.url.endsWith(url) && events.readyState < 2) return; // 2: ended by an error
  events?.close();
  events = url ? new EventSource(url) : null;
  if (!events) return;
  events.onmessage = (event) => {
    const { kind, state } = JSON.parse(event.data);
    if (!["queued", "running"].includes(state)) {
      events.close();
      say(`The ${kind} has ended: ${state}.`);
    }
    refresh(location.href).catch(silent);
  };
}

// Outside of the live region, so that a screen reader speaks it and a refresh keeps it.
function say(text) {
  const shown = document.getElementById("message");
  shown.textContent = text;
  if (text) setTimeout(() => shown.textContent === text && say(""), 10_000); // ms
}
const silent = () => say("The service does not answer.");

// What others do: another browser or the schedule trains, pauses, ends; and times pass.
async function watch() {
  const shown = document.getElementById("live")?.dataset.shown;
  if (!shown || document.hidden) return;
  const { training, paused, seconds_left: left } = await (await fetch("/next-training")).json();
  const now = [training?.run_id, paused, left && Math.floor(left / 60)];
  if (training || now.join() !== shown) await refresh(location.href);
}

const watchOn = () => setTimeout(() => (follow(), watch()).catch(() => {}).finally(watchOn), 3000);

// Buttons that call the API; its answer to a failure is a problem with a detail.
async function call(form) {
  const { method, json, done, confirm: question, busy } = form.dataset;
  if (busy || (question && !confirm(question))) return;
  form.dataset.busy = "yes"; // a disabled button would lose the focus
  try {
    const headers = json ? { "Content-Type": "application/json" } : {};
    const answer = await fetch(form.action, { method, headers, body: json || null });
    if (answer.status === 401) return location.reload(); // to ask for the key anew
    say(answer.ok ? done : (await answer.json()).detail);
    if (answer.ok) await refresh(location.href);
  } catch {
    silent();
  }
  delete form.dataset.busy;
}

// Searches and stars: what the form would load is shown at once, and in the address.
function show(form, button) {
  history.replaceState(null, "", `?${new URLSearchParams(new FormData(form, button))}`);
  refresh(location.href).catch(silent);
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches(".call, [data-live]")) return;
  event.preventDefault();
  form.matches(".call") ? call(form) : show(form, event.submitter);
});

document.addEventListener("input", (event) => {
  const form = event.target.form;
  if (event.target.type === "search" && form?.matches("[data-live]")) show(form);
});

follow();
watchOn();
