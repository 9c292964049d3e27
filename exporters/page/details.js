// What is told of a run in words and tables: made anew from the newest data, but only where that has changed.

import { badge, bar, el, icon, notice } from "./dom.js";
import { ago, clock, compact, duration, eventText, moment, number, percent } from "./format.js";

export const OVER = ["finished", "failed", "killed", "aborted"];
export const BAD = ["stalled", "failed", "killed"];
const MOST_TOLD = 200;

/** New content where what it says has changed: what is clicked, focused or selected stays. */
function renew(element, key, make) {
  const text = JSON.stringify(key);
  if (element.dataset.key === text) return;
  element.dataset.key = text;
  element.replaceChildren(...make());
}

/** A time that goes on: see main.js. */
function since(at, now, as = "ago") {
  const seconds = now - at;
  return el("span", { "data-since": at, "data-as": as }, as === "ago" ? ago(seconds) : duration(seconds));
}

/** @param {any} run @returns {string} why it is what it is */
export function reasonOf(run) {
  if (run.state === "stalled") return `${duration(run.silent_seconds)} without progress`;
  if (run.acknowledged && run.state !== "aborted") return "acknowledged";
  return (run.reason ?? run.failure?.type ?? "").replaceAll("_", " ");
}

/** @param {any} run @returns {string} */
export function stepText(run) {
  return `step ${number(run.step)}${run.steps_expected ? ` of ${number(run.steps_expected)}` : ""}`;
}

/** Name, state, what went wrong, progress and the newest numbers. */
export class Head {
  /** @param {(isOver: boolean) => void} onabort */
  constructor(onabort) {
    this.onabort = onabort;
    this.name = el("div", { class: "name" });
    this.trouble = el("div");
    this.progress = el("div", { class: "progress" });
    this.figures = el("dl", { class: "figures" });
    this.element = el("div", { class: "head" }, this.name, this.trouble, this.progress, this.figures);
  }

  /** @param {any} run @param {any} progress null while it is not known @param {number} now unix seconds */
  show(run, progress, now) {
    const isOver = OVER.includes(run.state);
    const isBad = BAD.includes(run.state) && !run.acknowledged;
    this.element.className = `head is-${run.state}`;
    renew(this.name, [run.state, run.reason, run.acknowledged?.by], () => [
      el("h1", {}, el("bdi", {}, run.run)),
      badge(run.state),
      el("span", { class: "sub" }, isBad ? "" : reasonOf(run)),
      this.action(run),
    ]);
    const silence = run.state === "stalled" ? Math.round(run.silent_seconds / 5) : null;
    renew(this.trouble, [isBad, run.state, run.ended_at, run.failure, silence], () =>
      isBad || run.failure ? [trouble(run, now)] : [],
    );
    const ratio = run.progress_ratio ?? (isOver ? 0 : null);
    renew(this.progress, [ratio, run.step, run.steps_expected], () => [
      bar("Progress", ratio),
      el(
        "div",
        { class: "numbers" },
        el("span", { class: "strong" }, percent(run.progress_ratio)),
        el("span", { class: "sub" }, stepText(run)),
      ),
    ]);
    const figures = figuresOf(run, progress, now);
    renew(
      this.figures,
      figures.map(([name, value, more]) => [name, value?.dataset?.since ?? value, more]),
      () =>
        figures.map(([name, value, more, isTrouble]) =>
          el(
            "div",
            {},
            el("dt", {}, name),
            el("dd", {}, value),
            el("dd", { class: isTrouble ? "sub trouble" : "sub" }, more),
          ),
        ),
    );
  }

  action(run) {
    if (run.acknowledged) return el("span", { class: "sub" }, `acknowledged by ${run.acknowledged.by}`);
    if (run.state === "finished" || run.state === "aborted") return "";
    const isOver = OVER.includes(run.state);
    const looks = { type: "button", class: isOver ? "quiet" : "danger", onclick: () => this.onabort(isOver) };
    return el("button", looks, isOver ? "Acknowledge" : "Abort …");
  }
}

/** Each [name, value, more, isTrouble]. */
function figuresOf(run, progress, now) {
  const isOver = OVER.includes(run.state);
  const ends = run.state === "running" && run.eta_seconds !== null ? now + run.eta_seconds : null;
  const isLate = ends !== null && run.deadline_at !== null && ends > run.deadline_at;
  const elapsed = isOver ? duration(run.ended_at - run.started_at) : since(run.started_at, now, "duration");
  const best = run.validation_loss_best;
  const known = run.ranks_known < run.world_size ? `${run.ranks_known} known here` : "";
  return [
    ends !== null && ["Time left", duration(run.eta_seconds), `at ${clock(ends, now)}${rangeText(progress)}`],
    run.deadline_at !== null && [
      "Deadline",
      clock(run.deadline_at, now),
      isOver ? "" : isLate ? "too late for it" : "on track",
      isLate,
    ],
    [isOver ? "Took" : "Running for", elapsed, `since ${clock(run.started_at, now)}`],
    !isOver && ["Phase", run.phase ?? "–", progress?.stage ? `stage ${progress.stage}` : ""],
    ["Loss", number(run.loss), run.perplexity === null ? "" : `perplexity ${number(run.perplexity)}`],
    run.validation_loss !== null && [
      "Validation loss",
      number(run.validation_loss),
      best === null ? "" : `best ${number(best)}`,
    ],
    run.tokens_per_second !== null && ["Throughput", compact(run.tokens_per_second), "tokens/s"],
    run.epoch !== null && ["Epoch", number(run.epoch), run.epochs_expected ? `of ${number(run.epochs_expected)}` : ""],
    ["Ranks", number(run.world_size), known],
    run.attempt > 1 && [
      "Attempt",
      number(run.attempt),
      run.resumed_from_step ? `from step ${number(run.resumed_from_step)}` : "",
    ],
  ].filter(Boolean);
}

function rangeText(progress) {
  const [least, most] = [progress?.eta_least_seconds ?? null, progress?.eta_most_seconds ?? null];
  return least === null || most === null || most - least <= 1 ? "" : `, ${duration(least)} to ${duration(most)}`;
}

/** What went wrong, when, and where. */
function trouble(run, now) {
  const { failure, ended_at: ended } = run;
  const isDead = BAD.includes(run.state) && run.state !== "stalled";
  const worst = run.ranks.filter((each) => each.state === run.state).sort((a, b) => a.ended_at - b.ended_at);
  const rank = run.ranks.find((each) => each.rank === run.first_silent_rank) ?? worst[0] ?? run.ranks[0];
  const place = rank && `rank ${rank.rank} of ${run.world_size} on ${rank.node}, phase ${rank.phase}, ${stepText(run)}`;
  const what = {
    stalled: `No progress for ${duration(run.silent_seconds)}`,
    killed: `Killed${run.reason ? ` (${run.reason})` : ""}${ended ? `, last sign of life at ${clock(ended, now)}` : ""}`,
    failed: `Failed${ended ? ` at ${clock(ended, now)}` : ""}`,
  }[run.state];
  const isFirst = run.state === "stalled" && run.first_silent_rank !== null;
  return el(
    "div",
    { class: `panel is-${run.state}` },
    icon(run.state),
    el(
      "div",
      {},
      el("p", { class: "strong" }, what ?? "The last exception", ...(isDead && ended ? [", ", since(ended, now)] : [])),
      failure &&
        el(
          "p",
          {},
          el("code", {}, failure.type),
          failure.place && " in ",
          failure.place && el("code", {}, failure.place),
        ),
      failure?.message && el("p", {}, failure.message),
      place && el("p", { class: "sub" }, isFirst ? `Silent first: ${place}` : place),
    ),
  );
}

const COLUMNS = ["Rank", "Node", "State", "Phase", "In it for", "Last step", "Attempt"];

/** Ranks and facts of a run. */
export class Tables {
  constructor() {
    this.ranks = el("tbody");
    this.facts = el("dl", { class: "facts" });
    const head = el("thead", {}, el("tr", {}, ...COLUMNS.map((name) => el("th", { scope: "col" }, name))));
    this.elements = [
      el(
        "section",
        { class: "card" },
        el("h2", {}, "Ranks"),
        el(
          "div",
          { class: "scroll", tabindex: 0, role: "region", "aria-label": "Ranks" },
          el("table", { class: "plain" }, head, this.ranks),
        ),
      ),
      el("section", { class: "card" }, el("h2", {}, "Environment"), this.facts),
    ];
  }

  show(run, now) {
    const told = run.ranks.map(({ silent_seconds: _, last_progress_at: __, ...rank }) => rank);
    renew(this.ranks, told, () => run.ranks.map((rank) => rankRow(rank, run, now)));
    renew(this.facts, run.info, () => {
      const facts = Object.entries(run.info).filter(([, text]) => text);
      if (!facts.length) return [el("div", {}, el("dt", {}, "Nothing was told."), el("dd", {}, ""))];
      return facts.map(([name, text]) =>
        el("div", {}, el("dt", {}, name.replaceAll("_", " ")), el("dd", {}, el("bdi", {}, text))),
      );
    });
  }
}

function rankRow(rank, run, now) {
  const isOver = OVER.includes(rank.state);
  const isFirst = rank.rank === run.first_silent_rank;
  const inIt = isOver ? duration((rank.ended_at ?? now) - rank.phase_since) : since(rank.phase_since, now, "duration");
  const stepped = rank.last_step_at > rank.started_at;
  const last = isOver ? clock(rank.last_step_at, now) : since(rank.last_step_at, now);
  const cells = [
    String(rank.rank),
    el("bdi", {}, rank.node),
    el(
      "span",
      {},
      badge(rank.state),
      " ",
      el("span", { class: "sub" }, isFirst ? "silent first" : (rank.reason ?? "")),
    ),
    rank.phase,
    inIt,
    stepped ? last : "none yet",
    String(rank.attempt),
  ];
  return el("tr", { class: isFirst ? "is-first" : "" }, ...cells.map((cell) => el("td", {}, cell)));
}

/** Events and alerts, the newest first. @param {any} run @param {any[]} events @param {any[]} alerts @param {number} now */
export function listsOf(run, events, alerts, now) {
  const happened = events.slice(0, MOST_TOLD).map((event) => {
    const isBad =
      ["exception", "oom", "fail"].includes(event.kind) || (event.kind === "state" && BAD.includes(event.fields.state));
    const rank = event.rank === null || run.world_size === 1 ? "" : `rank ${event.rank}`;
    const step = event.step === null ? "" : `step ${number(event.step)}`;
    return item(event.at, event.kind, [step, rank, eventText(event)], isBad, now);
  });
  const warned = alerts.map((alert) => {
    const told = [alert.labels.alertname, alert.annotations.summary];
    return item(alert.starts_at ?? alert.received_at, alert.status, told, alert.status === "firing", now);
  });
  return [
    card("Events", happened, "Nothing has happened yet."),
    card("Alerts", warned, "Alertmanager has sent none for this run."),
  ];
}

function item(at, kind, words, isBad, now) {
  return el(
    "li",
    { class: isBad ? "is-bad" : "" },
    el("time", { title: moment(at) }, clock(at, now)),
    el("span", { class: "kind" }, kind),
    el("span", {}, words.filter(Boolean).join(" · ")),
  );
}

function card(title, items, none) {
  return el(
    "section",
    { class: "card" },
    el("h2", {}, title),
    items.length
      ? el("ol", { class: "happened scroll", tabindex: 0, "aria-label": title }, ...items)
      : el("p", { class: "hint" }, none),
  );
}

/** @param {string} name @param {string[]} known */
export function notFound(name, known) {
  const links = known.map((each) =>
    el("li", {}, el("a", { href: `#/runs/${encodeURIComponent(each)}` }, el("bdi", {}, each))),
  );
  return notice(
    "There is no such run",
    el(
      "p",
      {},
      "Nothing is known of ",
      el("bdi", { class: "strong" }, name),
      ". Its history may have been deleted by age; a run that is about to begin appears here when it does.",
    ),
    links.length ? el("ul", {}, ...links) : null,
    el("p", {}, el("a", { href: "#/" }, "All runs")),
  );
}
