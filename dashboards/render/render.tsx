// Draws a dashboard file with Grafana's own UI components: panels, units, thresholds, legends and colours are
// theirs. There is no Grafana server; what a server would do with the file is done in frames.ts.
import '@fontsource/inter/latin-400.css';
import '@fontsource/inter/latin-500.css';

import {
  createTheme, type DataFrame, type FieldDisplay, getDisplayValueAlignmentFactors, type GrafanaTheme2, type TimeRange,
} from '@grafana/data';
import { BarGauge, BigValue, GlobalStyles, PanelChrome, Table, ThemeContext, TimeSeries } from '@grafana/ui';
import { createRoot } from 'react-dom/client';

import {
  type Answers, type Dashboard, framesOf, isEmpty, lastValue, linksOf, type Panel, tableOf, timeRange,
} from './frames';

const COLUMN = 64; // a column of 24, in pixels
const ROW = 30; // Grafana's height of a grid unit
const GAP = 8;

function Shown({ panel, frames, range, theme, width, height }: {
  panel: Panel; frames: DataFrame[]; range: TimeRange; theme: GrafanaTheme2; width: number; height: number;
}) {
  const { options } = panel;
  if (panel.type === 'timeseries') {
    return <TimeSeries frames={frames} timeRange={range} timeZone="utc" width={width} height={height}
      legend={options.legend} />;
  }
  if (panel.type === 'table') {
    return <Table data={frames[0]} width={width} height={height} initialSortBy={options.sortBy} timeRange={range} />;
  }
  if (panel.type === 'stat') {
    const value = { ...lastValue(frames[0]), title: '' };
    return <BigValue value={value} width={width} height={height} theme={theme} colorMode={options.colorMode}
      graphMode={options.graphMode} textMode={options.textMode} justifyMode={options.justifyMode} />;
  }
  const values = frames.map(lastValue);
  const most = Math.max(1, ...values.map((value) => value.numeric));
  return <>{frames.map((frame, index) => (
    <BarGauge key={index} value={values[index]} field={{ ...frame.fields[1].config, min: 0, max: most }}
      display={frame.fields[1].display} width={width} height={height / frames.length} theme={theme} itemSpacing={6}
      orientation={options.orientation} displayMode={options.displayMode} namePlacement={options.namePlacement}
      showUnfilled={options.showUnfilled} valueDisplayMode={options.valueMode} isOverflow={false}
      alignmentFactors={getDisplayValueAlignmentFactors(values.map((display) => ({ display })) as FieldDisplay[])} />
  ))}</>;
}

function Board({ dashboard, answers, tables, theme }: {
  dashboard: Dashboard; answers: Answers; tables: Record<number, DataFrame[]>; theme: GrafanaTheme2;
}) {
  const range = timeRange(answers);
  const bottom = Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  return (
    <div id="board" style={{ position: 'relative', width: 24 * COLUMN + GAP, height: bottom * ROW + 2 * GAP,
      background: theme.colors.background.canvas }}>
      {dashboard.panels.map((panel) => {
        const { x, y, w, h } = panel.gridPos;
        const place = { position: 'absolute' as const, left: x * COLUMN + GAP, top: y * ROW + GAP };
        if (panel.type === 'row') {
          return <h2 key={panel.id} style={{ ...place, ...theme.typography.h5, margin: 0 }}>{panel.title}</h2>;
        }
        const frames = tables[panel.id] ?? framesOf(panel, answers, theme);
        return (
          <div key={panel.id} style={place}>
            <PanelChrome title={panel.title} width={w * COLUMN - GAP} height={h * ROW - GAP}>
              {(width, height) => frames.every((frame) => frame.length === 0 || isEmpty(frame))
                ? <p className="no-data">No data</p>
                : <Shown {...{ panel, frames, range, theme, width, height }} />}
            </PanelChrome>
          </div>
        );
      })}
    </div>
  );
}

declare global {
  interface Window { draw(dashboard: Dashboard, answers: Answers): Promise<string[]> }
}

// What it gives are the addresses of the tables' links.
window.draw = async (dashboard, answers) => {
  const theme = createTheme({ colors: { mode: 'light' } });
  const tables: Record<number, DataFrame[]> = {};
  for (const panel of dashboard.panels.filter(({ type }) => type === 'table')) {
    tables[panel.id] = await tableOf(panel, answers, theme);
  }
  createRoot(document.body.appendChild(document.createElement('main'))).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <Board {...{ dashboard, answers, tables, theme }} />
    </ThemeContext.Provider>,
  );
  return Object.values(tables).flatMap((frames) => frames.filter(({ length }) => length > 0).flatMap(linksOf));
};
