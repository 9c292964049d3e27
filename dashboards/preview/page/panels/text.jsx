import { renderTextPanelMarkdown } from '@grafana/data';

export function TextPanel({ options, replaceVariables }) {
  const content = replaceVariables(options.content ?? '');
  const html = options.mode === 'html' ? content : renderTextPanelMarkdown(content);
  return <div className="markdown-html" style={{ height: '100%' }} dangerouslySetInnerHTML={{ __html: html }} />;
}
