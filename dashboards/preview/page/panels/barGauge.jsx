import { VizOrientation, getDisplayProcessor, getDisplayValueAlignmentFactors } from '@grafana/data';
import { BarGauge, VizRepeater } from '@grafana/ui';

import { reducedValues } from '../reduced.js';

export function BarGaugePanel({ options, data, fieldConfig, theme, width, height, replaceVariables }) {
  const values = reducedValues({ options, data, fieldConfig, theme, replaceVariables });
  const byHand = options.sizing === 'manual';
  return (
    <VizRepeater
      source={data}
      renderCounter={0}
      itemSpacing={options.displayMode === 'lcd' ? 2 : 10}
      orientation={options.orientation ?? VizOrientation.Auto}
      width={width}
      height={height}
      minVizWidth={byHand ? options.minVizWidth : 8}
      minVizHeight={byHand ? options.minVizHeight : 16}
      maxVizHeight={byHand ? options.maxVizHeight : 300}
      getValues={() => values}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={({ value, width, height, orientation, alignmentFactors }) => (
        <BarGauge
          value={value.display}
          field={value.field}
          display={value.view?.getFieldDisplayProcessor(value.colIndex) ?? getDisplayProcessor({ field: { config: value.field }, theme })}
          displayMode={options.displayMode}
          showUnfilled={options.showUnfilled}
          valueDisplayMode={options.valueMode}
          namePlacement={options.namePlacement}
          text={options.text}
          itemSpacing={options.displayMode === 'lcd' ? 2 : 10}
          orientation={orientation}
          alignmentFactors={alignmentFactors}
          width={width}
          height={height}
          theme={theme}
        />
      )}
    />
  );
}
