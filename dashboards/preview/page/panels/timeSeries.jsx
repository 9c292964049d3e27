import { TimeSeries } from '@grafana/ui';

import { Annotations } from '../annotations.jsx';
import { timeRangeOf } from '../timeAxis.jsx';

export function TimeSeriesPanel({ options, data, window, annotations, theme, width, height }) {
  return (
    <TimeSeries
      frames={data}
      width={width}
      height={height}
      timeRange={timeRangeOf(window)}
      timeZone="utc"
      legend={options.legend}
      structureRev={1}
    >
      {(config) => <Annotations config={config} events={annotations} theme={theme} />}
    </TimeSeries>
  );
}
