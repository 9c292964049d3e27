// Grafana keeps its dial to itself: an arc of three quarters, filled up to the value, its thresholds around it.

import { VizOrientation, formattedValueToString } from '@grafana/data';
import { VizRepeater } from '@grafana/ui';

import { reducedValues } from '../reduced.js';

const FROM_DEGREES = -120;
const TO_DEGREES = 120;

export function GaugePanel({ options, data, fieldConfig, theme, width, height, replaceVariables }) {
  const values = reducedValues({ options, data, fieldConfig, theme, replaceVariables });
  return (
    <VizRepeater
      source={data}
      renderCounter={0}
      autoGrid
      itemSpacing={8}
      orientation={options.orientation ?? VizOrientation.Auto}
      width={width}
      height={height}
      getValues={() => values}
      renderValue={({ value, width, height, count }) => (
        <Dial value={value} options={options} theme={theme} width={width} height={height} named={count > 1} />
      )}
    />
  );
}

function Dial({ value, options, theme, width, height, named }) {
  const { display, field } = value;
  const low = field.min ?? 0;
  const high = field.max ?? 100;
  const under = named ? 22 : 0;
  const radius = Math.max(10, Math.min(width / 2, (height - under) / 1.55) - 8);
  const thickness = radius * 0.28;
  const x = width / 2;
  const y = radius + 8;
  const degrees = (number) => {
    const share = Math.min(1, Math.max(0, (number - low) / (high - low)));
    return FROM_DEGREES + share * (TO_DEGREES - FROM_DEGREES);
  };
  const steps = options.showThresholdMarkers === false ? [] : (field.thresholds?.steps ?? []);
  const text = formattedValueToString(display);
  return (
    <svg width={width} height={height} style={{ fontFamily: theme.typography.fontFamily }}>
      <path
        d={arc(x, y, radius - thickness / 2 - 5, FROM_DEGREES, TO_DEGREES)}
        stroke={theme.colors.action.hover}
        strokeWidth={thickness}
        fill="none"
      />
      {Number.isFinite(display.numeric) && (
        <path
          d={arc(x, y, radius - thickness / 2 - 5, FROM_DEGREES, degrees(display.numeric))}
          stroke={display.color}
          strokeWidth={thickness}
          fill="none"
        />
      )}
      {steps.map((step, place) => (
        <path
          key={step.value}
          d={arc(x, y, radius, degrees(step.value), degrees(steps[place + 1]?.value ?? high))}
          stroke={theme.visualization.getColorByName(step.color)}
          strokeWidth={3}
          fill="none"
        />
      ))}
      <text
        x={x}
        y={y + radius * 0.12}
        textAnchor="middle"
        fontWeight={500}
        fontSize={Math.min(radius * 0.42, (radius * 1.7) / Math.max(4, text.length))}
        fill={display.color}
      >
        {text}
      </text>
      {named && (
        <text x={x} y={height - 6} textAnchor="middle" fontSize={14} fill={theme.colors.text.primary}>
          {display.title}
        </text>
      )}
    </svg>
  );
}

function arc(x, y, radius, from, to) {
  const at = (degrees) => {
    const angle = (degrees * Math.PI) / 180;
    return `${x + radius * Math.sin(angle)} ${y - radius * Math.cos(angle)}`;
  };
  return `M ${at(from)} A ${radius} ${radius} 0 ${to - from > 180 ? 1 : 0} 1 ${at(to)}`;
}
