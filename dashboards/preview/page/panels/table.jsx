import { cacheFieldDisplayNames } from '@grafana/data';
import { TableNG } from '@grafana/ui/unstable';

import { timeRangeOf } from '../timeAxis.jsx';

export function TablePanel({ options, data, fieldConfig, window, width, height }) {
  // The heads of the columns are read from there.
  cacheFieldDisplayNames(data);
  return (
    <TableNG
      data={data[options.frameIndex ?? 0]}
      width={width}
      height={height}
      noHeader={!(options.showHeader ?? true)}
      sortBy={options.sortBy}
      cellHeight={options.cellHeight}
      fieldConfig={fieldConfig}
      timeRange={timeRangeOf(window)}
      structureRev={1}
    />
  );
}
