/*
 * The charts of a run: data in, figures out. Nothing is fetched and nothing but `Plotly` is global, so that the
 * page and a report in one file draw the same.
 *
 *   drawRun(container, data, options)   draws into the element, or brings what was drawn there up to date
 *   eraseRun(container)                 lets go of it
 *
 *   data = {run: Run, series: [Series], events: [Event], alerts: [StoredAlert],
 *           gpus: [{gpu_uuid, rank, series: [Series]}], others: [{run: "name", series: [Series]}]}
 *     as the API tells them: `series` are all of the run, per-rank step_seconds and gauges too; `others` are the
 *     runs it is compared with. What is missing is not drawn.
 *   options = {axis: "time"|"step"|"tokens", log: bool, smoothing: 0..1, dark: bool,
 *              lazy: bool       draw what is in sight first (default true),
 *              onzoom: (isZoomed) => void}
 *
 * In a report: one <script type="module"> with format.js, then this file without its line that begins with
 * `import`, then a call of drawRun. Its looks are page.css's (.charts, .chart); the height of .plot is set there.
 */
import { bytes, compact, duration, eventText, moment, number, percent, plain } from "./format.js";

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const COLOURS = {
  light: { text: "#3d4656", grid: "#e8ebf0", paper: "#ffffff", main: "#2d5be3", second: "#c2570c" },
  dark: { text: "#b4bece", grid: "#272f3d", paper: "#171c26", main: "#7ea2ff", second: "#ff9f55" },
};
const LINES = {
  light: ["#2d5be3", "#c2570c", "#0f8a6c", "#a02bb0", "#9a7400", "#007ea7", "#b3243f", "#5f6b7c"],
  dark: ["#7ea2ff", "#ff9f55", "#43cfa8", "#df8bea", "#e0bd4a", "#57c2e8", "#ff8596", "#a3aebf"],
};
const PHASES = {
  init: "#8892a0",
  data: "#e0a526",
  forward: "#3b76e8",
  backward: "#6f52d9",
  compute: "#4f66e0",
  optimizer: "#1ba39c",
  evaluation: "#c35fc1",
  checkpoint: "#7c8f3a",
  other: "#b9c0cb",
};
/** What is marked in the charts. Events of other kinds are in the list only. */
const MARKS = {
  checkpoint: ["#7c8f3a", "dot"],
  evaluation: ["#c35fc1", "dot"],
  stage: ["#8892a0", "dash"],
  resume: ["#1ba39c", "solid"],
  exception: ["#dd3344", "solid"],
  oom: ["#dd3344", "solid"],
  fail: ["#dd3344", "solid"],
  state: ["#8892a0", "dash"],
  alert: ["#e07b00", "solid"],
};
const ROUTINE = ["checkpoint", "evaluation", "stage"];
const BAD = ["stalled", "failed", "killed"];
const MOST_MARKS = 200;

/** @type {WeakMap<Element, Drawing>} */
const drawings = new WeakMap();

/** @param {HTMLElement} container @param {any} data @param {any} [options] */
export function drawRun(container, data, options = {}) {
  let drawing = drawings.get(container);
  if (!drawing) drawings.set(container, (drawing = new Drawing(container)));
  drawing.show(data, { axis: "time", log: false, smoothing: 0, dark: false, lazy: true, ...options });
  return drawing;
}

/** @param {HTMLElement} container */
export function eraseRun(container) {
  drawings.get(container)?.erase();
  drawings.delete(container);
}

class Drawing {
  constructor(container) {
    this.container = container;
    this.charts = new Map();
    this.range = null; // of the shared axis, in its own unit
    this.tookMilliseconds = 0;
    this.isDrawing = false;
    this.watcher = new IntersectionObserver((seen) => this.notice(seen), { rootMargin: "300px" });
    this.beforePrint = () => this.charts.forEach((chart) => this.draw(chart));
    window.addEventListener("beforeprint", this.beforePrint);
  }

  show(data, options) {
    if (this.range && options.axis !== this.options.axis) {
      this.range = null;
      options.onzoom?.(false);
    }
    const { axis, log, smoothing, dark } = options;
    const looks = JSON.stringify([axis, log, smoothing, dark]);
    const isNewLook = looks !== this.looks;
    this.looks = looks;
    this.options = options;
    const scene = new Scene(data, options);
    const figures = figuresOf(scene);
    const wanted = new Set(figures.map((figure) => figure.id));
    for (const [id, chart] of this.charts) if (!wanted.has(id)) this.remove(id, chart);
    figures.forEach((figure, index) => {
      const chart = this.charts.get(figure.id) ?? this.add(figure);
      if (this.container.children[index] !== chart.element) {
        this.container.insertBefore(chart.element, this.container.children[index] ?? null);
      }
      Object.assign(chart, { figure, scene, stale: true, pressing: chart.pressing || isNewLook });
      chart.newest.textContent = figure.newest ?? "";
      chart.unit.textContent = figure.unit;
      if (!options.lazy) this.draw(chart);
    });
    this.drawVisible();
  }

  /** One chart at a time, so that the page stays quick to answer. */
  drawVisible() {
    if (this.isDrawing) return;
    let spent = 0;
    const next = () => {
      const chart = [...this.charts.values()].find((each) => each.visible && each.stale && !isRead(each));
      this.isDrawing = Boolean(chart);
      if (!chart) {
        this.tookMilliseconds = spent;
        return;
      }
      const before = performance.now();
      try {
        this.draw(chart);
      } catch (error) {
        reportError(error); // the other charts are drawn all the same
      }
      spent += performance.now() - before;
      setTimeout(next);
    };
    next();
  }

  add(figure) {
    const make = (tag, name, text = "") => {
      const made = document.createElement(tag);
      if (name) made.className = name;
      made.textContent = text;
      return made;
    };
    const chart = {
      element: make("figure", "chart"),
      plot: make("div", "plot"),
      newest: make("span", "newest"),
      unit: make("span", "unit"),
      visible: false,
      pressing: true,
    };
    const caption = make("figcaption", "");
    const save = /** @type {HTMLButtonElement} */ (make("button", "quiet", "CSV"));
    save.type = "button";
    save.setAttribute("aria-label", `${figure.title} as CSV`);
    save.onclick = () => saveCsv(chart);
    caption.append(make("span", "title", figure.title), chart.unit, chart.newest, save);
    chart.element.append(caption, chart.plot);
    chart.element.dataset.chart = figure.id;
    chart.plot.setAttribute("role", "img");
    chart.plot.setAttribute("aria-label", figure.title);
    chart.element.addEventListener("mouseleave", () => this.drawVisible());
    this.charts.set(figure.id, chart);
    this.watcher.observe(chart.element);
    return chart;
  }

  notice(seen) {
    for (const { target, isIntersecting } of seen) {
      const chart = this.charts.get(/** @type {HTMLElement} */ (target).dataset.chart);
      if (!chart) continue;
      chart.visible = isIntersecting;
    }
    this.drawVisible();
  }

  draw(chart) {
    if (!chart.stale) return;
    chart.stale = chart.pressing = false;
    const { figure, scene } = chart;
    const layout = layoutOf(figure, scene, this.range);
    chart.plot.setAttribute("aria-label", summary(figure));
    const isFirst = !chart.plot.classList.contains("js-plotly-plot");
    globalThis.Plotly.react(chart.plot, [...figure.traces, ...scene.marks()], layout, {
      displayModeBar: false,
      displaylogo: false,
      responsive: true,
      showTips: false,
      doubleClick: false,
    });
    if (isFirst) {
      chart.plot.on("plotly_relayout", (change) => this.follow(change));
      chart.plot.on("plotly_doubleclick", () => this.zoom(null));
    }
  }

  /** Every chart shows what one was zoomed to. */
  follow(change) {
    if (change["xaxis.range[0]"] !== undefined) this.zoom([change["xaxis.range[0]"], change["xaxis.range[1]"]]);
  }

  zoom(range) {
    if (String(range) === String(this.range)) return;
    this.range = range;
    this.options.onzoom?.(range !== null);
    for (const chart of this.charts.values()) {
      chart.stale = chart.pressing = true;
      if (!this.options.lazy) this.draw(chart);
    }
    this.drawVisible();
  }

  remove(id, chart) {
    this.watcher.unobserve(chart.element);
    globalThis.Plotly.purge(chart.plot);
    chart.element.remove();
    this.charts.delete(id);
  }

  erase() {
    window.removeEventListener("beforeprint", this.beforePrint);
    this.watcher.disconnect();
    for (const [id, chart] of this.charts) this.remove(id, chart);
  }
}

/** Whether the mouse rests on a chart: to draw it anew would take away what it tells there. */
function isRead(chart) {
  return !chart.pressing && chart.plot.matches(":hover") && globalThis.matchMedia("(hover: hover)").matches;
}

/** What is to be drawn and how: finds series, and the place of a moment on the axis. */
class Scene {
  constructor(data, options) {
    this.data = { events: [], alerts: [], gpus: [], others: [], ...data };
    this.options = options;
    this.colours = options.dark ? COLOURS.dark : COLOURS.light;
    this.lines = options.dark ? LINES.dark : LINES.light;
    const known = new Map(this.data.series.map((series) => [series.name + JSON.stringify(series.labels), series]));
    this.series = [...known.values()].filter((series) => series.points.mean.length);
    // Gauges, alerts and GPUs know the time only: where that is along the steps, the longest curve of steps tells.
    this.reference = this.series
      .filter((series) => series.points.step.length)
      .reduce((best, series) => (series.points.time.length > (best?.time.length ?? 0) ? series.points : best), null);
  }

  of(name) {
    return this.series.filter((series) => series.name === name);
  }

  one(name) {
    return this.of(name)[0];
  }

  /** From where to where the axis leads, the same for all charts. */
  extent() {
    if (!this.ends) {
      const others = this.data.others.flatMap((other) => other.series);
      const ends = [...this.series, ...others].flatMap((series) => {
        const places = this.places(series.points);
        return [places[0], places.at(-1)];
      });
      const known = ends.filter((end) => Number.isFinite(end));
      const [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
      const room = (high - low || 1) * 0.01;
      this.ends = [low - room, high + room];
    }
    return this.ends;
  }

  /** @returns {any[]} the place of each point on the axis */
  places(points) {
    const { axis } = this.options;
    if (axis === "time") return points.time.map(localMilliseconds);
    return points[axis].length ? points[axis] : points.time.map((time) => this.place(time));
  }

  place(time, step = null) {
    const { axis } = this.options;
    if (axis === "time") return localMilliseconds(time);
    if (axis === "step" && step !== null) return step;
    if (!this.reference) return null;
    const times = this.reference.time;
    let [low, high] = [0, times.length - 1];
    if (time < times[0] || time > times[high] + 60) return null;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (times[middle] < time) low = middle + 1;
      else high = middle;
    }
    return this.reference[axis][low];
  }

  /** Vertical lines for what happened, on a second y axis from 0 to 1; made once for all charts. */
  marks() {
    this.made ??= this.makeMarks();
    return this.made;
  }

  makeMarks() {
    const kinds = new Map();
    const mark = (kind, time, step, text, colour = MARKS[kind][0]) => {
      const x = this.place(time, step);
      if (x === null) return;
      const key = kind + colour;
      if (!kinds.has(key)) kinds.set(key, { kind, colour, x: [], y: [], text: [] });
      const found = kinds.get(key);
      if (found.x.length >= 3 * MOST_MARKS) return;
      found.x.push(x, x, null);
      found.y.push(0, 1, null);
      found.text.push(text, text, "");
    };
    for (const event of this.data.events) {
      if (!(event.kind in MARKS)) continue;
      if (event.kind === "state" && event.fields.before === null) continue;
      if (event.rank && event.kind !== "exception" && event.kind !== "oom") continue; // each rank tells of its own
      const isBad = event.kind === "state" && BAD.includes(event.fields.state);
      const text = [event.kind, event.step === null ? "" : `step ${number(event.step)}`, eventText(event)];
      mark(
        event.kind,
        event.at,
        event.step,
        plain(text.filter(Boolean).join(" · ").slice(0, 120)),
        isBad ? "#dd3344" : undefined,
      );
    }
    for (const alert of this.data.alerts) {
      const text = `alert ${alert.labels.alertname ?? ""} · ${alert.annotations.summary ?? alert.status}`;
      mark("alert", alert.starts_at, null, plain(text.slice(0, 120)));
    }
    return [...kinds.values()].map(({ kind, colour, x, y, text }) => ({
      type: "scatter",
      mode: "lines",
      name: kind,
      x,
      y,
      hovertext: text,
      hoverinfo: "text",
      yaxis: "y2",
      showlegend: false,
      line: { color: colour, width: 1.2, dash: MARKS[kind][1] },
      opacity: ROUTINE.includes(kind) ? 0.4 : 0.9,
    }));
  }
}

/** Each {id, title, unit, traces, sources, newest, ...}: what is known of the run, in the order of interest. */
function figuresOf(scene) {
  return [
    lossOf(scene),
    curveOf(scene, "perplexity", "Perplexity", ""),
    throughputOf(scene),
    phasesOf(scene),
    curveOf(scene, "learning_rate", "Learning rate", ""),
    curveOf(scene, "gradient_norm", "Gradient norm", ""),
    stepTimeOf(scene),
    memoryOf(scene),
    hostMemoryOf(scene),
    ...gpusOf(scene),
    ...scalarsOf(scene),
  ].filter(Boolean);
}

function lossOf(scene) {
  const figure = curveOf(scene, "loss", "Loss", "", "training");
  const validation = scene.one("validation_loss");
  if (!figure || !validation) return figure;
  const own = line(scene, validation, "validation", scene.colours.second);
  figure.traces.push({
    ...own,
    mode: "lines+markers",
    marker: { size: 6, symbol: "diamond" },
    line: { ...own.line, dash: "dot" },
  });
  figure.sources.push(["validation", validation]);
  figure.legend = true;
  return figure;
}

function curveOf(scene, name, title, unit, label = "") {
  const own = scene.one(name);
  if (!own) return null;
  const others = scene.data.others
    .map((other) => [other.run, other.series.find((series) => series.name === name)])
    .filter(([, series]) => series?.points.mean.length);
  const mine = others.length ? scene.data.run.run : label || title;
  const traces = smoothed(scene, own, mine, scene.colours.main, true);
  others.forEach(([run, series], index) =>
    traces.push(...smoothed(scene, series, run, scene.lines[2 + (index % 6)], false)),
  );
  const last = own.points.mean.at(-1);
  return {
    id: name,
    title,
    unit,
    traces,
    sources: [[mine, own], ...others],
    newest: number(last),
    canLog: true,
    legend: others.length > 0,
  };
}

function throughputOf(scene) {
  const figure =
    curveOf(scene, "tokens_per_second", "Throughput", "tokens/s") ??
    curveOf(scene, "samples_per_second", "Throughput", "samples/s");
  if (!figure) return null;
  return { ...figure, newest: compact(figure.sources[0][1].points.mean.at(-1)), fromZero: true, tickformat: "~s" };
}

/** Half a percent of the time as a rule, or much of it once. */
function isWorthSeeing(shares) {
  const sum = shares.reduce((total, share) => total + share, 0);
  return sum > 0.005 * shares.length || shares.some((share) => share > 0.1);
}

function phasesOf(scene) {
  const shares = Object.keys(PHASES)
    .map((phase) => [phase, scene.one(`phase_${phase}_ratio`)])
    .filter(([, series]) => series && isWorthSeeing(series.points.mean));
  if (!shares.length) return null;
  const traces = shares.map(([phase, series]) => ({
    ...line(scene, series, phase, PHASES[phase]),
    stackgroup: "phases",
    fillcolor: `${PHASES[phase]}cc`,
    line: { width: 0.5, color: PHASES[phase] },
    y: series.points.mean,
    yhoverformat: ".1%",
  }));
  const greatest = shares.reduce((best, each) =>
    each[1].points.mean.at(-1) > best[1].points.mean.at(-1) ? each : best,
  );
  const newest = `${greatest[0]} ${percent(greatest[1].points.mean.at(-1))}`;
  return {
    id: "phases",
    title: "Phases",
    unit: "share of time",
    traces,
    sources: shares,
    newest,
    legend: true,
    range: [0, 1],
    tickformat: ".0%",
  };
}

function stepTimeOf(scene) {
  const ranks = scene.of("step_seconds").sort((a, b) => Number(a.labels.rank ?? 0) - Number(b.labels.rank ?? 0));
  if (ranks.length === 1 && scene.data.run.world_size === 1) {
    const figure = curveOf(scene, "step_seconds", "Step time", "s");
    return { ...figure, newest: duration(ranks[0].points.mean.at(-1)), fromZero: true };
  }
  return perRank(scene, "step_seconds", "Step time by rank", "s", ranks, 1, duration);
}

function memoryOf(scene) {
  const kinds = [
    ["allocated", "solid"],
    ["reserved", "dot"],
  ];
  const found = kinds.flatMap(([kind, dash]) =>
    scene.of(`training_cuda_memory_${kind}_bytes`).map((series) => ({ kind, dash, series })),
  );
  if (!found.length) return null;
  const traces = found.map(({ kind, dash, series }) => {
    const drawn = line(scene, series, `rank ${series.labels.rank} ${kind}`, rankColour(scene, series.labels.rank), GIB);
    return { ...drawn, line: { ...drawn.line, dash } };
  });
  const most = Math.max(...found.map(({ series }) => series.points.mean.at(-1)));
  const sources = found.map(({ kind, series }) => [`rank ${series.labels.rank} ${kind}`, series]);
  return {
    id: "memory",
    title: "GPU memory of the trainer",
    unit: "GiB",
    traces,
    sources,
    newest: bytes(most),
    fromZero: true,
    legend: true,
  };
}

function hostMemoryOf(scene) {
  const found = scene.of("training_host_memory_bytes");
  const isSmall = found.every(({ points }) => Math.max(...points.max) < GIB);
  return perRank(scene, "host", "Host memory", isSmall ? "MiB" : "GiB", found, isSmall ? MIB : GIB, bytes);
}

function perRank(scene, id, title, unit, found, scale, words) {
  if (!found.length) return null;
  const name = (series) => `rank ${series.labels.rank ?? 0}`;
  const traces = found.map((series) => line(scene, series, name(series), rankColour(scene, series.labels.rank), scale));
  const most = Math.max(...found.map((series) => series.points.mean.at(-1)));
  const newest = found.length > 1 ? `${words(most)} at most` : words(most);
  return {
    id,
    title,
    unit,
    traces,
    sources: found.map((series) => [name(series), series]),
    newest,
    fromZero: true,
    canLog: id === "step_seconds",
    legend: true,
  };
}

function gpusOf(scene) {
  const kinds = [
    ["nvidia_gpu_utilization_percent", "GPU utilization", "%", 1, (value) => `${Math.round(value)} %`, [0, 100]],
    ["nvidia_gpu_memory_used_bytes", "GPU memory in use", "GiB", GIB, bytes, null],
    ["nvidia_gpu_power_watts", "GPU power", "W", 1, (value) => `${Math.round(value)} W`, null],
  ];
  return kinds.map(([name, title, unit, scale, words, range]) => {
    const found = scene.data.gpus
      .map((gpu) => [gpu, gpu.series.find((series) => series.name === name)])
      .filter(([, series]) => series?.points.mean.length);
    if (!found.length) return null;
    const label = ([gpu]) => `rank ${gpu.rank} ${gpu.gpu_uuid}`;
    const traces = found.map(([gpu, series]) =>
      line(scene, series, `rank ${gpu.rank}`, rankColour(scene, gpu.rank), scale),
    );
    const least = Math.min(...found.map(([, series]) => series.points.mean.at(-1)));
    const newest = found.length > 1 ? `${words(least)} at least` : words(least);
    return {
      id: name,
      title,
      unit,
      traces,
      sources: found.map((each) => [label(each), each[1]]),
      newest,
      range,
      fromZero: true,
      legend: true,
    };
  });
}

function scalarsOf(scene) {
  const named = [...scene.of("training_accuracy"), ...scene.of("training_scalar")];
  const first = named.filter((series) => !Number(series.labels.rank)).slice(0, 12);
  return first.map((series) => {
    const title = series.labels.name ?? "accuracy";
    return {
      id: `scalar ${title}`,
      title,
      unit: "",
      traces: [line(scene, series, title, scene.colours.main)],
      sources: [[title, series]],
      newest: number(series.points.mean.at(-1)),
      canLog: true,
    };
  });
}

/** A curve with its band from least to greatest; faint below its exponential mean where that is asked for. */
function smoothed(scene, series, name, colour, withBand) {
  const { smoothing } = scene.options;
  const raw = line(scene, series, name, colour);
  const traces = withBand ? band(raw, series.points, colour) : [];
  if (!smoothing) return [...traces, raw];
  const faint = { ...raw, opacity: 0.3, hoverinfo: "skip", showlegend: false };
  return [
    ...traces,
    faint,
    { ...raw, y: exponentialMean(raw.y, smoothing), name: `${raw.name}, smoothed`, line: { ...raw.line, width: 2 } },
  ];
}

function band(raw, points, colour) {
  if (points.mean.every((mean, index) => points.min[index] === mean && points.max[index] === mean)) return [];
  const edge = { ...raw, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
  const low = broken(points, points.min);
  return [
    { ...edge, y: low },
    { ...edge, y: broken(points, points.max), fill: "tonexty", fillcolor: `${colour}2e` },
  ];
}

function line(scene, series, name, colour, scale = 1) {
  const { points } = series;
  const y = scale === 1 ? points.mean : points.mean.map((value) => value / scale);
  return {
    type: "scatter",
    mode: points.mean.length === 1 ? "markers" : "lines",
    name: plain(name),
    x: broken(points, scene.places(points)),
    y: broken(points, y),
    line: { color: colour, width: 1.6 },
    marker: { color: colour },
    connectgaps: false,
    hoverinfo: "all",
  };
}

/** The column with a gap between attempts, so that no line leads over the time in between. */
function broken(points, column) {
  const { attempt } = points;
  if (!attempt.length || attempt[0] === attempt.at(-1)) return column;
  return column.flatMap((value, index) => (index && attempt[index] !== attempt[index - 1] ? [null, value] : [value]));
}

/** The first values weigh less in it, so that it does not begin at 0. */
function exponentialMean(values, smoothing) {
  let [sum, weight] = [0, 0];
  return values.map((value) => {
    if (value === null) return null;
    sum = sum * smoothing + value * (1 - smoothing);
    weight = weight * smoothing + 1 - smoothing;
    return sum / weight;
  });
}

function rankColour(scene, rank) {
  return scene.lines[Number(rank ?? 0) % scene.lines.length];
}

/** Plotly's dates have no zone: the moment as the milliseconds of a clock on the wall here. */
function localMilliseconds(time) {
  return time * 1000 - new Date(time * 1000).getTimezoneOffset() * 60000;
}

function layoutOf(figure, scene, range) {
  const { colours, options } = scene;
  const isLog = options.log && figure.canLog;
  const drawn = figure.traces.filter((trace) => trace.showlegend !== false).length;
  const axis = {
    gridcolor: colours.grid,
    zeroline: false,
    linecolor: colours.grid,
    tickcolor: colours.grid,
    automargin: true,
  };
  const x = {
    time: { type: "date", hoverformat: "%a %d %b %H:%M:%S" },
    step: { type: "linear", tickformat: "~s", hoverformat: ",d", ticklabeloverflow: "hide past div" },
    tokens: { type: "linear", tickformat: "~s", hoverformat: ".4~s" },
  }[options.axis];
  const touch = globalThis.matchMedia?.("(pointer: coarse)").matches;
  return {
    autosize: true,
    margin: { l: 8, r: 12, t: figure.legend ? 26 : 8, b: 8 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", size: 11.5, color: colours.text },
    xaxis: { ...axis, ...x, nticks: 6, showgrid: false, range: [...(range ?? scene.extent())], showspikes: false },
    yaxis: {
      ...axis,
      type: isLog ? "log" : "linear",
      fixedrange: true,
      nticks: 5,
      hoverformat: ".4~g",
      tickformat: figure.tickformat ?? "",
      exponentformat: "e",
      ...(isLog
        ? { dtick: spansDecades(figure) ? 1 : undefined }
        : figure.range
          ? { range: figure.range }
          : { rangemode: figure.fromZero ? "tozero" : "normal" }),
    },
    yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
    hovermode: "x unified",
    hoverlabel: { bgcolor: colours.paper, bordercolor: colours.grid, font: { color: colours.text }, namelength: 40 },
    dragmode: touch ? false : "zoom",
    selectdirection: "h",
    showlegend: Boolean(figure.legend) && drawn > 1 && drawn <= 9,
    legend: {
      orientation: "h",
      traceorder: "normal",
      x: 0,
      y: 1,
      yanchor: "bottom",
      font: { size: 11 },
      itemwidth: 30,
    },
  };
}

function spansDecades(figure) {
  const values = figure.sources.flatMap(([, series]) => series.points.mean).filter((value) => value > 0);
  return Math.max(...values) / Math.min(...values) > 100;
}

/** What the chart says, for who cannot see it. */
function summary(figure) {
  const told = figure.sources.slice(0, 4).map(([name, series]) => {
    const { mean, time } = series.points;
    const known = mean.filter((value) => value !== null);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    return `${name}: newest ${number(mean.at(-1))} at ${moment(time.at(-1))}, from ${number(low)} to ${number(high)}`;
  });
  const more = figure.sources.length - told.length;
  return `Chart of ${figure.title}${figure.unit ? ` in ${figure.unit}` : ""}. ${told.join("; ")}${more > 0 ? `; and ${more} more` : ""}.`;
}

/** Every point of a chart in the units of the API. */
function saveCsv({ figure, scene }) {
  const quoted = (text) =>
    `"${String(text)
      .replaceAll('"', '""')
      .replace(/^[=+\-@]/, "'$&")}"`;
  const rows = ["curve,series,unit,time,step,tokens,attempt,mean,min,max"];
  for (const [name, { name: series, unit, points }] of figure.sources) {
    points.time.forEach((time, index) => {
      const columns = ["step", "tokens", "attempt", "mean", "min", "max"].map((column) => points[column][index] ?? "");
      rows.push([quoted(name), series, unit, time, ...columns].join(","));
    });
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${rows.join("\n")}\n`], { type: "text/csv" }));
  link.download = `${scene.data.run.run.replace(/[^A-Za-z0-9_.-]/g, "_")}-${figure.id.replace(/[^A-Za-z0-9_.-]/g, "_")}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
