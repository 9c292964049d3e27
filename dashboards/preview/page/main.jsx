// window.draw(page) draws a dashboard that the preview has asked together, in place of the one before. Its
// promise comes true when the picture can be taken: what went wrong, by the panel's id.

import { ThemeContext, createTheme } from '@grafana/data';
import { GlobalStyles } from '@grafana/ui';
import { createRoot } from 'react-dom/client';

import { Dashboard } from './dashboard.jsx';
import { prepared, replacerOf } from './fields.js';

const THEMES = { dark: createTheme({ colors: { mode: 'dark' } }), light: createTheme({ colors: { mode: 'light' } }) };
const FRAME_MILLISECONDS = 100;

let root = null;

// Icons are fetched one by one while they are drawn.
let fetching = 0;
const plainFetch = window.fetch;
window.fetch = async (...request) => {
  fetching += 1;
  try {
    return await plainFetch(...request);
  } finally {
    fetching -= 1;
  }
};

window.draw = async (page) => {
  const theme = THEMES[page.theme];
  const replaceVariables = replacerOf(page.texts);
  const errors = {};
  const told = (id, error) => (errors[id] ??= []).push(String(error?.message ?? error));

  root?.unmount();
  root = createRoot(document.getElementById('page'));
  document.body.style.background = theme.colors.background.canvas;
  const show = (content) =>
    root.render(
      <ThemeContext.Provider value={theme}>
        <GlobalStyles />
        {content}
      </ThemeContext.Provider>,
    );
  // The styles name the font; what is written on a canvas before it is there stays in another.
  show(null);
  await passed(FRAME_MILLISECONDS);
  await Promise.all([400, 500].map((weight) => document.fonts.load(`${weight} 14px Inter`)));

  const panels = await Promise.all(page.panels.map((one) => made(one, theme, replaceVariables, told)));
  show(<Dashboard page={page} panels={panels} theme={theme} replaceVariables={replaceVariables} onError={told} />);
  do {
    await passed(FRAME_MILLISECONDS);
  } while (fetching);
  await passed(FRAME_MILLISECONDS);
  return errors;
};

function passed(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

async function made(one, theme, replaceVariables, told) {
  try {
    return { ...one, ...(await prepared(one.panel, one.frames, theme, replaceVariables)) };
  } catch (error) {
    told(one.panel.id, error);
    return { ...one, data: [], fieldConfig: { defaults: {}, overrides: [] }, errors: [...one.errors, String(error)] };
  }
}
