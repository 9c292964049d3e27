// What Grafana does to frames before a panel sees them: transformations, then the panel's field options.

import {
  FieldConfigOptionsRegistry,
  applyFieldOverrides,
  dataLinksOverrideProcessor,
  displayNameOverrideProcessor,
  identityOverrideProcessor,
  numberOverrideProcessor,
  standardFieldConfigEditorRegistry,
  standardTransformers,
  standardTransformersRegistry,
  thresholdsOverrideProcessor,
  toDataFrame,
  transformDataFrame,
  unitOverrideProcessor,
  valueMappingsOverrideProcessor,
} from '@grafana/data';
import { firstValueFrom } from 'rxjs';

const STANDARD = Object.entries({
  unit: unitOverrideProcessor,
  min: numberOverrideProcessor,
  max: numberOverrideProcessor,
  decimals: numberOverrideProcessor,
  displayName: displayNameOverrideProcessor,
  noValue: identityOverrideProcessor,
  color: identityOverrideProcessor,
  thresholds: thresholdsOverrideProcessor,
  mappings: valueMappingsOverrideProcessor,
  links: dataLinksOverrideProcessor,
  description: identityOverrideProcessor,
  filterable: identityOverrideProcessor,
  fieldMinMax: identityOverrideProcessor,
}).map(([path, process]) => option(path, path, process));

standardFieldConfigEditorRegistry.setInit(() => STANDARD);
standardTransformersRegistry.setInit(() =>
  // One of them is there under two names.
  [...new Set(Object.values(standardTransformers))].map((transformer) => ({
    id: transformer.id,
    name: transformer.name,
    transformation: async () => transformer,
    editor: () => null,
  })),
);

function option(id, path, process) {
  return {
    id,
    path,
    name: id,
    description: '',
    settings: {},
    process,
    editor: () => null,
    override: () => null,
    shouldApply: () => true,
  };
}

// Each kind of panel has custom options of its own; those that this panel sets are all that matter.
function optionsOf(fieldConfig) {
  const paths = new Set(Object.keys(fieldConfig.defaults.custom ?? {}));
  for (const { properties } of fieldConfig.overrides) {
    for (const { id } of properties) {
      if (id.startsWith('custom.')) {
        paths.add(id.slice('custom.'.length));
      }
    }
  }
  const custom = [...paths].map((path) => ({
    ...option(`custom.${path}`, path, identityOverrideProcessor),
    isCustom: true,
    // Not even where all fields are given a label does the axis of time get one.
    shouldApply: ({ type }) => type !== 'time' || !path.startsWith('axis'),
  }));
  return new FieldConfigOptionsRegistry(() => [...STANDARD, ...custom]);
}

// In a file the lowest threshold has no value; Grafana reads that as minus infinity.
function withLowestThreshold(value) {
  if (Array.isArray(value)) {
    return value.map(withLowestThreshold);
  }
  if (value === null || typeof value !== 'object') {
    return value;
  }
  const copied = Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, withLowestThreshold(inner)]));
  if (Array.isArray(copied.steps)) {
    copied.steps = copied.steps.map((step) => ({ ...step, value: step.value ?? -Infinity }));
  }
  return copied;
}

// `${run}`, `${__field.labels.run}` and the like, in links and display names.
export function replacerOf(texts) {
  return (text, scopedVars) =>
    String(text).replace(/\$\{([\w.]+)(?::\w+)?\}|\$(\w+)/g, (whole, braced, bare) => {
      const name = braced ?? bare;
      const field = scopedVars?.__dataContext?.value?.field;
      if (field && name.startsWith('__field.labels.')) {
        return field.labels?.[name.slice('__field.labels.'.length)] ?? '';
      }
      if (field && (name === '__field.name' || name === '__field.displayName')) {
        return field.config.displayNameFromDS ?? field.name;
      }
      return texts[name] ?? scopedVars?.[name]?.text ?? whole;
    });
}

export async function prepared(panel, frames, theme, replaceVariables) {
  const before = frames.map(toDataFrame);
  const context = { interpolate: (text) => text };
  const after = await firstValueFrom(transformDataFrame(panel.transformations ?? [], before, context));
  const { defaults = {}, overrides = [] } = withLowestThreshold(panel.fieldConfig ?? {});
  const fieldConfig = { defaults, overrides };
  const data = applyFieldOverrides({
    data: after,
    fieldConfig,
    fieldConfigRegistry: optionsOf(fieldConfig),
    replaceVariables,
    theme,
    timeZone: 'utc',
  });
  return { data, fieldConfig };
}
