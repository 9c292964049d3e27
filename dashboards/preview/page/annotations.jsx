// Marks on a plot: a dashed line where an event is, a tint where it lasts, and a small marker on the axis of time.

import { useLayoutEffect } from 'react';

const MARKER_PIXELS = 4;

export function Annotations({ config, events, theme }) {
  useLayoutEffect(() => {
    config.addHook('draw', (plot) => {
      const scale = devicePixelRatio;
      const { left, top, width, height } = plot.bbox;
      const { ctx } = plot;
      const within = (x) => Math.min(left + width, Math.max(left, x));
      ctx.save();
      for (const { time, timeEnd, color } of events) {
        const start = within(plot.valToPos(time, 'x', true));
        const end = within(plot.valToPos(timeEnd, 'x', true));
        ctx.strokeStyle = ctx.fillStyle = theme.visualization.getColorByName(color);
        ctx.lineWidth = scale;
        ctx.setLineDash([5 * scale, 5 * scale]);
        if (end > start) {
          ctx.globalAlpha = 0.1;
          ctx.fillRect(start, top, end - start, height);
          ctx.globalAlpha = 1;
          ctx.fillRect(start, top + height, end - start, MARKER_PIXELS * scale);
        }
        for (const x of end > start ? [start, end] : [start]) {
          ctx.beginPath();
          ctx.moveTo(x, top);
          ctx.lineTo(x, top + height);
          ctx.stroke();
        }
        ctx.beginPath();
        ctx.moveTo(start, top + height);
        ctx.lineTo(start - MARKER_PIXELS * scale, top + height + 5 * scale);
        ctx.lineTo(start + MARKER_PIXELS * scale, top + height + 5 * scale);
        ctx.fill();
      }
      ctx.restore();
    });
  }, [config, events, theme]);
  return null;
}
