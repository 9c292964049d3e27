// The list of runs.

import { ask } from "./api.js";
import { reasonOf, stepText } from "./details.js";
import { badge, bar, el, notice, say, sparkline } from "./dom.js";
import { ago, clock, compact, duration, moment, number, percent } from "./format.js";
import { Stream } from "./stream.js";

const STATES = ["running", "stalled", "failed", "killed", "aborted", "finished"];
const ALIVE = ["running", "stalled"];
const PAGE = 50;
const SPARKLINE_POINTS = 60;
const SPARKLINES_EVERY_SECONDS = 15;
const COLUMNS = ["State", "Run", "Progress", "Time left", "Loss", "Tokens/s", "Started"];
const EXAMPLE = `from trainer_hooks.monitor import Monitor

with Monitor(name="my-model") as monitor:
    for batch in monitor.batches(loader):
        with monitor.step():
            monitor.batch(loss=train_on(batch))`;

export class ListView {
  /** @param {HTMLElement} root @param {URLSearchParams} parameters state=…&name=… @param {any} frame see main.js */
  constructor(root, parameters, frame) {
    this.root = root;
    this.frame = frame;
    this.states = new Set(parameters.getAll("state").filter((state) => STATES.includes(state)));
    this.text = parameters.get("name") ?? "";
    /** @type {Map<string, Row>} */
    this.rows = new Map();
    this.cursor = null;
    /** @type {any} the run behind which older ones are loaded */
    this.last = null;
    this.gone = new AbortController();
    this.build();
    frame.title("Runs");
    this.load();
    this.timer = setInterval(() => this.refreshSparklines(), SPARKLINES_EVERY_SECONDS * 1000);
  }

  build() {
    const search = /** @type {HTMLInputElement} */ (
      el("input", {
        type: "search",
        value: this.text,
        placeholder: "Filter by name",
        "aria-label": "Filter by name",
        maxlength: 64,
        oninput: () => {
          clearTimeout(this.typing);
          this.typing = setTimeout(() => this.filter(() => (this.text = search.value.trim())), 250);
        },
      })
    );
    const states = STATES.map((state) =>
      el(
        "button",
        {
          type: "button",
          class: "chip",
          "aria-pressed": String(this.states.has(state)),
          onclick: (event) => {
            if (!this.states.delete(state)) this.states.add(state);
            event.currentTarget.setAttribute("aria-pressed", String(this.states.has(state)));
            this.filter(() => {});
          },
        },
        badge(state),
      ),
    );
    this.count = el("span", { class: "count", role: "status" });
    this.body = el("tbody", { role: "rowgroup" });
    this.table = el(
      "table",
      { class: "runs", role: "table", "aria-label": "Runs" },
      el(
        "thead",
        { role: "rowgroup" },
        el("tr", { role: "row" }, ...COLUMNS.map((name) => el("th", { role: "columnheader", scope: "col" }, name))),
      ),
      this.body,
    );
    this.more = el(
      "button",
      { type: "button", class: "more", hidden: true, onclick: () => this.loadMore() },
      "Load more",
    );
    this.place = el(
      "div",
      {},
      ...Array.from({ length: 5 }, () => el("div", { class: "skeleton", "aria-hidden": "true" })),
    );
    this.root.replaceChildren(
      el(
        "div",
        { class: "bar" },
        el("h1", {}, "Runs"),
        this.count,
        search,
        el("div", { class: "chips", role: "group", "aria-label": "Filter by state" }, ...states),
      ),
      this.place,
      this.more,
    );
  }

  filter(change) {
    change();
    const parameters = new URLSearchParams([...this.states].map((state) => ["state", state]));
    if (this.text) parameters.append("name", this.text);
    history.replaceState(null, "", `#/${parameters.size ? `?${parameters}` : ""}`);
    this.gone.abort();
    this.gone = new AbortController();
    this.rows.clear();
    this.body?.replaceChildren();
    this.load();
  }

  query(more) {
    return {
      signal: this.gone.signal,
      query: { state: [...this.states], name: this.text, limit: PAGE, sparkline_points: SPARKLINE_POINTS, ...more },
    };
  }

  async load() {
    const { signal } = this.gone;
    try {
      const alive = ALIVE.filter((state) => !this.states.size || this.states.has(state));
      const [newest, living] = await Promise.all([
        ask("runs", this.query({})),
        alive.length ? ask("runs", this.query({ state: alive, limit: 500 })) : { runs: [] },
      ]);
      this.cursor = newest.next_cursor;
      this.last = newest.runs.at(-1);
      for (const run of [...newest.runs, ...living.runs]) this.put(run);
      this.show();
      this.stream ??= new Stream([], {
        message: (message) => this.hear(message),
        state: (...state) => this.frame.connection(...state),
      });
    } catch (error) {
      if (!signal.aborted) this.place?.replaceChildren(this.frame.failure(error, () => this.load()));
    }
  }

  async loadMore() {
    try {
      const older = await ask("runs", this.query({ cursor: this.cursor }));
      this.cursor = older.next_cursor;
      this.last = older.runs.at(-1);
      for (const run of older.runs) this.put(run);
      this.show();
    } catch (/** @type {any} */ error) {
      if (!this.gone.signal.aborted && this.more) say(this.more, `${error.message} Try again`);
    }
  }

  async refreshSparklines() {
    if (document.hidden || !this.rows.size) return;
    const living = await ask("runs", this.query({ state: ["running"], limit: 500 })).catch(() => ({ runs: [] }));
    for (const run of living.runs) if (this.rows.has(run.run)) this.put(run);
  }

  hear(message) {
    this.frame.hear(message);
    let isNews = false;
    for (const run of message.runs ?? []) {
      const before = this.rows.get(run.run)?.run;
      isNews ||= before?.state !== run.state;
      const fits =
        (!this.states.size || this.states.has(run.state)) && run.run.toLowerCase().includes(this.text.toLowerCase());
      if (!fits) this.drop(run.run);
      else if (before || ALIVE.includes(run.state) || !this.isOlder(run)) this.put(run);
    }
    for (const name of message.removed ?? []) this.drop(name);
    this.show();
    if (isNews && message.type === "update") this.frame.refreshAlarms();
  }

  /** Whether it comes with those that are loaded when they are asked for. */
  isOlder(run) {
    return this.cursor !== null && byStart(run, this.last) > 0;
  }

  put(run) {
    const row = this.rows.get(run.run);
    if (row) row.update(run, this.frame.now());
    else this.rows.set(run.run, new Row(run, this.frame.now()));
  }

  drop(name) {
    this.rows.get(name)?.element.remove();
    this.rows.delete(name);
  }

  show() {
    const { body, place, table } = this;
    if (!body || !place || !table) return;
    const isAlive = (row) => Number(ALIVE.includes(row.run.state));
    const rows = [...this.rows.values()].sort((a, b) => isAlive(b) - isAlive(a) || byStart(a.run, b.run));
    const held = document.activeElement;
    rows.forEach((row, index) => {
      if (body.children[index] !== row.element) body.insertBefore(row.element, body.children[index] ?? null);
    });
    if (held !== document.activeElement && held instanceof HTMLElement && body.contains(held)) held.focus();
    if (!rows.length) place.replaceChildren(this.states.size || this.text ? nothingFits() : nothingYet());
    else if (table.parentNode !== place) place.replaceChildren(table);
    const running = rows.filter((row) => row.run.state === "running").length;
    if (this.count)
      say(this.count, rows.length ? `${rows.length}${this.cursor ? "+" : ""} shown, ${running} running` : "");
    if (this.more) this.more.hidden = !this.cursor;
    if (!this.states.size && !this.text) this.frame.title(running ? `${running} running` : "Runs");
  }

  close() {
    this.gone.abort();
    clearInterval(this.timer);
    clearTimeout(this.typing);
    this.stream?.close();
  }
}

/** The order of the service: the newest start first, and of several at one time the last name. */
function byStart(a, b) {
  return b.started_at - a.started_at || Number(a.run < b.run) - Number(a.run > b.run);
}

function nothingFits() {
  return notice("No run fits the filter", el("p", {}, el("a", { href: "#/" }, "Show all runs")));
}

function nothingYet() {
  return notice(
    "No runs yet",
    el(
      "p",
      {},
      "Put ",
      el("code", {}, "trainvitals run"),
      " in front of the command that trains, or say it in the loop:",
    ),
    el("pre", { tabindex: 0 }, EXAMPLE),
    el("p", {}, "The run appears here with its first step."),
  );
}

/** One run of the list; only what changed is touched. */
class Row {
  constructor(run, now) {
    this.run = run;
    this.link = el("a", { href: `#/runs/${encodeURIComponent(run.run)}` }, el("bdi", {}, run.run));
    const cell = (label, ...children) => el("td", { role: "cell", "data-label": label }, ...children);
    this.state = el("div");
    this.reason = el("div", { class: "sub" });
    this.about = el("div", { class: "sub" });
    this.progress = bar(`Progress of ${run.run}`, null);
    this.ratio = el("span", { class: "strong" });
    this.steps = el("span", { class: "sub" });
    this.left = el("div");
    this.ends = el("div", { class: "sub" });
    this.loss = el("div");
    this.spark = el("div");
    this.speed = el("div");
    this.started = el("time", { "data-since": run.started_at, title: moment(run.started_at) });
    this.took = el("div", { class: "sub" });
    this.element = el(
      "tr",
      { role: "row" },
      cell("State", this.state, this.reason),
      cell("Run", this.link, this.about),
      cell("Progress", el("div", { class: "numbers" }, this.ratio, this.steps), this.progress),
      cell("Time left", this.left, this.ends),
      cell("Loss", el("div", { class: "loss" }, this.loss, this.spark)),
      cell("Tokens/s", this.speed),
      cell("Started", this.started, this.took),
    );
    this.update(run, now);
  }

  update(run, now) {
    const isNew = this.state.dataset.state !== run.state;
    const curve = run.sparkline?.length ? run.sparkline : this.run.sparkline;
    if (isNew || curve !== this.run.sparkline || !this.spark.firstChild)
      this.spark.replaceChildren(sparkline(curve ?? []));
    this.run = { ...run, sparkline: curve };
    if (isNew) {
      this.state.dataset.state = run.state;
      this.state.replaceChildren(badge(run.state));
      this.element.className = `is-${run.state}`;
    }
    say(this.reason, reasonOf(run));
    say(
      this.about,
      [
        run.world_size > 1 && `${run.world_size} ranks`,
        run.attempt > 1 && `attempt ${run.attempt}`,
        ALIVE.includes(run.state) && run.phase,
        run.info.model,
      ]
        .filter(Boolean)
        .join(" · "),
    );
    say(this.ratio, run.progress_ratio === null ? "" : percent(run.progress_ratio));
    say(this.steps, stepText(run));
    if (run.progress_ratio === null) this.progress.removeAttribute("value");
    else this.progress.setAttribute("value", run.progress_ratio);
    this.progress.hidden = run.progress_ratio === null;
    const isRunning = run.state === "running" && run.eta_seconds !== null;
    say(this.left, isRunning ? duration(run.eta_seconds) : "");
    const isLate = isRunning && run.deadline_at !== null && now + run.eta_seconds > run.deadline_at;
    say(this.ends, isRunning ? `at ${clock(now + run.eta_seconds, now)}${isLate ? ", too late" : ""}` : "");
    this.ends.classList.toggle("trouble", isLate);
    say(this.loss, number(run.loss));
    say(this.speed, run.tokens_per_second === null ? "" : compact(run.tokens_per_second));
    say(this.started, ago(now - run.started_at));
    if (run.ended_at === null) Object.assign(this.took.dataset, { since: run.started_at, as: "duration" });
    else delete this.took.dataset.since;
    say(this.took, duration((run.ended_at ?? now) - run.started_at));
  }
}
