// The axis of time, for the panels that Grafana's components do not draw.

import { dateTime, dateTimeFormat } from '@grafana/data';
import { measureText } from '@grafana/ui';

export const TIME_AXIS_PIXELS = 24;

const [SECOND, MINUTE, HOUR, DAY] = [1000, 60_000, 3_600_000, 86_400_000];
const STEPS = [
  ...[1, 5, 10, 15, 30].map((count) => count * SECOND),
  ...[1, 2, 5, 10, 15, 30].map((count) => count * MINUTE),
  ...[1, 2, 3, 4, 6, 8, 12].map((count) => count * HOUR),
  ...[1, 2, 7, 14, 30, 90].map((count) => count * DAY),
];
const LABEL_PIXELS = 70;
const FONT_PIXELS = 12;

export function timeRangeOf({ start, end }) {
  const from = dateTime(start);
  const to = dateTime(end);
  return { from, to, raw: { from, to } };
}

export function ticksOf({ start, end }, width) {
  const least = ((end - start) * LABEL_PIXELS) / width;
  const step = STEPS.find((one) => one >= least) ?? STEPS.at(-1);
  const format = step < MINUTE ? 'HH:mm:ss' : step >= DAY ? 'MM/DD' : end - start > DAY ? 'MM/DD HH:mm' : 'HH:mm';
  const ticks = [];
  for (let time = Math.ceil(start / step) * step; time <= end; time += step) {
    ticks.push({ time, text: dateTimeFormat(time, { timeZone: 'utc', format }) });
  }
  return ticks;
}

function half(text) {
  return measureText(text, FONT_PIXELS).width / 2;
}

// Grid lines through `height` pixels above, and the times below them; `x` places a time.
export function TimeAxis({ window, width, left, top, height, x, theme }) {
  return ticksOf(window, width).map(({ time, text }) => (
    <g key={time}>
      <line x1={x(time)} x2={x(time)} y1={top} y2={top + height} stroke={theme.colors.border.weak} />
      <text
        x={Math.min(Math.max(left + half(text), x(time)), left + width - half(text))}
        y={top + height + 17}
        textAnchor="middle"
        fontSize={FONT_PIXELS}
        fill={theme.colors.text.primary}
      >
        {text}
      </text>
    </g>
  ));
}

// The dashed lines of annotations, through `height` pixels.
export function TimeMarks({ events, window, top, height, x, theme }) {
  return events
    .filter(({ time }) => time >= window.start && time <= window.end)
    .map(({ time, color, title }, place) => (
      <line
        key={`${time} ${title} ${place}`}
        x1={x(time)}
        x2={x(time)}
        y1={top}
        y2={top + height}
        stroke={theme.visualization.getColorByName(color)}
        strokeDasharray="5 5"
      />
    ));
}
