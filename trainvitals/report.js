// Draws the charts of a report. Goes behind format.js and charts.js in one module.
{
  const runs = JSON.parse(document.getElementById("data").textContent);
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  const looks = { log: false, smoothing: 0 };
  const drawn = runs.map(({ id, data, axis }) => ({ container: document.getElementById(id), data, axis, drawing: null }));

  const draw = (more = {}) => {
    for (const each of drawn) {
      each.drawing = drawRun(each.container, each.data, { ...looks, axis: each.axis, dark: darkness.matches, ...more });
    }
  };

  for (const tools of document.querySelectorAll(".tools")) {
    const each = drawn.find(({ container }) => container.id === tools.dataset.of);
    tools.addEventListener("input", ({ target }) => {
      if (target.type === "radio") each.axis = target.value;
      if (target.type === "checkbox") looks.log = target.checked;
      if (target.type === "range") looks.smoothing = Number(target.value);
      for (const other of document.querySelectorAll(".tools input")) {
        if (other.type === "checkbox") other.checked = looks.log;
        if (other.type === "range") other.value = looks.smoothing;
      }
      draw();
    });
    tools.querySelector("button").addEventListener("click", () => each.drawing.zoom(null));
    tools.hidden = false;
  }

  for (const each of document.querySelectorAll("[data-phase]")) each.setAttribute("fill", PHASES[each.dataset.phase]);
  darkness.addEventListener("change", () => draw());
  addEventListener("beforeprint", () => draw({ dark: false, lazy: false }));
  addEventListener("afterprint", () => draw());
  draw();
  document.documentElement.dataset.drawn = "true";
}
