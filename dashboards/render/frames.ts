// From a panel of the file and Prometheus's answers to the data frames that Grafana's components draw.
import {
  applyFieldOverrides, cacheFieldDisplayNames, createDataFrame, type DataFrame, type DataTransformerConfig, dateTime,
  type DisplayValue, type FieldConfig, FieldConfigOptionsRegistry, FieldType, getDisplayProcessor,
  getFieldDisplayValuesProxy, type GrafanaTheme2, type ScopedVars, standardTransformers, standardTransformersRegistry,
  type TimeRange, transformDataFrame,
} from '@grafana/data';
import { firstValueFrom } from 'rxjs';

export interface Panel {
  id: number;
  type: 'row' | 'stat' | 'bargauge' | 'timeseries' | 'table';
  title: string;
  gridPos: { x: number; y: number; w: number; h: number };
  options: any;
  fieldConfig: {
    defaults: FieldConfig;
    overrides: Array<{ matcher: { id: string; options: string }; properties: Array<{ id: string; value: any }> }>;
  };
  targets: Array<{ refId: string; legendFormat: string }>;
  transformations?: DataTransformerConfig[];
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

// A table: the labels of the series and their values, after the panel's transformations and with its overrides, all by
// Grafana's own code. Nothing is filled in for variables but what a link needs of its row.
export async function tableOf(panel: Panel, answers: Answers, theme: GrafanaTheme2): Promise<DataFrame[]> {
  const { mergeTransformer, organizeFieldsTransformer } = standardTransformers;
  const known = [mergeTransformer, organizeFieldsTransformer] as any[];
  standardTransformersRegistry.setInit(() => known.map((transformation) => (
    { id: transformation.id, name: transformation.name, transformation } as any)));
  const frames = panel.targets.map(({ refId }) => {
    const { series } = answers.results[`${panel.id}/${refId}`];
    const labels = [...new Set(series.flatMap(({ metric }) => Object.keys(metric)))];
    return createDataFrame({
      refId,
      fields: [
        { name: 'Time', type: FieldType.time, config: {}, values: series.map(({ value }) => value![0] * 1000) },
        ...labels.map((name) => (
          { name, type: FieldType.string, config: {}, values: series.map(({ metric }) => metric[name] ?? '') })),
        { name: `Value #${refId}`, type: FieldType.number, config: {},
          values: series.map(({ value }) => number(value![1])) },
      ],
    });
  });
  const made = await firstValueFrom(transformDataFrame(panel.transformations!, frames));
  const fieldConfigRegistry = new FieldConfigOptionsRegistry(() => PROPERTIES as any);
  return applyFieldOverrides({
    data: made, fieldConfig: panel.fieldConfig as any, fieldConfigRegistry, replaceVariables, theme, timeZone: 'utc' });
}

// What an override may change; a server has these from the panel's plugin.
const PROPERTIES = ['unit', 'decimals', 'mappings', 'links', 'custom.width', 'custom.cellOptions'].map((id) => ({
  id, name: id, path: id.replace('custom.', ''), isCustom: id.startsWith('custom.'), settings: {},
  process: (value: unknown) => value, shouldApply: () => true,
}));

function replaceVariables(text: string, scoped?: ScopedVars): string {
  const context = scoped?.__dataContext?.value;
  return text.replace(/\$\{__data\.fields\.(\w+)\}/g, (_, key) => (
    getFieldDisplayValuesProxy({ frame: context.frame, rowIndex: context.rowIndex })[key]?.text ?? ''));
}

// The addresses that the links of a table's first row lead to.
export function linksOf(frame: DataFrame): string[] {
  return frame.fields.flatMap((field) => field.getLinks?.({ valueRowIndex: 0 }) ?? []).map(({ href }) => href);
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
