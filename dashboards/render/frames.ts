// From a panel of the file and Prometheus's answers to the data frames that Grafana's components draw.
import {
  cacheFieldDisplayNames, createDataFrame, type DataFrame, dateTime, type DisplayValue, type FieldConfig, FieldType,
  getDisplayProcessor, type GrafanaTheme2, type TimeRange,
} from '@grafana/data';

export interface Panel {
  id: number;
  type: 'row' | 'stat' | 'bargauge' | 'timeseries';
  title: string;
  gridPos: { x: number; y: number; w: number; h: number };
  options: any;
  fieldConfig: {
    defaults: FieldConfig;
    overrides: Array<{ matcher: { id: string; options: string }; properties: Array<{ id: string; value: any }> }>;
  };
  targets: Array<{ refId: string; legendFormat: string }>;
}
export interface Dashboard { panels: Panel[] }
interface Series { metric: Record<string, string>; values?: Array<[number, string]>; value?: [number, string] }
export interface Answers {
  from: number; // seconds since the epoch, as Prometheus has it
  to: number;
  results: Record<string, { step: number; series: Series[] }>; // by `${panel.id}/${refId}`
}

export function timeRange({ from, to }: Answers): TimeRange {
  const [start, end] = [dateTime(from * 1000), dateTime(to * 1000)];
  return { from: start, to: end, raw: { from: start, to: end } };
}

export function framesOf(panel: Panel, answers: Answers, theme: GrafanaTheme2): DataFrame[] {
  const frames = panel.targets.flatMap(({ refId, legendFormat }) => {
    const { step, series } = answers.results[`${panel.id}/${refId}`];
    return series.map((each) => {
      const name = legend(legendFormat, each.metric) || panel.title;
      const points = spread(each, answers, step);
      const times = { name: 'Time', type: FieldType.time, config: { interval: step * 1000 } };
      const numbers = { name, type: FieldType.number, config: configOf(panel, name) };
      return createDataFrame({
        refId,
        fields: [
          { ...times, values: points.map(([time]) => time) },
          { ...numbers, values: points.map(([, value]) => value) },
        ],
      });
    });
  });
  frames.forEach((frame, index) => {
    const field = frame.fields[1];
    field.state = { seriesIndex: index, origin: { frameIndex: index, fieldIndex: 1 } };
    field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
  });
  cacheFieldDisplayNames(frames);
  return frames;
}

export function isEmpty(frame: DataFrame): boolean {
  return frame.fields[1].values.every((value) => value === null);
}

export function lastValue(frame: DataFrame): DisplayValue {
  const field = frame.fields[1];
  const known = field.values.filter((value) => value !== null);
  return { ...field.display!(known[known.length - 1] ?? null), title: field.name };
}

// The points on the grid of the query, with gaps where Prometheus has none, as its data source in Grafana does it.
function spread(series: Series, { from, to }: Answers, step: number): Array<[number, number | null]> {
  if (series.value !== undefined) {
    return [[series.value[0] * 1000, number(series.value[1])]];
  }
  const known = new Map(series.values!.map(([time, value]) => [Math.round(time), number(value)]));
  const count = Math.floor((to - from) / step) + 1;
  return Array.from({ length: count }, (_, index) => {
    const time = from + index * step;
    return [time * 1000, known.get(time) ?? null];
  });
}

function number(text: string): number | null {
  const value = Number(text);
  return Number.isFinite(value) ? value : null;
}

function legend(format: string, labels: Record<string, string>): string {
  return format === '__auto' ? '' : format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => labels[label] ?? '');
}

function configOf({ fieldConfig }: Panel, name: string): FieldConfig {
  const config: any = structuredClone(fieldConfig.defaults);
  config.thresholds?.steps.forEach((step: { value: number | null }) => { step.value ??= -Infinity; });
  for (const { matcher, properties } of fieldConfig.overrides) {
    if (matcher.id === 'byName' && matcher.options === name) {
      properties.forEach(({ id, value }) => { config[id] = value; });
    }
  }
  return config;
}
