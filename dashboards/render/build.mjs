// npm run build: page.html, render.js and render.css in dist. What package.json names under `left` is not
// installed (prune.mjs): where a panel came to need it, the page would fail.
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
  external: left.flatMap((name) => [name, `${name}/*`]),
  logLevel: 'error',
});
copyFileSync('page.html', 'dist/page.html');
