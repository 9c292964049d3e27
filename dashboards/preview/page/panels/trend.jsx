// Lines over a number, such as the step, instead of the time.

import { FieldType, fieldMatchers, getFieldDisplayName } from '@grafana/data';
import { TimeSeries } from '@grafana/ui';

import { timeRangeOf } from '../timeAxis.jsx';

const NUMBERS = fieldMatchers.get('byTypes').get(new Set([FieldType.number]));

export function TrendPanel({ options, data, window, width, height }) {
  if (data.length !== 1) {
    throw new Error(`a trend needs one frame, not ${data.length}: join them with a transformation`);
  }
  const [frame] = data;
  const isX = (field) =>
    options.xField ? getFieldDisplayName(field, frame, data) === options.xField : field.type === FieldType.number;
  const x = frame.fields.find(isX);
  if (x?.type !== FieldType.number) {
    throw new Error(`a trend needs a field of numbers to run along; ${options.xField ?? 'there'} is none`);
  }
  return (
    <TimeSeries
      frames={data}
      fields={{ x: (field) => field === x, y: NUMBERS }}
      preparePlotFrame={() => alongside(x, frame)}
      width={width}
      height={height}
      timeRange={timeRangeOf(window)}
      timeZone="utc"
      legend={options.legend}
      structureRev={1}
    />
  );
}

// The frame with x first, rising, and the numbers after it.
function alongside(x, frame) {
  const rows = [...x.values.keys()].filter((row) => Number.isFinite(x.values[row]));
  rows.sort((one, other) => x.values[one] - x.values[other]);
  const fields = [x, ...frame.fields.filter((field) => field !== x && field.type === FieldType.number)];
  return {
    ...frame,
    length: rows.length,
    fields: fields.map((field) => ({
      ...field,
      values: rows.map((row) => field.values[row]),
      state: { ...field.state, origin: { frameIndex: 0, fieldIndex: frame.fields.indexOf(field) } },
    })),
  };
}
