// The figures of panels that show one for each series: its last value, its mean and so on.

import { getFieldDisplayValues } from '@grafana/data';

export function reducedValues({ options, data, fieldConfig, theme, replaceVariables }) {
  return getFieldDisplayValues({
    data,
    fieldConfig,
    reduceOptions: options.reduceOptions ?? { calcs: ['lastNotNull'] },
    replaceVariables,
    theme,
    timeZone: 'utc',
    sparkline: (options.graphMode ?? 'none') !== 'none',
    percentChange: options.showPercentChange ?? false,
  });
}
