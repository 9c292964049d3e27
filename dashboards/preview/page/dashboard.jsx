// The page of a dashboard: its head, and its panels where the grid has them.

import { dateTimeFormat } from '@grafana/data';
import { Icon } from '@grafana/ui';

import { Panel } from './panel.jsx';

export function Dashboard({ page, panels, theme, replaceVariables, onError }) {
  const style = {
    width: page.width,
    boxSizing: 'border-box',
    padding: 16,
    background: theme.colors.background.canvas,
    color: theme.colors.text.primary,
    fontFamily: theme.typography.fontFamily,
    fontSize: theme.typography.fontSize,
  };
  return (
    <div style={style}>
      <Head page={page} theme={theme} />
      <div style={{ position: 'relative', height: page.height }}>
        {panels.map((one) => (
          <div key={one.panel.id} id={`panel-${one.panel.id}`} style={{ position: 'absolute', ...one.place }}>
            {one.panel.type === 'row' ? (
              <Row panel={one.panel} theme={theme} replaceVariables={replaceVariables} />
            ) : (
              <Panel one={one} page={page} theme={theme} replaceVariables={replaceVariables} onError={onError} />
            )}
          </div>
        ))}
      </div>
    </div>
  );
}

function Head({ page, theme }) {
  const time = (moment) => dateTimeFormat(moment, { timeZone: 'utc', format: 'YYYY-MM-DD HH:mm:ss' });
  const line = { display: 'flex', flexWrap: 'wrap', gap: 8, alignItems: 'center', marginBottom: 8 };
  return (
    <header style={{ marginBottom: 16 }}>
      <div style={line}>
        <span style={{ color: theme.colors.text.secondary }}>Dashboards ›</span>
        <span style={{ ...theme.typography.h5, margin: 0, flexGrow: 1 }}>{page.title}</span>
        <Box theme={theme}>
          <Icon name="clock-nine" /> {time(page.window.start)} to {time(page.window.end)}{' '}
          <span style={{ color: theme.colors.warning.text, fontSize: 12 }}>UTC</span>
        </Box>
      </div>
      <div style={line}>
        {page.variables.map(({ name, label, text }) => (
          <div key={name} style={{ display: 'flex' }}>
            <Box theme={theme} label>
              {label}
            </Box>
            <Box theme={theme}>
              {text} <Icon name="angle-down" />
            </Box>
          </div>
        ))}
        <span style={{ flexGrow: 1 }} />
        {page.links.map(({ title, asDropdown }) => (
          <Box key={title} theme={theme}>
            {title} <Icon name={asDropdown ? 'angle-down' : 'external-link-alt'} />
          </Box>
        ))}
      </div>
      {page.errors.map((error) => (
        <div key={error} style={{ color: theme.colors.error.text }}>
          {error}
        </div>
      ))}
    </header>
  );
}

function Box({ theme, label = false, children }) {
  const style = {
    display: 'flex',
    alignItems: 'center',
    gap: 4,
    height: 32,
    padding: '0 8px',
    boxSizing: 'border-box',
    border: `1px solid ${theme.components.input.borderColor}`,
    background: label ? theme.colors.background.secondary : theme.components.input.background,
    ...(label ? { borderRight: 'none', fontSize: 12, fontWeight: 500 } : {}),
  };
  return <div style={style}>{children}</div>;
}

function Row({ panel, theme, replaceVariables }) {
  const style = { display: 'flex', alignItems: 'center', gap: 8, height: '100%', fontWeight: 500 };
  const held = panel.panels?.length ?? 0;
  return (
    <div style={{ ...style, borderBottom: panel.collapsed ? `1px solid ${theme.colors.border.weak}` : 'none' }}>
      <Icon name={panel.collapsed ? 'angle-right' : 'angle-down'} />
      <span style={{ fontSize: theme.typography.h5.fontSize }}>{replaceVariables(panel.title)}</span>
      {panel.collapsed && (
        <span style={{ color: theme.colors.text.secondary, fontSize: 12 }}>
          ({held} {held === 1 ? 'panel' : 'panels'})
        </span>
      )}
    </div>
  );
}
