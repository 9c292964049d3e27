import { VizOrientation, getDisplayValueAlignmentFactors } from '@grafana/data';
import { BigValue, VizRepeater } from '@grafana/ui';

import { reducedValues } from '../reduced.js';

export function StatPanel({ options, data, fieldConfig, theme, width, height, replaceVariables }) {
  const values = reducedValues({ options, data, fieldConfig, theme, replaceVariables });
  return (
    <VizRepeater
      source={data}
      renderCounter={0}
      autoGrid
      itemSpacing={3}
      orientation={options.orientation ?? VizOrientation.Auto}
      width={width}
      height={height}
      getValues={() => values}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={({ value, width, height, alignmentFactors, count }) => (
        <BigValue
          value={value.display}
          sparkline={options.graphMode === 'none' ? undefined : value.sparkline}
          count={count}
          colorMode={options.colorMode}
          graphMode={options.graphMode}
          justifyMode={options.justifyMode}
          textMode={options.textMode}
          text={options.text}
          alignmentFactors={alignmentFactors}
          percentChangeColorMode={options.percentChangeColorMode}
          disableWideLayout={!options.wideLayout}
          width={width}
          height={height}
          theme={theme}
        />
      )}
    />
  );
}
