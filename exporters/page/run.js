// One run: its data, as it comes, and how its charts are drawn.

import { ask, ofRun } from "./api.js";
import { drawRun, eraseRun } from "./charts.js";
import { BAD, Head, listsOf, notFound, OVER, Tables } from "./details.js";
import { el, say } from "./dom.js";
import { confirm, logIn } from "./login.js";
import { Stream } from "./stream.js";

const AXES = ["time", "step", "tokens"];
const PHASES = ["init", "data", "forward", "backward", "compute", "optimizer", "evaluation", "checkpoint", "other"];
/** Curves that the stream brings. */
const OF_STEPS = ["loss", "perplexity", "tokens_per_second", "learning_rate", "gradient_norm"];
/** Curves that are asked for from time to time. */
const SLOW = [
  ...PHASES.map((phase) => `phase_${phase}_ratio`),
  ...["samples_per_second", "validation_loss", "training_accuracy", "training_scalar", "training_host_memory_bytes"],
  ...["training_cuda_memory_allocated_bytes", "training_cuda_memory_reserved_bytes"],
];
const OF_GPUS = ["nvidia_gpu_utilization_percent", "nvidia_gpu_memory_used_bytes", "nvidia_gpu_power_watts"];
const COMPARED = [...OF_STEPS, "validation_loss"];
const POINTS = 1000;
const MOST_POINTS = 2000;
const SLOW_POINTS = 400;
const MOST_RANKS = 16;
const MOST_EVENTS = 500;
const MOST_ALERTS = 100;
const MOST_OFFERED = 200;
const SLOW_LEAST_SECONDS = 4;
const SLOW_MOST_SECONDS = 15;
const UNKNOWN_EVERY_SECONDS = 2;
const REDRAW_MILLISECONDS = 500;
const MOST_SMOOTHING = 0.98;

/** @type {Promise<void>|null} */
let plotly = null;

/** Plotly, fetched when a run is first looked at. */
function loadPlotly() {
  plotly ??= new Promise((resolve, reject) => {
    const src = /** @type {HTMLMetaElement} */ (document.querySelector("meta[name=plotly]")).content;
    const onerror = () => reject(new Error("plotly.js did not load."));
    document.head.append(el("script", { src, onload: () => resolve(), onerror }));
  });
  plotly.catch(() => (plotly = null));
  return plotly;
}

export class RunView {
  /**
   * @param {HTMLElement} root
   * @param {string} name
   * @param {URLSearchParams} parameters how to draw: axis, log, smoothing, with
   * @param {any} frame see main.js
   */
  constructor(root, name, parameters, frame) {
    this.root = root;
    this.name = name;
    this.frame = frame;
    this.look = {
      axis: AXES.find((axis) => axis === parameters.get("axis")) ?? "time",
      log: parameters.has("log"),
      smoothing: Math.min(MOST_SMOOTHING, Math.max(0, Number(parameters.get("smoothing")) || 0)),
      other: parameters.get("with") ?? "",
    };
    this.gone = new AbortController();
    this.data = { run: null, series: [], events: [], alerts: [], gpus: [], others: [] };
    /** @type {Map<string, any>} series that grow with the stream, by name */
    this.curves = new Map();
    this.slow = [];
    this.ofRanks = [];
    this.progress = null;
    this.showsAllRanks = false;
    this.isAwaited = false;
    this.redraw = () => this.draw();
    frame.title(name);
    root.replaceChildren(...["tall", "", ""].map((size) => el("div", { class: `skeleton ${size}` })));
    document.addEventListener("visibilitychange", this.redraw);
    this.load();
  }

  close() {
    this.gone.abort();
    document.removeEventListener("visibilitychange", this.redraw);
    clearTimeout(this.timer);
    clearTimeout(this.waiting);
    this.stream?.close();
    if (this.charts) eraseRun(this.charts);
  }

  // Data

  ask(path, query = {}) {
    return ask(path, { query, signal: this.gone.signal });
  }

  of(rest, query = {}) {
    return ask(ofRun(this.name, rest), { query, signal: this.gone.signal });
  }

  async load() {
    clearTimeout(this.timer);
    let isKnown = false;
    try {
      this.data.run = await this.of("");
      isKnown = true;
      this.isAwaited = false;
      const hadFocus = this.root.contains(document.activeElement);
      this.build();
      if (hadFocus) this.root.focus({ preventScroll: true });
      this.showRun();
      const rest = Promise.all([this.loadSlow(), this.loadOther()]);
      rest.catch(() => null); // told below
      await Promise.all([loadPlotly(), this.loadCurves(), this.loadEvents()]);
      this.draw();
      await rest;
      this.draw();
      this.listen();
      this.offerRuns();
    } catch (/** @type {any} */ error) {
      if (this.gone.signal.aborted) return;
      const isUnknown = error.status === 404 && !isKnown;
      if (isUnknown && !this.isAwaited) {
        this.root.replaceChildren(notFound(this.name, error.detail?.known_runs ?? []));
        this.isAwaited = true;
      }
      if (this.isAwaited && !error.isRefused) this.askAgainLater();
      else this.root.replaceChildren(this.frame.failure(error, () => this.load()));
    }
  }

  /** A link may be opened a moment before its run is known. */
  askAgainLater() {
    this.timer = setTimeout(
      () => (document.hidden ? this.askAgainLater() : this.load()),
      UNKNOWN_EVERY_SECONDS * 1000,
    );
  }

  async loadCurves() {
    const { series } = await this.of("/series", { name: OF_STEPS, max_points: POINTS, by: this.look.axis });
    this.curves = new Map(series.map((each) => [each.name, each]));
  }

  /** What the stream does not bring. */
  async loadSlow() {
    const by = this.look.axis;
    const ranks = this.data.run.ranks.map((rank) => rank.rank).sort((a, b) => a - b);
    const shown = this.showsAllRanks ? ranks : ranks.slice(0, MOST_RANKS);
    const points = shown.length > 4 ? SLOW_POINTS / 2 : SLOW_POINTS;
    const [slow, progress, gpus, ...ofRanks] = await Promise.all([
      this.of("/series", { name: SLOW, max_points: SLOW_POINTS, by }),
      this.of("/progress"),
      this.loadGpus(),
      ...shown.map((rank) => this.of("/series", { name: "step_seconds", rank, max_points: points, by })),
    ]);
    this.slow = slow.series;
    this.ofRanks = ofRanks.flatMap((each) => each.series);
    this.progress = progress;
    this.data.gpus = gpus;
    this.showRun();
  }

  async loadGpus() {
    const { run } = this.data;
    const { gpus } = await this.of("/gpus");
    const query = { name: OF_GPUS, max_points: SLOW_POINTS, from: run.started_at, to: run.ended_at };
    return Promise.all(
      gpus.slice(0, MOST_RANKS).map(async (gpu) => {
        const { series } = await this.ask(`gpus/${encodeURIComponent(gpu.gpu_uuid)}/series`, query);
        return { ...gpu, series };
      }),
    );
  }

  async loadEvents() {
    const [{ events }, { alerts }] = await Promise.all([
      this.of("/events", { limit: MOST_EVENTS }),
      this.ask("alerts", { run: this.name, limit: MOST_ALERTS }),
    ]);
    Object.assign(this.data, { events, alerts });
    this.showLists();
  }

  async loadOther() {
    const { other, axis } = this.look;
    this.data.others = [];
    if (!other) return;
    const { runs } = await this.ask("compare", { run: other, name: COMPARED, by: axis, max_points: POINTS }).catch(
      (error) => {
        if (error.status !== 404) throw error;
        return { runs: [] }; // it was deleted
      },
    );
    if (axis === "time") {
      // They are told from their start: laid over ours.
      const began = this.data.run.started_at;
      for (const { points } of runs.flatMap(({ series }) => series))
        points.time = points.time.map((time) => began + time);
    }
    this.data.others = runs;
  }

  async offerRuns() {
    const { runs } = await this.ask("runs", { limit: MOST_OFFERED }).catch(() => ({ runs: [] }));
    const { other } = this.look;
    const names = new Set([other, ...runs.map((run) => run.run)].filter((name) => name && name !== this.name));
    const options = [...names].map((name) => el("option", { value: name, selected: name === other }, name));
    this.others?.replaceChildren(el("option", { value: "" }, "Compare with …"), ...options);
  }

  listen() {
    if (this.stream) return;
    // One message after the other: what one asks for belongs before the next.
    let before = Promise.resolve();
    this.stream = new Stream([this.name], {
      message: (message) => (before = before.then(() => this.hear(message))),
      state: (...state) => this.frame.connection(...state),
    });
    this.refreshLater();
  }

  async hear(message) {
    const { data } = this;
    this.frame.hear(message);
    const run = (message.runs ?? []).find((each) => each.run === this.name);
    if (run) {
      const before = data.run.state;
      data.run = run;
      this.showRun();
      if (before !== run.state) {
        this.frame.refreshAlarms();
        this.refresh();
      }
    }
    if (message.type === "snapshot") await this.catchUp();
    for (const { run: name, series } of message.series ?? []) if (name === this.name) await this.grow(series);
    this.hearEvents(message.events ?? [], message.alerts ?? []);
    this.drawSoon();
  }

  hearEvents(newEvents, newAlerts) {
    const { data } = this;
    if (!newEvents.length && !newAlerts.length) return;
    const known = new Set(data.events.map((event) => event.id));
    const events = newEvents.filter((event) => event.run === this.name && !known.has(event.id));
    const alerts = newAlerts.filter((alert) => alert.labels.run === this.name);
    if (!events.length && !alerts.length) return;
    data.events = [...events, ...data.events].sort((a, b) => b.at - a.at || b.id - a.id).slice(0, MOST_EVENTS);
    const byKey = new Map(
      [...data.alerts, ...alerts].map((alert) => [`${alert.fingerprint} ${alert.starts_at}`, alert]),
    );
    data.alerts = [...byKey.values()].sort((a, b) => b.received_at - a.received_at).slice(0, MOST_ALERTS);
    this.showLists();
    if (events.some((event) => event.kind === "evaluation")) this.refresh();
  }

  /** What happened before the stream began, or while it was away. */
  async catchUp() {
    const rest = this.isCaughtUp ? [this.loadSlow(), this.loadEvents()] : [];
    this.isCaughtUp = true;
    await Promise.all([this.loadCurves(), ...rest]).catch(() => null);
  }

  /** Puts new points behind those that are there; too many are asked for anew, thinned. */
  async grow(series) {
    let isTooMany = series.some(({ name }) => OF_STEPS.includes(name) && !this.curves.has(name));
    for (const { name, points } of series) {
      const known = this.curves.get(name)?.points;
      if (!known) continue;
      const last = known.time.at(-1) ?? 0;
      points.time.forEach((time, index) => {
        if (time <= last) return;
        for (const column of Object.keys(known)) known[column].push(points[column][index]);
      });
      isTooMany ||= known.time.length > MOST_POINTS;
    }
    if (isTooMany) await this.loadCurves().catch(() => null);
  }

  /** The younger a run is, the sooner a few seconds can be seen in its charts. */
  refreshLater() {
    const age = this.frame.now() - this.data.run.started_at;
    const seconds = Math.min(SLOW_MOST_SECONDS, Math.max(SLOW_LEAST_SECONDS, age / 40));
    this.timer = setTimeout(async () => {
      if (!document.hidden && !OVER.includes(this.data.run.state)) await this.refresh();
      if (!this.gone.signal.aborted) this.refreshLater();
    }, seconds * 1000);
  }

  async refresh() {
    await this.loadSlow().catch(() => null);
    this.drawSoon();
  }

  // Looks

  build() {
    if (this.charts) eraseRun(this.charts);
    this.head = new Head((isOver) => this.abort(isOver));
    this.tables = new Tables();
    this.charts = el(
      "div",
      { class: "charts" },
      ...Array.from({ length: 4 }, () => el("div", { class: "skeleton tall" })),
    );
    this.drawing = null;
    this.lists = el("div", { class: "lists" });
    this.empty = el("p", { class: "hint", hidden: true }, "No step has been recorded yet.");
    this.allRanks = el("button", { type: "button", class: "quiet", hidden: true, onclick: () => this.showAllRanks() });
    this.root.replaceChildren(
      el("a", { class: "back", href: "#/" }, "← All runs"),
      ...[this.head.element, this.tools(), this.empty, this.charts, this.allRanks, this.lists, ...this.tables.elements],
    );
  }

  tools() {
    const { axis, log, smoothing } = this.look;
    const axes = AXES.map((value) => {
      const reload = () => Promise.all([this.loadCurves(), this.loadSlow(), this.loadOther()]);
      const onchange = () => this.lookAt({ axis: value }, reload);
      return el(
        "label",
        {},
        el("input", { type: "radio", name: "axis", value, checked: value === axis, onchange }),
        el("span", {}, value),
      );
    });
    const told = el("output", {}, smoothingText(smoothing));
    const smooth = (event) => {
      say(told, smoothingText(Number(event.target.value)));
      this.lookAt({ smoothing: Number(event.target.value) });
    };
    this.others = el(
      "select",
      {
        "aria-label": "Compare with another run",
        onchange: (event) => this.lookAt({ other: event.target.value }, () => this.loadOther()),
      },
      el("option", { value: "" }, "Compare with …"),
    );
    this.unzoom = el(
      "button",
      { type: "button", class: "quiet", hidden: true, onclick: () => this.drawing?.zoom(null) },
      "Reset zoom",
    );
    return el(
      "div",
      { class: "tools" },
      el("fieldset", { class: "segments" }, el("legend", { class: "away" }, "Axis"), ...axes),
      el(
        "label",
        {},
        el("input", {
          type: "checkbox",
          checked: log,
          onchange: (event) => this.lookAt({ log: event.target.checked }),
        }),
        "Log scale",
      ),
      el(
        "label",
        {},
        "Smoothing ",
        el("input", {
          type: "range",
          min: 0,
          max: MOST_SMOOTHING,
          step: 0.02,
          value: smoothing,
          "aria-label": "Exponential smoothing",
          oninput: smooth,
        }),
        told,
      ),
      this.others,
      this.unzoom,
    );
  }

  async lookAt(change, load = async () => {}) {
    Object.assign(this.look, change);
    const { axis, log, smoothing, other } = this.look;
    const parameters = new URLSearchParams();
    if (axis !== "time") parameters.set("axis", axis);
    if (log) parameters.set("log", "1");
    if (smoothing) parameters.set("smoothing", String(smoothing));
    if (other) parameters.set("with", other);
    history.replaceState(null, "", `#/runs/${encodeURIComponent(this.name)}${parameters.size ? `?${parameters}` : ""}`);
    try {
      await load();
      this.drawSoon();
    } catch (/** @type {any} */ error) {
      if (!this.gone.signal.aborted) this.root.replaceChildren(this.frame.failure(error, () => this.load()));
    }
  }

  showAllRanks() {
    this.showsAllRanks = true;
    this.refresh();
  }

  showRun() {
    const { run } = this.data;
    const now = this.frame.now();
    this.frame.title(`${run.run} ${run.state}`, BAD.includes(run.state) && !run.acknowledged);
    this.head?.show(run, this.progress, now);
    this.tables?.show(run, now);
    if (!this.allRanks) return;
    this.allRanks.hidden = this.showsAllRanks || run.ranks.length <= MOST_RANKS;
    say(this.allRanks, `Step time of ${MOST_RANKS} ranks is drawn. Show all ${run.ranks.length}`);
  }

  showLists() {
    const { run, events, alerts } = this.data;
    this.lists?.replaceChildren(...listsOf(run, events, alerts, this.frame.now()));
  }

  /** At most twice a second, and less often where drawing takes its time. */
  drawSoon() {
    const milliseconds = Math.max(REDRAW_MILLISECONDS, 4 * (this.drawing?.tookMilliseconds ?? 0));
    this.waiting ??= setTimeout(() => this.draw(), milliseconds);
  }

  draw() {
    clearTimeout(this.waiting);
    this.waiting = undefined;
    if (document.hidden || !this.charts || !globalThis.Plotly) return;
    const { axis, log, smoothing } = this.look;
    const series = [...this.curves.values(), ...this.ofRanks, ...this.slow];
    if (this.empty) this.empty.hidden = series.some((each) => each.points.mean.length);
    if (!this.drawing) this.charts.replaceChildren();
    const onzoom = (isZoomed) => this.unzoom && (this.unzoom.hidden = !isZoomed);
    this.drawing = drawRun(
      this.charts,
      { ...this.data, series },
      { axis, log, smoothing, dark: this.frame.isDark(), onzoom },
    );
  }

  // Actions

  /** Ends a run that lives; of a dead one it is noted that somebody knows. */
  async abort(isOver) {
    const action = isOver ? "Acknowledge" : "Abort";
    const text = isOver
      ? `${this.name} is no longer told as an alarm. Its history stays.`
      : `SIGTERM is sent to the processes of ${this.name} on this node. What it has not saved is lost.`;
    if (!(await confirm(`${action} this run?`, text, action))) return;
    try {
      await ask(ofRun(this.name), { method: "DELETE" });
      this.data.run = await this.of("");
      this.showRun();
      this.frame.refreshAlarms();
    } catch (/** @type {any} */ error) {
      if (!error.isRefused) await confirm("That was not possible", error.message, "Understood");
      else if (await logIn("This needs the role operator.")) await this.abort(isOver);
    }
  }
}

function smoothingText(value) {
  return value ? `exponential, ${value.toFixed(2)}` : "off";
}
