// Numbers, times and labels as text. No imports: a report embeds this file as it is.

const DAY = 86400;

/** @param {number|null|undefined} value @returns {string} four significant digits; "–" where unknown */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e9)) return value.toExponential(2).replace("e+", "e");
  if (size >= 1000) return Math.round(value).toLocaleString("en-GB");
  return String(Number(value.toPrecision(4)));
}

/** @param {number|null|undefined} value @returns {string} such as 12.3k */
export function compact(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  for (const [size, letter] of /** @type {[number, string][]} */ ([
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ])) {
    if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(3))}${letter}`;
  }
  return String(Number(value.toPrecision(3)));
}

/** @param {number|null|undefined} value */
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, value)) / 10));
  return `${Number((value / 1024 ** power).toPrecision(3))} ${units[power]}`;
}

/** @param {number|null|undefined} ratio */
export function percent(ratio) {
  if (ratio === null || ratio === undefined) return "–";
  return ratio > 0.99 && ratio < 1 ? "99 %" : `${Math.round(ratio * 100)} %`;
}

/** @param {number|null|undefined} seconds @returns {string} the two greatest units */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const s = Math.max(0, Math.round(seconds));
  if (seconds > 0 && seconds < 1) return `${number(seconds * 1000)} ms`;
  if (s < 60) return `${s} s`;
  if (s < 600) return s % 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${s / 60} min`;
  if (s < 3600) return `${Math.round(s / 60)} min`;
  const minutes = Math.round(s / 60);
  if (s < DAY) return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
  const hours = Math.round(s / 3600);
  return hours % 24 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : `${hours / 24} d`;
}

/** @param {number} seconds */
export function ago(seconds) {
  if (seconds < 2) return "just now";
  return seconds < 59.5 ? `${Math.round(seconds)} s ago` : `${duration(seconds).replace(/ min \d+ s$/, " min")} ago`;
}

/** @param {number} at @param {number} now both unix seconds @returns {string} the local time; with its day where that is another */
export function clock(at, now) {
  const moment = new Date(at * 1000);
  const time = moment.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  if (moment.toDateString() === new Date(now * 1000).toDateString()) return time;
  const near = Math.abs(at - now) < 6 * DAY;
  const day = near ? { weekday: "short" } : { day: "numeric", month: "short", year: "numeric" };
  return `${moment.toLocaleDateString("en-GB", /** @type {any} */ (day))} ${time}`;
}

/** @param {number} at unix seconds @returns {string} the local time to the second, with its zone */
export function moment(at) {
  return new Date(at * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "long" });
}

/** The words for what an event says further. @param {{kind: string, fields: Record<string, any>}} event */
export function eventText(event) {
  const { fields } = event;
  if (event.kind === "state")
    return [`${fields.before ?? "new"} → ${fields.state}`, fields.reason].filter(Boolean).join(", ");
  const told = { seconds: duration, duration_seconds: duration, bytes };
  return Object.entries(fields)
    .filter(([, value]) => value !== null && value !== "")
    .map(([name, value]) => {
      if (name in told && typeof value === "number") return told[name](value);
      const text = typeof value === "number" ? number(value) : String(value);
      return ["type", "place", "reason", "name", "stage"].includes(name)
        ? text
        : `${name.replaceAll("_", " ")} ${text}`;
    })
    .join(", ");
}

/** A text for plotly, which takes tags and entities for what they are in HTML. @param {string} text */
export function plain(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
