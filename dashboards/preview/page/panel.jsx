// A panel in Grafana's chrome. What goes wrong in it stands in it, in red, and is told to `onError`.

import { PanelChrome } from '@grafana/ui';
import { Component } from 'react';

import { BarGaugePanel } from './panels/barGauge.jsx';
import { GaugePanel } from './panels/gauge.jsx';
import { HeatmapPanel } from './panels/heatmap.jsx';
import { StatPanel } from './panels/stat.jsx';
import { StatesPanel } from './panels/states.jsx';
import { TablePanel } from './panels/table.jsx';
import { TextPanel } from './panels/text.jsx';
import { TimeSeriesPanel } from './panels/timeSeries.jsx';
import { TrendPanel } from './panels/trend.jsx';

const KINDS = {
  bargauge: BarGaugePanel,
  gauge: GaugePanel,
  heatmap: HeatmapPanel,
  stat: StatPanel,
  'state-timeline': StatesPanel,
  'status-history': StatesPanel,
  table: TablePanel,
  text: TextPanel,
  timeseries: TimeSeriesPanel,
  trend: TrendPanel,
};
// These say themselves that there is nothing.
const SHOW_NOTHING_THEMSELVES = new Set(['stat', 'text']);

export function Panel({ one, page, theme, replaceVariables, onError }) {
  const { panel, place } = one;
  const padding = panel.type === 'table' ? 'none' : 'md';
  return (
    <PanelChrome
      width={place.width}
      height={place.height}
      padding={padding}
      title={replaceVariables(panel.title ?? '')}
      description={panel.description}
      displayMode={panel.transparent ? 'transparent' : 'default'}
    >
      {(width, height) => (
        <Guard panel={panel} theme={theme} onError={onError}>
          <Inside one={one} page={page} theme={theme} width={width} height={height} replaceVariables={replaceVariables} />
        </Guard>
      )}
    </PanelChrome>
  );
}

function Inside({ one, page, theme, width, height, replaceVariables }) {
  const { panel, data, fieldConfig, errors, empty } = one;
  if (errors.length) {
    return <Failure theme={theme}>{errors.join('\n')}</Failure>;
  }
  const Kind = KINDS[panel.type];
  if (!Kind) {
    throw new Error(`the preview draws no panels of the kind ${panel.type}`);
  }
  if (empty && !SHOW_NOTHING_THEMSELVES.has(panel.type)) {
    return <Nothing theme={theme} text={fieldConfig.defaults.noValue ?? 'No data'} />;
  }
  return (
    <Kind
      panel={panel}
      options={panel.options ?? {}}
      data={data}
      fieldConfig={fieldConfig}
      window={page.window}
      annotations={page.annotations}
      theme={theme}
      width={width}
      height={height}
      replaceVariables={replaceVariables}
    />
  );
}

class Guard extends Component {
  state = { error: null };

  static getDerivedStateFromError(error) {
    return { error };
  }

  componentDidCatch(error) {
    this.props.onError(this.props.panel.id, error);
  }

  render() {
    const { error } = this.state;
    return error ? <Failure theme={this.props.theme}>{String(error)}</Failure> : this.props.children;
  }
}

function Failure({ theme, children }) {
  return <pre style={{ color: theme.colors.error.text, whiteSpace: 'pre-wrap', fontSize: 12 }}>{children}</pre>;
}

function Nothing({ theme, text }) {
  const style = {
    height: '100%',
    display: 'flex',
    alignItems: 'center',
    justifyContent: 'center',
    color: theme.colors.text.secondary,
    fontSize: theme.typography.h4.fontSize,
  };
  return <div style={style}>{text}</div>;
}
