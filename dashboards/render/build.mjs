// npm run build: page.html, render.js and render.css in dist. What package.json overrides is what Grafana's packages
// ask for and no panel uses: npm fetches a stand-in of a few bytes, and nothing of it may come into the bundle.
import { copyFileSync, readFileSync } from 'node:fs';

import { build } from 'esbuild';

const { overrides } = JSON.parse(readFileSync('package.json', 'utf8'));
const left = Object.keys(overrides).filter((name) => typeof overrides[name] === 'string');

await build({
  entryPoints: ['render.tsx'],
  outdir: 'dist',
  bundle: true,
  minify: true,
  jsx: 'automatic',
  define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
  loader: { '.woff': 'dataurl', '.woff2': 'dataurl' },
  external: left.flatMap((name) => [name, `${name}/*`]),
  logLevel: 'error',
});
copyFileSync('page.html', 'dist/page.html');
