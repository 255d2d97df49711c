// npm install --package-lock-only && node prune.mjs: takes out of the lock file what package.json names under `left`,
// which Grafana's packages ask for and no panel uses, with all that only these need. `npm ci` goes by the lock file.
import { readFileSync, writeFileSync } from 'node:fs';

const { left } = JSON.parse(readFileSync('package.json', 'utf8'));
const lock = JSON.parse(readFileSync('package-lock.json', 'utf8'));
const kinds = ['dependencies', 'optionalDependencies', 'peerDependencies'];

// Where Node finds a package that is asked for from a folder.
function found(folder, name) {
  for (let place = folder; ; place = place.slice(0, place.lastIndexOf('node_modules')).replace(/\/$/, '')) {
    const path = `${place ? `${place}/` : ''}node_modules/${name}`;
    if (path in lock.packages || !place) return path;
  }
}

const kept = new Set();
const waiting = [''];
while (waiting.length > 0) {
  const path = waiting.pop();
  const entry = lock.packages[path];
  if (entry === undefined || kept.has(path)) continue;
  kept.add(path);
  for (const kind of kinds) {
    for (const name of left) delete entry[kind]?.[name];
    waiting.push(...Object.keys(entry[kind] ?? {}).map((name) => found(path, name)));
  }
}
lock.packages = Object.fromEntries(Object.entries(lock.packages).filter(([path]) => kept.has(path)));
writeFileSync('package-lock.json', `${JSON.stringify(lock, null, 2)}\n`);
