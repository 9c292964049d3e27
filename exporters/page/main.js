// The frame round the views: which one is shown, alarms, connection, theme, session.

import { ask } from "./api.js";
import { badge, el, notice, say } from "./dom.js";
import { ago, duration } from "./format.js";
import { ListView } from "./list.js";
import { logIn, showSession } from "./login.js";
import { RunView } from "./run.js";

const ALARM_STATES = ["stalled", "failed", "killed"];
const ALARM_EVERY_SECONDS = 8;
const ALARM_FOR_SECONDS = 86_400;
const ALARM_STARTED_SECONDS = 90 * 86_400;
const MOST_ALARMS = 3;

const $ = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
const view = $("view");

/** What views share with the frame. */
const frame = {
  skewSeconds: 0,

  /** Unix seconds by the clock of the service. */
  now: () => Date.now() / 1000 + frame.skewSeconds,

  /** What a message of the stream says of the service: its clock, and what it cannot keep or see. */
  hear(message) {
    frame.skewSeconds = message.at - Date.now() / 1000;
    if (!message.problems) return;
    const ofRuns = message.problems.filter((problem) => /^(recordings|history|kubeflow)/.test(problem));
    $("problems").hidden = !ofRuns.length;
    say($("problems"), ofRuns.length ? `What is shown may be incomplete: ${ofRuns.join("; ")}` : "");
  },

  isDark: () =>
    getComputedStyle(document.documentElement).colorScheme === "dark" ||
    (document.documentElement.dataset.theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches),

  /** @param {"connecting"|"live"|"waiting"|"refused"} state @param {number} [seconds] */
  connection(state, seconds = 0) {
    document.body.classList.toggle(
      "is-stale",
      state === "waiting" || state === "refused" || (state === "connecting" && !$("connection").hidden),
    );
    if (state === "live") {
      $("connection").hidden = true;
      say($("live"), "Live");
    } else if (state === "waiting") {
      say($("live"), "");
      frame.retryAt = Date.now() / 1000 + seconds;
      $("connection").hidden = false;
      tellRetry();
    } else if (state === "refused") {
      say($("live"), "");
      $("connection").hidden = false;
      $("connection").replaceChildren(
        "You are no longer permitted to see this. ",
        el("button", { type: "button", onclick: logInAgain }, "Log in"),
      );
    }
  },
  retryAt: 0,

  /** @param {string} text @param {boolean} isAlarm */
  title(text, isAlarm = false) {
    frame.own = { text, isAlarm };
    showTitle();
  },
  own: { text: "", isAlarm: false },

  /** A view whose data did not come. @param {any} error @param {() => void} retry */
  failure(error, retry) {
    if (error.isRefused)
      return notice(
        "You are not permitted to see this",
        el("p", {}, error.message),
        el("button", { type: "button", class: "primary", onclick: logInAgain }, "Log in"),
      );
    const title = error.status === 0 ? "The service cannot be reached" : "This did not work";
    return notice(
      title,
      el("p", {}, error.message),
      el("button", { type: "button", class: "primary", onclick: retry }, "Try again"),
    );
  },

  refreshAlarms: () => showAlarms(),
};

/** @type {{close: () => void, name?: string, redraw?: () => void}|null} */
let current = null;

function route() {
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  const parameters = new URLSearchParams(query);
  const [, section, name] = path.split("/");
  current?.close();
  $("connection").hidden = true;
  document.body.classList.remove("is-stale");
  say($("live"), "");
  view.replaceChildren();
  window.scrollTo(0, 0);
  current =
    section === "runs" && name
      ? new RunView(view, decoded(name), parameters, frame)
      : new ListView(view, parameters, frame);
  isRefused = false;
  showAlarms();
}

function decoded(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

async function logInAgain() {
  if (await logIn()) route();
}

function tellRetry() {
  const bar = $("connection");
  if (bar.hidden || !frame.retryAt) return;
  const seconds = Math.ceil(frame.retryAt - Date.now() / 1000);
  const text = seconds > 0 ? `Disconnected. Trying again in ${seconds} s.` : "Disconnected. Trying again …";
  if (bar.textContent !== text) bar.replaceChildren(text);
}

let alarms = [];
let asked = 0;
let isRefused = false; // until somebody logs in nothing more is asked

async function showAlarms() {
  const number = (asked += 1);
  const found = await ask("runs", {
    query: { state: ALARM_STATES, limit: 50, started_after: Math.floor(frame.now() - ALARM_STARTED_SECONDS) },
  }).catch((error) => {
    isRefused = error.isRefused;
    return null;
  });
  if (!found || number < asked) return; // a later question has a newer answer
  const since = (run) =>
    run.state === "stalled" ? frame.now() - run.silent_seconds : (run.ended_at ?? run.started_at);
  alarms = found.runs
    .filter((run) => !run.acknowledged && (run.state === "stalled" || since(run) > frame.now() - ALARM_FOR_SECONDS))
    .sort((a, b) => since(b) - since(a));
  const shown = alarms.filter((run) => run.run !== current?.name);
  const lines = shown.slice(0, MOST_ALARMS).map((run) => {
    const told =
      run.state === "stalled"
        ? ` has made no progress for ${duration(run.silent_seconds)}`
        : ` ${was(run)} ${ago(frame.now() - since(run))}`;
    const why = run.reason ?? run.failure?.type;
    const rank =
      run.first_silent_rank === null || run.world_size === 1
        ? ""
        : ` — rank ${run.first_silent_rank} of ${run.world_size} fell silent first`;
    const words = [el("bdi", {}, run.run), told, why ? ` (${why})` : "", rank];
    return el(
      "a",
      { class: `alarm is-${run.state}`, href: `#/runs/${encodeURIComponent(run.run)}` },
      badge(run.state),
      el("span", {}, ...words),
    );
  });
  if (shown.length > MOST_ALARMS) {
    const query = ALARM_STATES.map((state) => `state=${state}`).join("&");
    lines.push(el("a", { class: "more", href: `#/?${query}` }, `and ${shown.length - MOST_ALARMS} more in trouble`));
  }
  const key = lines.map((line) => line.textContent).join();
  if ($("alarms").dataset.key !== key) {
    $("alarms").dataset.key = key;
    $("alarms").replaceChildren(...lines);
  }
  showTitle();
}

const was = (run) => (run.state === "failed" ? "failed" : "was killed");

function showTitle() {
  const isAlarm = alarms.length > 0 || frame.own.isAlarm;
  const count = alarms.length ? `(${alarms.length}!) ` : "";
  document.title = `${count}${frame.own.text ? `${frame.own.text} · ` : ""}trainvitals`;
  const icon = /** @type {HTMLLinkElement} */ (document.querySelector("link[rel=icon]"));
  const href = isAlarm ? "assets/icon-alarm.svg" : "assets/icon.svg";
  if (icon.getAttribute("href") !== href) icon.href = href;
}

const THEMES = { auto: "Auto", light: "Light", dark: "Dark" };

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  say($("theme"), `${THEMES[theme]}`);
  $("theme").setAttribute("aria-label", `Colours: ${THEMES[theme]}. Change`);
  current?.redraw?.();
}

function stored() {
  try {
    const theme = localStorage.getItem("theme") ?? "auto";
    return theme in THEMES ? theme : "auto";
  } catch {
    return "auto"; // storage is forbidden
  }
}

$("theme").onclick = () => {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(stored()) + 1) % names.length];
  try {
    localStorage.setItem("theme", next);
  } finally {
    setTheme(next);
  }
};
$("session").onclick = logInAgain;
/** @type {HTMLElement} */ (document.querySelector(".skip")).onclick = (event) => {
  event.preventDefault();
  view.focus();
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => current?.redraw?.());
setTheme(stored());
window.addEventListener("hashchange", () => {
  route();
  view.focus({ preventScroll: true });
});

// Whatever carries data-since tells how long ago that was.
setInterval(() => {
  tellRetry();
  for (const element of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-since]"))) {
    const seconds = frame.now() - Number(element.dataset.since);
    say(element, element.dataset.as === "duration" ? duration(seconds) : ago(seconds));
  }
}, 1000);
setInterval(() => isRefused || showAlarms(), ALARM_EVERY_SECONDS * 1000);

showSession();
route();
