// Heatmap: a column for each moment, a line for each bucket of a histogram or for each series.

import {
  FieldType,
  formattedValueToString,
  getDisplayProcessor,
  getFieldDisplayName,
  outerJoinDataFrames,
} from '@grafana/data';
import { measureText } from '@grafana/ui';
import * as chromatic from 'd3-scale-chromatic';
import { useLayoutEffect, useRef } from 'react';

import { TIME_AXIS_PIXELS, TimeAxis, TimeMarks } from '../timeAxis.jsx';

const FONT_PIXELS = 12;
const SCALE_PIXELS = 36;
const LABEL_PIXELS = 18;
// Grafana turns these around in the theme named, so that few is near the ground and many stands out.
const TURNED = {
  dark: new Set(['Blues', 'Greens', 'Greys', 'Oranges', 'Purples', 'Reds', 'BuGn', 'BuPu', 'GnBu', 'OrRd', 'PuBu',
    'PuBuGn', 'PuRd', 'RdPu', 'YlGn', 'YlGnBu', 'YlOrBr', 'YlOrRd']),
  light: new Set(['Turbo', 'Cividis', 'Viridis', 'Magma', 'Inferno', 'Plasma', 'Warm', 'Cool', 'Cubehelix']),
};
const ALWAYS_TURNED = new Set(['BrBG', 'PiYG', 'PRGn', 'PuOr', 'RdBu', 'RdGy', 'RdYlBu', 'RdYlGn', 'Spectral',
  'Rainbow', 'Sinebow']);

export function HeatmapPanel({ options, data, window, annotations, theme, width, height }) {
  const frame = data.length > 1 ? outerJoinDataFrames({ frames: data, keepDisplayNames: true }) : data[0];
  const times = frame.fields.find((field) => field.type === FieldType.time);
  const buckets = frame.fields.filter((field) => field.type === FieldType.number);
  if (!times || !buckets.length) {
    throw new Error('a heatmap needs a field of time, and a field of numbers for each bucket or series');
  }
  const least = options.filterValues?.le ?? 1e-9;
  const counted = buckets.flatMap((bucket) => bucket.values).filter((value) => value !== null && value > least);
  const low = options.color?.min ?? Math.min(...counted, Infinity);
  const high = options.color?.max ?? Math.max(...counted, -Infinity);
  const color = colorOf(options.color ?? {}, low, high, theme);

  const names = buckets.map((bucket) => getFieldDisplayName(bucket, frame));
  const bounds = names.every((name) => name === '+Inf' || Number.isFinite(Number(name)));
  const labels = bounds ? boundLabels(names, options.yAxis ?? {}, theme) : names;
  const left = Math.max(...labels.map((label) => measureText(label, FONT_PIXELS).width)) + 12;
  const shown = options.legend?.show ?? true;
  const plot = height - TIME_AXIS_PIXELS - (shown ? SCALE_PIXELS : 0);
  const line = plot / buckets.length;
  const every = Math.ceil(LABEL_PIXELS / line);
  const x = (time) => left + ((time - window.start) / (window.end - window.start)) * (width - left - 4);
  const y = (place) => plot - (options.yAxis?.reverse ? buckets.length - place : place) * line;

  const canvas = useRef(null);
  useLayoutEffect(() => {
    const context = canvas.current.getContext('2d');
    const gap = options.cellGap ?? 1;
    const step = times.config.interval ?? times.values[1] - times.values[0];
    context.clearRect(0, 0, width, height);
    buckets.forEach((bucket, place) => {
      const top = Math.min(y(place), y(place + 1));
      bucket.values.forEach((value, column) => {
        if (value === null || !(value > least)) {
          return;
        }
        const start = Math.max(left, x(times.values[column]));
        const end = Math.min(width - 4, x(times.values[column] + step));
        context.fillStyle = color(value);
        context.fillRect(start, top, Math.max(1, end - start - gap), Math.max(1, line - gap));
      });
    });
  });

  return (
    <div style={{ position: 'relative', width, height }}>
      <canvas ref={canvas} width={width} height={height} style={{ position: 'absolute' }} />
      <svg
        width={width}
        height={height}
        style={{ position: 'absolute', fontFamily: theme.typography.fontFamily, fontSize: FONT_PIXELS }}
      >
        <TimeAxis window={window} width={width - left} left={left} top={0} height={plot} x={x} theme={theme} />
        {labels.map((label, place) =>
          place % every === 0 ? (
            <text
              key={label}
              x={left - 8}
              // A bound is where its bucket ends; a name is for all of the line.
              y={Math.max(6, y(place + (bounds ? 1 : 0.5)))}
              textAnchor="end"
              dominantBaseline="central"
              fill={theme.colors.text.primary}
            >
              {label}
            </text>
          ) : null,
        )}
        <TimeMarks events={annotations} window={window} top={0} height={plot} x={x} theme={theme} />
        {shown && counted.length > 0 && (
          <Scale
            left={left}
            top={plot + TIME_AXIS_PIXELS + 4}
            width={Math.min(300, width - left - 4)}
            low={low}
            high={high}
            color={color}
            text={textOf(options.cellValues ?? {}, theme)}
            theme={theme}
          />
        )}
      </svg>
    </div>
  );
}

function boundLabels(names, axis, theme) {
  const text = textOf({ unit: axis.unit, decimals: axis.decimals }, theme);
  return names.map((name) => (name === '+Inf' ? name : text(Number(name))));
}

function textOf(config, theme) {
  const display = getDisplayProcessor({ field: { type: FieldType.number, config }, theme });
  return (value) => formattedValueToString(display(value));
}

function colorOf({ mode, scheme = 'Oranges', fill, exponent = 0.5, steps = 64, reverse = false, scale }, low, high, theme) {
  const share = (value) => {
    const reached = high > low ? (Math.min(high, Math.max(low, value)) - low) / (high - low) : 1;
    return Math.round(reached * (steps - 1)) / (steps - 1);
  };
  if (mode === 'opacity') {
    const base = theme.visualization.getColorByName(fill ?? 'dark-orange');
    const strength = scale === 'linear' ? (part) => part : (part) => part ** exponent;
    return (value) => base + Math.round(255 * strength(share(value))).toString(16).padStart(2, '0');
  }
  const interpolate = chromatic[`interpolate${scheme}`];
  if (!interpolate) {
    throw new Error(`there is no colour scheme ${scheme}`);
  }
  const turned = ALWAYS_TURNED.has(scheme) || TURNED[theme.isDark ? 'dark' : 'light'].has(scheme);
  return (value) => interpolate(turned === reverse ? share(value) : 1 - share(value));
}

function Scale({ left, top, width, low, high, color, text, theme }) {
  const parts = [...Array(64).keys()];
  return (
    <g>
      {parts.map((part) => (
        <rect
          key={part}
          x={left + (part * width) / 64}
          y={top}
          width={width / 64 + 0.5}
          height={8}
          fill={color(low + ((high - low) * part) / 63)}
        />
      ))}
      <text x={left} y={top + 22} fill={theme.colors.text.primary}>
        {text(low)}
      </text>
      <text x={left + width} y={top + 22} textAnchor="end" fill={theme.colors.text.primary}>
        {text(high)}
      </text>
    </g>
  );
}
