// npm run build: page.html, render.js and render.css in dist. What package.json names under `left` is not installed
// (prune.mjs), and empty here: where a panel came to need it, the page would fail.
import { copyFileSync, readFileSync } from 'node:fs';

import { build } from 'esbuild';

const { left } = JSON.parse(readFileSync('package.json', 'utf8'));

await build({
  entryPoints: ['render.tsx'],
  outdir: 'dist',
  bundle: true,
  minify: true,
  jsx: 'automatic',
  define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
  loader: { '.woff': 'dataurl', '.woff2': 'dataurl' },
  plugins: [{
    name: 'left',
    setup({ onResolve, onLoad }) {
      // a module of CommonJS with a default export, which files named .mjs would get as a whole
      const bars = 'react-custom-scrollbars-2';
      onResolve({ filter: new RegExp(`^${bars}$`), namespace: 'file' }, ({ resolveDir }) => (
        { path: bars, namespace: 'default', pluginData: resolveDir }));
      onLoad({ filter: /.*/, namespace: 'default' }, ({ path, pluginData }) => (
        { contents: `export { Scrollbars as default } from '${path}';`, resolveDir: pluginData }));
      const names = new RegExp(`^(${left.join('|')})(/|$)`);
      onResolve({ filter: names }, ({ path }) => ({ path, namespace: 'left' }));
      onLoad({ filter: /.*/, namespace: 'left' }, () => ({ contents: 'module.exports = {};' }));
    },
  }],
  logLevel: 'error',
});
copyFileSync('page.html', 'dist/page.html');
