// Follows player.js, in one module with it: controls, a table, motions and charts. What a control
// shows was computed before (`views`), or is asked of Python. All text comes in as text nodes.

const PANEL_CSS = `
.et-panel { --ink: #1f2328; --soft: #5b6470; --card: #ffffff; --line: #d5d9e0; --accent: #0072b2;
  --bad: #b3261e; display: flex; flex-direction: column; gap: 10px; padding: 12px; box-sizing: border-box;
  background: var(--card); color: var(--ink); border: 1px solid var(--line); border-radius: 10px;
  font: 13px/1.4 system-ui, -apple-system, 'Segoe UI', sans-serif; }
.et-panel[data-theme=dark] { color-scheme: dark; --ink: #e6e9ee; --soft: #a3acb8; --card: #1b1e24;
  --line: #3a404a; --accent: #56b4e9; --bad: #ff8a80; }
.et-panel * { box-sizing: border-box; }
.et-panel [hidden] { display: none !important; }
.et-panel :focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.et-panel h3 { margin: 0; font-size: 14px; }
.et-controls { display: flex; flex-wrap: wrap; gap: 8px 16px; align-items: end; }
.et-field { display: flex; flex-direction: column; gap: 2px; font-size: 12px; color: var(--soft); }
.et-field.wide { flex: 1 1 260px; }
.et-field.text { flex: 1 1 100%; }
.et-field output { color: var(--ink); font-weight: 600; }
.et-field select, .et-field input[type=text], .et-push { font: inherit; font-size: 13px;
  color: var(--ink); background: transparent; border: 1px solid var(--line); border-radius: 6px;
  padding: 5px 8px; }
.et-field option { color: #1f2328; background: #fff; }
.et-field input[type=range] { width: 100%; margin: 4px 0; accent-color: var(--accent); }
.et-push { cursor: pointer; padding: 5px 14px; }
.et-push:hover:enabled { border-color: var(--accent); }
.et-push.main:enabled { background: var(--accent); border-color: var(--accent); color: var(--card); }
.et-push:disabled { opacity: .45; cursor: default; }
.et-note { color: var(--soft); min-height: 18px; overflow-wrap: anywhere; }
.et-note.failed { color: var(--bad); font-weight: 600; }
.et-note progress { display: block; width: 100%; height: 6px; accent-color: var(--accent); }
.et-charts { display: grid; gap: 12px 20px; grid-template-columns: repeat(auto-fit, minmax(270px, 1fr)); }
.et-chart { display: flex; flex-direction: column; min-width: 0; }
.et-chart canvas { width: 100%; height: 170px; display: block; margin-top: auto; }
.et-chart[data-pick] canvas { cursor: col-resize; touch-action: pan-y; }
.et-legend { display: flex; flex-wrap: wrap; gap: 0 12px; font-size: 12px; color: var(--soft); min-height: 17px; }
.et-legend i { display: inline-block; width: 16px; border-top: 2px solid; vertical-align: middle;
  margin-right: 5px; }
.et-legend i.dash { border-top-style: dashed; }
.et-table { max-height: 300px; overflow: auto; border: 1px solid var(--line); border-radius: 6px; }
.et-table table { border-collapse: collapse; width: 100%; font-size: 12px; }
.et-table th { position: sticky; top: 0; background: var(--card); text-align: left; padding: 0; }
.et-table th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0;
  padding: 5px 8px; cursor: pointer; width: 100%; text-align: left; white-space: nowrap; }
.et-table td { padding: 3px 8px; border-top: 1px solid var(--line); max-width: 300px;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-variant-numeric: tabular-nums; }
.et-table tr[aria-selected=true] td { background: color-mix(in srgb, var(--accent) 18%, transparent); }
.et-panel .et-player { border: 0; padding: 0; }
`;

const TONES = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00'];

const short = v => v === 0 ? '0' : Math.abs(v) >= 1e4 || Math.abs(v) < 1e-3 ? v.toExponential(1)
  : String(+v.toPrecision(3));

function ticks(low, high, log) {
  if (log) {
    const step = Math.max(1, Math.ceil((high - low) / 4)), out = [];
    for (let e = Math.ceil(low); e <= high + 1e-9; e += step) out.push(e);
    return out.length > 1 ? out : [low, high];
  }
  const rough = (high - low) / 4, ten = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(k => k * ten).find(k => k >= rough), out = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + 1e-9; v += step) out.push(v);
  return out;
}

// One chart; `pick` is told the x that was clicked or dragged to.
function chartOf(pick) {
  const box = make('div', 'et-chart'), head = make('h3'), legend = make('div', 'et-legend');
  const canvas = make('canvas');
  canvas.setAttribute('role', 'img');
  box.append(head, legend, canvas);
  let chart = null, mark = null, hover = null, area = null;

  function draw() {
    const w = canvas.clientWidth, h = canvas.clientHeight, night = isDark();
    if (!chart || w < 20) return;
    const ratio = Math.min(3, globalThis.devicePixelRatio || 1);
    Object.assign(canvas, { width: Math.round(w * ratio), height: Math.round(h * ratio) });
    const g = canvas.getContext('2d');
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.font = '11px system-ui, sans-serif';
    const soft = night ? '#a3acb8' : '#5b6470', faint = night ? '#333942' : '#e8ebef';
    const tone = c => css(night ? mix(rgb(c), WHITE, .25) : rgb(c));
    const f = chart.log ? v => Math.log10(v) : v => v;
    const lines = chart.series.map(s => ({ ...s, points: s.x.map((x, i) => [x, s.y[i]])
      .filter(([, y]) => y !== null && (!chart.log || y > 0)).map(([x, y]) => [x, f(y)]) }));
    const all = lines.flatMap(l => l.points);
    const xs = all.map(p => p[0]), ys = all.map(p => p[1]);
    let [x0, x1, y0, y1] = all.length ? [Math.min(...xs), Math.max(...xs), Math.min(...ys),
      Math.max(...ys)] : [0, 1, 0, 1];
    [x0, x1] = chart.x_range ?? [x0, x1];
    if (chart.y_range) [y0, y1] = chart.y_range.map(f);
    else if (chart.zero) [y0, y1] = [Math.min(0, y0), Math.max(0, y1)];
    if (x1 - x0 < 1e-9) { x0 -= .5; x1 += .5; }
    if (y1 - y0 < 1e-9) { const by = Math.abs(y1) * .05 || .5; y0 -= by; y1 += by; }
    if (!chart.y_range) { const by = .06 * (y1 - y0); y1 += by; if (!chart.zero) y0 -= by; }
    const marks = ticks(y0, y1, chart.log);
    const said = marks.map(v => chart.log ? '1e' + +v.toFixed(1) : short(+v.toPrecision(6)));
    const left = 10 + Math.max(...said.map(s => g.measureText(s).width), 10);
    const px = x => left + 6 + (x - x0) / (x1 - x0) * (w - left - 14);
    const py = y => 6 + (y1 - y) / (y1 - y0) * (h - 42);
    area = { x0, x1, left: left + 6, wide: w - left - 14 };
    g.textBaseline = 'middle';
    marks.forEach((v, i) => {
      g.fillStyle = faint;
      g.fillRect(left, Math.round(py(v)), w - left - 4, 1);
      g.fillStyle = soft;
      g.textAlign = 'right';
      g.fillText(said[i], left - 3, py(v));
    });
    g.textAlign = 'center';
    for (const v of ticks(x0, x1)) g.fillText(short(+v.toPrecision(6)), px(v), h - 27);
    g.fillText(chart.x_label, (left + w) / 2, h - 9);
    const upright = x => { g.beginPath(); g.moveTo(px(x), 6); g.lineTo(px(x), h - 36); g.stroke(); };
    if (mark !== null && mark !== undefined) {
      g.strokeStyle = tone('#0072b2');
      g.lineWidth = 2;
      upright(mark);
    }
    g.lineWidth = 1.8;
    g.lineJoin = 'round';
    for (const { points, color, dash } of lines) {
      g.strokeStyle = g.fillStyle = tone(color);
      g.setLineDash(dash ? [5, 3] : []);
      g.beginPath();
      points.forEach(([x, y]) => g.lineTo(px(x), py(y)));
      g.stroke();
      g.setLineDash([]);
      if (points.length < 40) for (const [x, y] of points) {
        g.beginPath();
        g.arc(px(x), py(y), x === mark ? 4 : 2.2, 0, 7);
        g.fill();
      }
    }
    const at = hover ?? mark;
    legend.textContent = '';
    for (const { name, color, dash, points } of lines) {
      const key = make('span'), line = make('i', dash ? 'dash' : '');
      line.style.borderColor = tone(color);
      const near = at === null || at === undefined ? null
        : points.reduce((b, p) => !b || Math.abs(p[0] - at) < Math.abs(b[0] - at) ? p : b, null);
      const value = near ? ' ' + short(chart.log ? 10 ** near[1] : near[1]) : '';
      key.append(line, document.createTextNode(name + value));
      legend.append(key);
    }
    if (hover !== null) { g.strokeStyle = soft; g.lineWidth = 1; upright(hover); }
  }

  const where = e => {
    const x = area.x0 + (e.offsetX - area.left) / area.wide * (area.x1 - area.x0);
    const known = chart.series.flatMap(s => s.x);
    return known.reduce((b, v) => Math.abs(v - x) < Math.abs(b - x) ? v : b, known[0] ?? x);
  };
  canvas.addEventListener('pointermove', e => {
    if (!area) return;
    hover = where(e);
    if (chart.pick && e.buttons) pick(chart.pick, hover);
    draw();
  });
  canvas.addEventListener('pointerdown', e => { if (area && chart.pick) pick(chart.pick, where(e)); });
  canvas.addEventListener('pointerleave', () => { hover = null; draw(); });
  return {
    box, draw,
    show(given, at) {
      chart = given;
      mark = at;
      head.textContent = chart.title;
      if (chart.pick) box.dataset.pick = chart.pick; else delete box.dataset.pick;
      const ends = chart.series.filter(s => s.y.length).map(s => `${s.name} ends at ${short(s.y.at(-1) ?? 0)}`);
      canvas.setAttribute('aria-label', [chart.title, ...ends].join('; '));
      draw();
    },
  };
}

// Rows that can be sorted, filtered and chosen.
function tableOf(chosen) {
  const box = make('div', 'et-table');
  box.tabIndex = 0;
  box.setAttribute('role', 'region');
  box.setAttribute('aria-label', 'Table');
  let data = null, by = null, down = false, wanted = new Set(), filter = '';

  function draw() {
    if (!data) return;
    const table = make('table'), head = make('tr'), first = make('th');
    first.append(make('span', '', ' '));
    first.setAttribute('aria-label', 'Chosen');
    head.append(first);
    data.columns.forEach((title, c) => {
      const cell = make('th'), button = make('button', '', title + (by === c ? down ? ' ↓' : ' ↑' : ''));
      button.type = 'button';
      cell.setAttribute('aria-sort', by === c ? down ? 'descending' : 'ascending' : 'none');
      button.addEventListener('click', () => { down = by === c && !down; by = c; draw(); });
      cell.append(button);
      head.append(cell);
    });
    table.append(head);
    const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = data.rows.filter(r => words.every(word => r.join(' ').toLowerCase().includes(word)));
    if (by !== null) rows.sort((a, b) => {
      const [p, q] = [a[by], b[by]], numbers = typeof p === 'number' && typeof q === 'number';
      const order = numbers ? p - q : String(p).localeCompare(String(q), 'en', { numeric: true });
      return down ? -order : order;
    });
    for (const row of rows) {
      const line = make('tr'), cell = make('td'), tick = Object.assign(make('input'), { type: 'checkbox' });
      tick.checked = wanted.has(row[0]);
      tick.setAttribute('aria-label', `Choose ${row[0]}`);
      line.setAttribute('aria-selected', tick.checked);
      tick.addEventListener('change', () => {
        if (tick.checked) wanted.add(row[0]); else wanted.delete(row[0]);
        line.setAttribute('aria-selected', tick.checked);
        chosen([...wanted]);
      });
      cell.append(tick);
      line.append(cell, ...row.map(v => {
        const td = make('td', '', typeof v === 'number' ? short(v) : v);
        td.title = String(v);
        return td;
      }));
      table.append(line);
    }
    const top = box.scrollTop;
    box.replaceChildren(table);
    box.scrollTop = top;
    box.dataset.rows = rows.length;
  }
  return { box, draw, show(given, rows) { data = given; wanted = new Set(rows); draw(); },
    filter(text) { filter = text; draw(); } };
}

export function panel(el, given, hooks = {}) {
  const state = { ...given, views: { ...given.views } };
  el.textContent = '';
  const root = make('div', 'et-panel'), bar = make('div', 'et-controls');
  root.setAttribute('role', 'group');
  root.setAttribute('aria-label', state.label);
  const note = make('div', 'et-note'), said = make('span'), gauge = make('progress');
  note.setAttribute('role', 'status');
  gauge.hidden = true;
  note.append(said, gauge);
  const stage = make('div'), charts = make('div', 'et-charts');
  const table = tableOf(rows => set({ ...state.values, chosen: rows.join('\n') }));
  root.append(make('style', '', CSS + PANEL_CSS), make('h3', '', state.label), bar, note,
    table.box, stage, charts);
  el.append(root);
  let drawings = [], player = null, kind = '', fields = {}, built = '';

  const key = () => JSON.stringify(state.controls.filter(c => c.options || c.kind === 'table')
    .map(c => state.values[c.name]));

  function set(values) {
    state.values = values;
    fill();
    show();
    hooks.onvalues?.(values);
  }

  function build() {
    const now = JSON.stringify(state.controls.map(c => [c.kind, c.name]));
    if (now === built) return patch();
    built = now;
    bar.textContent = '';
    fields = {};
    for (const c of state.controls) {
      if (c.kind === 'table') continue;
      if (c.kind === 'button') {
        const button = make('button', 'et-push' + (c.main ? ' main' : ''), c.label);
        button.type = 'button';
        button.dataset.name = c.name;
        button.disabled = !hooks.onbutton || !!c.off;
        button.addEventListener('click', () => hooks.onbutton?.(c.name, state.values));
        bar.append(button);
        continue;
      }
      const field = make('label', 'et-field' + ({ choice: '', slider: ' wide' }[c.kind] ?? ' text'));
      const name = make('span', '', c.label + ' '), value = make('output');
      name.append(value);
      let input;
      if (c.kind === 'choice') {
        input = make('select');
        for (const o of c.options) input.append(Object.assign(make('option', '', o), { value: o }));
        input.addEventListener('change', () => set({ ...state.values, [c.name]: input.value }));
      } else if (c.kind === 'slider') {
        input = Object.assign(make('input'), { type: 'range', min: 0, max: c.options.length - 1 });
        input.addEventListener('input', () =>
          set({ ...state.values, [c.name]: fields[c.name].c.options[+input.value] }));
      } else {
        input = Object.assign(make('input'), { type: 'text', maxLength: 200 });
        const put = () => c.kind === 'filter' ? table.filter(input.value)
          : set({ ...state.values, [c.name]: input.value });
        input.addEventListener(c.kind === 'filter' ? 'input' : 'change', put);
      }
      input.dataset.name = c.name;
      input.disabled = !!c.off;
      field.append(name, input);
      bar.append(field);
      fields[c.name] = { c, input, value };
    }
    root.onkeydown = e => e.stopPropagation();  // the notebook has keys of its own
    fill();
  }

  function patch() {  // so that whoever types or drags is not disturbed
    for (const c of state.controls) {
      const button = c.kind === 'button' && bar.querySelector(`button[data-name="${c.name}"]`);
      if (button) button.disabled = !hooks.onbutton || !!c.off;
      if (!fields[c.name]) continue;
      fields[c.name].c = c;
      if (c.kind === 'slider') fields[c.name].input.max = c.options.length - 1;
    }
    fill();
  }

  function fill() {
    for (const { c, input, value } of Object.values(fields)) {
      const now = state.values[c.name] ?? '';
      if (c.kind === 'slider') {
        input.value = Math.max(0, c.options.indexOf(now));
        input.setAttribute('aria-valuetext', now);
        value.textContent = now;
      } else if (c.kind !== 'filter' && document.activeElement !== input) input.value = now;
      else if (c.kind === 'choice') input.value = now;
    }
  }

  function show() {
    const found = state.views[key()] ?? (hooks.onvalues ? state.view : null);
    const view = { ...state.base, ...found };
    if (!found && !hooks.onvalues)
      view.note = 'Not computed when this page was made: run the notebook to see it.';
    root.dataset.theme = isDark() ? 'dark' : 'light';
    root.dataset.key = key();
    said.textContent = view.note ?? '';
    note.classList.toggle('failed', !!view.failed);
    gauge.hidden = view.progress === undefined || view.progress === null;
    if (!gauge.hidden) gauge.value = view.progress;
    table.box.hidden = !view.table;
    if (view.table) table.show(view.table, (state.values.chosen ?? '').split('\n').filter(Boolean));
    const wanted = view.curves ? laid(view.curves) : view.charts ?? [];
    while (drawings.length > wanted.length) drawings.pop().box.remove();
    while (drawings.length < wanted.length) {
      drawings.push(chartOf(picked));
      charts.append(drawings.at(-1).box);
    }
    wanted.forEach((chart, i) => drawings[i].show(chart, view.mark));
    const spec = view.motions ? { ...view.player, ...view.motions } : view.player;
    const own = view.motions ?? view.player;
    const now = spec ? JSON.stringify([spec.tracks.map(t => [t.name, t.joints]), spec.columns]) : '';
    if (now && now === kind && player) {
      if (own !== player.given) player.load(spec);
    } else {
      player?.dispose();
      player = spec ? mount(stage, spec) : null;
    }
    if (player) player.given = own;
    kind = now;
    grow();
  }

  // Curves of the chosen rows, those of one title in one chart.
  function laid(curves) {
    const byTitle = new Map(), chosen = (state.values.chosen ?? '').split('\n').filter(Boolean);
    chosen.forEach((run, i) => (curves[run] ?? []).forEach(({ title, name, x, y }) => {
      if (!byTitle.has(title)) byTitle.set(title, { title, x_label: '', series: [] });
      const { series } = byTitle.get(title);
      const label = [run.split('/').at(-1), name].filter(Boolean).join(': ');
      series.push({ name: label, x, y, color: TONES[i % TONES.length], dash: i >= TONES.length });
    }));
    return [...byTitle.values()].slice(0, 12);
  }

  function picked(name, x) {
    const c = state.controls.find(one => one.name === name);
    const option = c?.options.find(o => parseFloat(o) === x);
    if (option && option !== state.values[name]) set({ ...state.values, [name]: option });
  }

  function grow() {  // a page of its own makes its frame as high as itself
    try {
      const frame = globalThis.frameElement;
      if (frame && !hooks.onvalues) frame.style.height = Math.ceil(root.offsetHeight) + 'px';
    } catch { /* a page of another origin */ }
  }

  const resize = new ResizeObserver(() => { drawings.forEach(d => d.draw()); grow(); });
  resize.observe(root);
  const repaint = () => {
    root.dataset.theme = isDark() ? 'dark' : 'light';
    drawings.forEach(d => d.draw());
  };
  const forget = onTheme(repaint);
  build();
  show();

  return {
    update(change) {
      if (change.view?.key) state.views[change.view.key] = change.view;
      Object.assign(state, change);
      if (change.controls) build(); else fill();
      show();
    },
    dispose() {
      player?.dispose();
      resize.disconnect();
      forget();
      el.textContent = '';
    },
  };
}

export default {
  render({ model, el }) {
    const get = name => model.get(name);
    const names = ['label', 'controls', 'values', 'base', 'views', 'view'];
    const made = panel(el, Object.fromEntries(names.map(n => [n, get(n)])), {
      onvalues(values) { model.set('values', values); model.save_changes(); },
      onbutton(name, values) { model.send({ button: name, values }); },
    });
    const heard = ['controls', 'values', 'base', 'view'].map(name =>
      ['change:' + name, () => made.update({ [name]: get(name) })]);
    heard.forEach(([event, act]) => model.on(event, act));
    return () => {
      heard.forEach(([event, act]) => model.off(event, act));
      made.dispose();
    };
  },
};
