// Makes one script of the page and Grafana's components:
// node bundle.mjs SOURCES MODULES OUTPUT

import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [sources, modules, output] = process.argv.slice(2);
const require = createRequire(path.join(modules, 'a-file-there.js'));
const { build } = await import(pathToFileURL(require.resolve('esbuild')));

// A default export under a name; bundled as it is, its CommonJS form gives an object instead of the component.
const scrollbars = {
  name: 'scrollbars',
  setup(bundle) {
    bundle.onResolve({ filter: /^react-custom-scrollbars-2$/ }, ({ importer }) =>
      importer.endsWith('scrollbars.js') ? undefined : { path: path.join(sources, 'scrollbars.js') },
    );
  },
};

await build({
  absWorkingDir: sources,
  entryPoints: [path.join(sources, 'main.jsx')],
  outfile: output,
  nodePaths: [modules],
  bundle: true,
  minify: true,
  format: 'iife',
  jsx: 'automatic',
  loader: { '.svg': 'dataurl', '.woff2': 'dataurl', '.ttf': 'dataurl', '.png': 'dataurl' },
  define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
  logLevel: 'warning',
  plugins: [scrollbars],
});
