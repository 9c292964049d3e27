// State timeline and status history: a line for each series, its states as boxes in their colours.

import { FieldType, colorManipulator, formattedValueToString, getFieldDisplayName } from '@grafana/data';
import { VizLayout, VizLegend, getTextColorForAlphaBackground, measureText } from '@grafana/ui';
import { useId } from 'react';

import { TIME_AXIS_PIXELS, TimeAxis, TimeMarks } from '../timeAxis.jsx';

const FONT_PIXELS = 12;

export function StatesPanel({ panel, options, data, window, annotations, theme, width, height }) {
  const history = panel.type === 'status-history';
  const merged = !history && (options.mergeValues ?? true);
  const rows = data.flatMap((frame) => {
    const times = frame.fields.find((field) => field.type === FieldType.time);
    return frame.fields
      .filter((field) => field !== times)
      .map((field) => ({
        name: getFieldDisplayName(field, frame, data),
        field,
        stretches: stretchesOf(field, times, window, merged),
      }));
  });
  const legend = options.legend?.showLegend ? (
    <VizLayout.Legend placement={options.legend.placement}>
      <VizLegend
        placement={options.legend.placement}
        displayMode={options.legend.displayMode}
        items={legendItems(rows, theme)}
      />
    </VizLayout.Legend>
  ) : null;
  return (
    <VizLayout width={width} height={height} legend={legend}>
      {(inside, high) => (
        <Timeline
          rows={rows}
          options={options}
          history={history}
          window={window}
          annotations={annotations}
          theme={theme}
          width={inside}
          height={high}
        />
      )}
    </VizLayout>
  );
}

// A value holds until the next one; where that is late, for as long as the step between values.
function stretchesOf(field, times, window, merged) {
  const step = times.config.interval ?? Infinity;
  const found = [];
  field.values.forEach((value, place) => {
    if (value === null || value === undefined || Number.isNaN(value)) {
      return;
    }
    const start = times.values[place];
    const next = times.values[place + 1] ?? window.end;
    const end = Math.min(next - start > 1.5 * step ? start + step : next, window.end);
    const shown = field.display(value);
    const last = found.at(-1);
    if (merged && last && last.end === start && last.text === formattedValueToString(shown)) {
      last.end = end;
    } else {
      found.push({ start, end, text: formattedValueToString(shown), color: shown.color });
    }
  });
  return found;
}

function legendItems(rows, theme) {
  const config = rows[0]?.field.config ?? {};
  const steps = config.thresholds?.steps ?? [];
  if (config.color?.mode === 'thresholds' && steps.length > 1 && !config.mappings?.length) {
    return steps.map((step, place) => ({
      label: place ? `${step.value}+` : `< ${steps[1].value}`,
      color: theme.visualization.getColorByName(step.color),
      yAxis: 1,
    }));
  }
  const colors = new Map(rows.flatMap(({ stretches }) => stretches.map(({ text, color }) => [text, color])));
  return [...colors].map(([label, color]) => ({ label, color, yAxis: 1 }));
}

function Timeline({ rows, options, history, window, annotations, theme, width, height }) {
  const longest = Math.max(0, ...rows.map(({ name }) => measureText(name, FONT_PIXELS).width));
  const names = useId();
  const left = Math.min(longest, width / 3) + 12;
  const high = height - TIME_AXIS_PIXELS;
  const line = high / Math.max(1, rows.length);
  const box = line * (options.rowHeight ?? 0.9);
  const x = (time) => left + ((time - window.start) / (window.end - window.start)) * (width - left - 4);
  return (
    <svg width={width} height={height} style={{ fontFamily: theme.typography.fontFamily, fontSize: FONT_PIXELS }}>
      <clipPath id={names}>
        <rect x={0} y={0} width={left - 6} height={height} />
      </clipPath>
      <TimeAxis window={window} width={width - left} left={left} top={0} height={high} x={x} theme={theme} />
      {rows.map(({ name, field, stretches }, place) => {
        const top = place * line + (line - box) / 2;
        const { fillOpacity = 70, lineWidth = 0 } = field.config.custom ?? {};
        return (
          <g key={name + place}>
            <text
              x={longest + 12 > left ? 0 : left - 8}
              textAnchor={longest + 12 > left ? 'start' : 'end'}
              y={place * line + line / 2}
              dominantBaseline="central"
              fill={theme.colors.text.primary}
              clipPath={`url(#${names})`}
            >
              {name}
            </text>
            {stretches.map((one) => (
              <State
                key={one.start}
                one={one}
                left={Math.max(left, x(one.start))}
                right={x(one.end) - (history ? 1 : 0)}
                top={top}
                height={box}
                opacity={fillOpacity / 100}
                lineWidth={lineWidth}
                options={options}
                theme={theme}
              />
            ))}
          </g>
        );
      })}
      <TimeMarks events={annotations} window={window} top={0} height={high} x={x} theme={theme} />
    </svg>
  );
}

function State({ one, left, right, top, height, opacity, lineWidth, options, theme }) {
  const wide = Math.max(1, right - left);
  const needed = measureText(one.text, FONT_PIXELS).width + 8;
  const show = options.showValue ?? 'auto';
  const written = show === 'always' || (show === 'auto' && needed <= wide && height >= FONT_PIXELS);
  const aligned = { left: left + 4, center: left + wide / 2, right: right - 4 }[options.alignValue ?? 'left'];
  const anchor = { left: 'start', center: 'middle', right: 'end' }[options.alignValue ?? 'left'];
  return (
    <>
      <rect
        x={left}
        y={top}
        width={wide}
        height={height}
        fill={one.color}
        fillOpacity={opacity}
        stroke={lineWidth ? one.color : 'none'}
        strokeWidth={lineWidth}
      />
      {written && (
        <text
          x={aligned}
          y={top + height / 2}
          textAnchor={anchor}
          dominantBaseline="central"
          fill={getTextColorForAlphaBackground(colorManipulator.alpha(one.color, opacity), theme.isDark)}
        >
          {one.text}
        </text>
      )}
    </>
  );
}
