// What the parts of a dashboard file have to be, in Grafana's own words. DASHBOARD is where a release has the types of a
// dashboard: tests/dashboards/test_schema.py says it, for each of the releases in package.json.
import type { Dashboard } from '@grafana/schema/DASHBOARD';
import type { Options as BarGauge } from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type { Options as Stat } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type {
  FieldConfig as Cells,
  Options as Table,
} from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type {
  FieldConfig,
  Options as TimeSeries,
} from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

export interface Checked {
  dashboard: Dashboard;
  stat: Stat;
  bargauge: BarGauge;
  table: Table;
  timeseries: TimeSeries;
  cells: Cells;
  custom: FieldConfig;
}
