// Plays motions on Canvas 2D: no WebGL, no dependencies, no network. The same module runs as an
// anywidget and inside a page of its own. All text comes in as text nodes.

const CSS = `
.et-player { --ink: #1f2328; --soft: #5b6470; --card: #ffffff; --line: #d5d9e0; --accent: #0072b2;
  display: flex; flex-direction: column; gap: 6px; box-sizing: border-box; padding: 10px 12px;
  background: var(--card); color: var(--ink); border: 1px solid var(--line); border-radius: 10px;
  font: 13px/1.35 system-ui, -apple-system, 'Segoe UI', sans-serif; }
.et-player[data-theme=dark] { color-scheme: dark; --ink: #e6e9ee; --soft: #a3acb8; --card: #1b1e24; --line: #3a404a;
  --accent: #56b4e9; }
.et-player * { box-sizing: border-box; }
.et-title { font-weight: 600; }
.et-caption { color: var(--soft); font-size: 12px; overflow-wrap: anywhere; }
.et-head { min-width: 0; }
.et-name { font-weight: 600; margin-right: 10px; overflow-wrap: anywhere; }
button.et-name { font: inherit; font-weight: 600; color: inherit; background: none; border: 0;
  border-radius: 4px; padding: 0 2px; margin-left: -2px; cursor: pointer; }
button.et-name[aria-pressed=false] { opacity: .6; font-weight: 400; }
.et-player :focus-visible { outline: 2px solid var(--accent); }
.et-tip { position: absolute; pointer-events: none; padding: 1px 6px; border-radius: 4px;
  font-size: 11px; background: var(--ink); color: var(--card); white-space: nowrap; z-index: 1; }
.et-tip[hidden] { display: none; }
.et-name i { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 5px; }
.et-grid { display: grid; gap: 8px 12px; flex: 1; min-height: 0; grid-auto-rows: 1fr; }
.et-cell { display: flex; flex-direction: column; min-width: 0; min-height: 0; }
.et-cell > .et-stage-3d { flex: 1; position: relative; min-height: 60px; }
.et-cell canvas { position: absolute; inset: 0; width: 100%; height: 100%; cursor: grab;
  border-radius: 6px; touch-action: pan-y; outline-offset: -2px; }
.et-bar { display: flex; gap: 8px 12px; align-items: center; flex-wrap: wrap; font-size: 12px; }
.et-bar > div { flex: 1 1 110px; min-width: 100px; }
.et-bar input[type=range] { width: 100%; margin: 0; display: block; accent-color: var(--accent); }
.et-bar canvas { width: 100%; height: 30px; display: block; margin-top: 3px; }
.et-bar label { display: inline-flex; gap: 4px; align-items: center; }
.et-bar input[type=checkbox] { margin: 0; accent-color: var(--accent); }
.et-bar select, .et-play, .et-step { font: inherit; color: inherit; background: transparent;
  border: 1px solid var(--line); border-radius: 6px; padding: 2px 4px; }
.et-step { cursor: pointer; height: 28px; width: 22px; }
.et-bar option { color: #1f2328; background: #fff; }
.et-play { width: 34px; height: 28px; display: grid; place-items: center; cursor: pointer; }
.et-play::before { content: ''; width: 12px; height: 13px; background: currentColor;
  clip-path: polygon(8% 0, 100% 50%, 8% 100%); }
.et-play[aria-pressed=true]::before { clip-path: polygon(0 0, 33% 0, 33% 100%, 67% 100%, 67% 0,
  100% 0, 100% 100%, 33% 100%, 0 100%); }
.et-time { min-width: 108px; text-align: right; font-variant-numeric: tabular-nums; }
`;

const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

const decode = base64 => {
  const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
  return new Int16Array(bytes.buffer);
};

// Bytes are differences to the frame before; -128 says that a whole number of two bytes follows.
function unroll(base64, frames, width) {
  const bytes = new Int8Array(Uint8Array.from(atob(base64), c => c.charCodeAt(0)).buffer);
  const data = new Int16Array(frames * width);
  for (let i = 0, at = 0; i < data.length; i++) {
    const step = bytes[at++];
    if (step !== -128) data[i] = (i < width ? 0 : data[i - width]) + step;
    else data[i] = (bytes[at++] & 255) | bytes[at++] << 8;
  }
  return data;
}

const bodies = () => [globalThis, globalThis.parent].flatMap(w => {
  try { return [w.document.body]; } catch { return []; }  // a page of another origin
});

// JupyterLab says its theme on the body; other pages leave it to the reader.
function isDark() {
  const light = bodies().map(body => body.dataset.jpThemeLight).find(Boolean);
  return light ? light === 'false'
    : globalThis.matchMedia?.('(prefers-color-scheme: dark)')?.matches ?? false;
}

// Acts on a change of the theme, and once more when the page has come to rest.
function onTheme(act) {
  const twice = () => { act(); setTimeout(act, 400); };
  const scheme = globalThis.matchMedia?.('(prefers-color-scheme: dark)');
  const watch = new MutationObserver(twice);
  for (const body of new Set(bodies()))
    watch.observe(body, { attributes: true, attributeFilter: ['data-jp-theme-light'] });
  scheme?.addEventListener('change', twice);
  return () => { watch.disconnect(); scheme?.removeEventListener('change', twice); };
}

const rgb = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
const mix = (a, b, t) => a.map((x, i) => x + t * (b[i] - x));
const css = (c, alpha = 1) => `rgba(${c.map(x => Math.round(x)).join()},${alpha})`;
const WHITE = [255, 255, 255], BLACK = [0, 0, 0];
const TINT = { left: [WHITE, .42], right: [BLACK, .3], trunk: [WHITE, .08], head: [WHITE, .16] };

// Points of one frame: joints, tips beyond them, nose. Metres.
function pose(track, now, spec) {
  const body = spec.bodies[track.body], n = track.joints, points = [];
  for (let j = 0; j < n; j++)
    points.push([0, 1, 2].map(a => track.data[(now * n + j) * 3 + a] * spec.scale));
  const unit = v => { const d = Math.hypot(...v) || 1; return v.map(x => x / d); };
  const minus = (p, q) => p.map((x, a) => x - q[a]);
  const beyond = (p, way, length) => p.map((x, a) => x + length * way[a]);
  for (const [joint, base, length] of body.tips)
    points.push(beyond(points[joint], unit(minus(points[joint], points[base])), length));
  const [head, face, left, right] = body.nose.map(i => points[i]);
  const u = minus(left, right), v = minus(face, head);
  const ahead = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
  points.push(beyond(face, unit(ahead), spec.nose_length));
  return points;
}

export function mount(el, given, hooks = {}) {
  const spec = { ...given };
  const read = t => ({ ...t, data: unroll(t.data, t.frames, 3 * t.joints), rgb: rgb(t.color) });
  const tracks = spec.tracks.map(read);
  const cells = spec.cells.map(c => ({ ...c, focus: decode(c.focus) }));
  let last = spec.frames - 1, drawn = 0;
  const home = { yaw: spec.yaw, pitch: .25, zoom: 1 };
  let camera = { ...home, ...spec.camera }, frame = 0, playing = false, request = 0, then = 0, owed = 0;
  const gone = new AbortController(), on = { signal: gone.signal };

  const at = track =>
    Math.min(track.frames - 1, Math.floor(frame / spec.fps * track.fps + .5));

  // --- page
  el.textContent = '';
  const root = make('div', 'et-player');
  root.style.height = spec.height + 'px';
  root.setAttribute('role', 'group');
  root.setAttribute('aria-label', spec.label);
  root.append(make('style', '', CSS));
  if (spec.title) root.append(make('div', 'et-title', spec.title));
  if (spec.caption) root.append(make('div', 'et-caption', spec.caption));
  const grid = make('div', 'et-grid');
  grid.style.gridTemplateColumns = `repeat(${spec.columns}, minmax(0, 1fr))`;
  for (const cell of cells) {
    const box = make('div', 'et-cell'), head = make('div', 'et-head'), stage = make('div', 'et-stage-3d');
    for (const t of cell.tracks.map(i => tracks[i])) {
      if (!t.name) continue;
      const name = make(cell.tracks.length > 1 ? 'button' : 'span', 'et-name'), dot = make('i');
      dot.style.background = t.color;
      name.append(dot, document.createTextNode(t.name));
      if (cell.tracks.length > 1) {
        name.type = 'button';
        name.title = 'Solid, or a ghost';
        name.setAttribute('aria-pressed', !t.ghost);
        name.addEventListener('click', () => {
          t.ghost = !t.ghost;
          name.setAttribute('aria-pressed', !t.ghost);
          draw();
        }, on);
      }
      head.append(name);
    }
    if (cell.caption) head.append(make('div', 'et-caption', cell.caption));
    cell.canvas = make('canvas');
    cell.canvas.tabIndex = 0;
    cell.canvas.setAttribute('role', 'img');
    cell.canvas.setAttribute('aria-label', cell.label);
    cell.canvas.setAttribute('aria-description',
      'Drag or shift and arrows to turn; plus and minus, or click and scroll, to zoom; '
      + 'double-click or 0 to reset; space plays, arrows step');
    cell.tip = make('div', 'et-tip');
    cell.tip.hidden = true;
    stage.append(cell.tip, cell.canvas);
    if (head.childNodes.length) box.append(head);
    box.append(stage);
    grid.append(box);
  }
  const play = make('button', 'et-play');
  play.type = 'button';
  const slider = Object.assign(make('input'), { type: 'range', min: 0, max: last, value: 0 });
  slider.setAttribute('aria-label', 'Frame');
  const time = make('span', 'et-time'), speed = make('select');
  speed.setAttribute('aria-label', 'Speed');
  for (const v of [.25, .5, 1, 2])
    speed.append(Object.assign(make('option', '', v + '×'), { value: v, selected: v === 1 }));
  const box = (text, checked) => {
    const label = make('label'), input = make('input');
    Object.assign(input, { type: 'checkbox', checked });
    label.append(input, document.createTextNode(text));
    return [label, input];
  };
  const [loopLabel, loop] = box('loop', true), [trailLabel, trail] = box('trail', spec.trail);
  const [feetLabel, feet] = box('contacts', true), [pastLabel, past] = box('ghosts', false);
  const [back, forth] = [['‹', 'One frame back', -1], ['›', 'One frame on', 1]].map(
    ([text, label, by]) => {
      const button = make('button', 'et-step', text);
      button.type = 'button';
      button.setAttribute('aria-label', label);
      button.addEventListener('click', () => { toggle(false); show(frame + by); }, on);
      return button;
    });
  const bar = make('div', 'et-bar'), line = make('div');
  const plot = make('canvas'), said = make('div', 'et-caption');
  line.append(slider);
  if (spec.rewards) {
    line.append(plot, said);
    plot.setAttribute('role', 'img');
    plot.setAttribute('aria-label', spec.reward_label);
  }
  bar.append(play, back, forth, line, time, speed, loopLabel, trailLabel, feetLabel, pastLabel);
  root.append(grid, bar);
  el.append(root);

  // --- camera: orbits a point half a body above the ground
  const media = q => globalThis.matchMedia?.(q);
  function projector(cell, w, h) {
    const { yaw, pitch, zoom } = camera;
    const cy = Math.cos(yaw), sy = Math.sin(yaw), cp = Math.cos(pitch), sp = Math.sin(pitch);
    const x0 = cell.focus[2 * frame] * spec.scale, z0 = cell.focus[2 * frame + 1] * spec.scale;
    const lens = 1.9 * Math.max(h, .6 * w);
    const turn = ([x, y, z]) => {
      x -= x0; z -= z0; y -= spec.middle;
      const near = sy * x + cy * z;
      return [cy * x - sy * z, cp * y - sp * near, sp * y + cp * near];
    };
    const distance = cell.distance / zoom;
    const project = p => {
      const [right, up, near] = turn(p), f = lens / Math.max(distance - near, .1);
      return [w / 2 + right * f, h / 2 - (up - cell.middle) * f, near, f];
    };
    return { turn, project, lens, x0, z0 };
  }

  // The nearest camera from which the motions fit, seen from where the camera starts.
  function fit(cell, w, h) {
    const keep = [frame, camera], points = [];
    camera = { ...home };
    cell.distance = 1;
    const { lens } = projector(cell, w, h);
    for (frame = 0; frame <= last; frame += Math.ceil(spec.frames / 50)) {
      const { turn } = projector(cell, w, h);
      for (const i of cell.tracks) points.push(...pose(tracks[i], at(tracks[i]), spec).map(turn));
    }
    [frame, camera] = keep;
    let high = -1e9, low = 1e9;
    for (const [, up] of points) { high = Math.max(high, up); low = Math.min(low, up); }
    cell.middle = (high + low) / 2;
    for (const [right, up, near] of points) {
      const wide = (Math.abs(right) + .14) / w, tall = (Math.abs(up - cell.middle) + .14) / h;
      cell.distance = Math.max(cell.distance, near + 2 * lens * Math.max(wide, tall));
    }
    cell.size = cell.canvas.clientWidth + 'x' + cell.canvas.clientHeight;
  }

  // All pictures at one scale, so that motions can be compared.
  function frameAll() {
    const sizes = cells.map(({ canvas: c }) => c.clientWidth + 'x' + c.clientHeight);
    if (cells.every((cell, i) => cell.size === sizes[i])) return;
    for (const cell of cells) fit(cell, cell.canvas.clientWidth || 1, cell.canvas.clientHeight || 1);
    const distance = Math.max(...cells.map(cell => cell.distance));
    for (const cell of cells) cell.distance = distance;
  }

  // --- drawing
  function sized(canvas) {
    const { clientWidth: w, clientHeight: h } = canvas;
    const ratio = Math.min(3, globalThis.devicePixelRatio || 1);
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio))
      Object.assign(canvas, { width: Math.round(w * ratio), height: Math.round(h * ratio) });
    const g = canvas.getContext('2d');
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, w, h);
    return { g, w, h };
  }

  function capsule(g, a, b, ra, rb) {
    const d = Math.hypot(b[0] - a[0], b[1] - a[1]), way = Math.atan2(b[1] - a[1], b[0] - a[0]);
    const open = Math.acos(Math.max(-1, Math.min(1, (ra - rb) / Math.max(d, 1e-6))));
    g.moveTo(a[0] + ra * Math.cos(way + open), a[1] + ra * Math.sin(way + open));
    g.arc(a[0], a[1], ra, way + open, way - open + 2 * Math.PI);
    g.arc(b[0], b[1], rb, way - open, way + open);
    g.closePath();
  }

  function ground(g, view, night) {
    const { project, x0, z0 } = view, reach = 3.5, step = .5;
    const middle = project([x0, 0, z0]), size = reach * middle[3] * .8;
    const fade = g.createRadialGradient(0, 0, 0, 0, 0, size);
    const tone = night ? '160,172,190' : '60,72,92';
    fade.addColorStop(0, `rgba(${tone},.4)`);
    fade.addColorStop(.45, `rgba(${tone},.2)`);
    fade.addColorStop(1, `rgba(${tone},0)`);
    const tilt = Math.max(.12, Math.abs(Math.sin(camera.pitch)));
    g.save();
    g.strokeStyle = fade;
    g.lineWidth = 1;
    const lines = [];
    const first = v => Math.ceil((v - reach) / step) * step;
    for (let x = first(x0); x <= x0 + reach; x += step)
      lines.push([project([x, 0, z0 - reach]), project([x, 0, z0 + reach])]);
    for (let z = first(z0); z <= z0 + reach; z += step)
      lines.push([project([x0 - reach, 0, z]), project([x0 + reach, 0, z])]);
    g.translate(middle[0], middle[1]);
    g.scale(1, tilt);
    g.beginPath();
    for (const [a, b] of lines) {
      g.moveTo(a[0] - middle[0], (a[1] - middle[1]) / tilt);
      g.lineTo(b[0] - middle[0], (b[1] - middle[1]) / tilt);
    }
    g.stroke();
    g.restore();
  }

  function shadow(g, points, limbs, view, night) {
    const flat = ([x, , z]) => view.project([x, 0, z]);
    const tilt = Math.max(.12, Math.abs(Math.sin(camera.pitch)));
    const dim = night ? .3 : .1;
    const root = flat(points[0]);
    for (const size of [.2, .3, .4]) {
      g.fillStyle = `rgba(0,0,0,${dim * .45})`;
      g.beginPath();
      g.ellipse(root[0], root[1], size * root[3], size * root[3] * tilt, 0, 0, 7);
      g.fill();
    }
    g.save();
    g.scale(1, tilt);
    g.fillStyle = `rgba(0,0,0,${dim})`;
    for (const [below, wide] of [[.4, 1.7], [.3, 1.1], [.12, 1.2]]) {  // darker where it touches
      g.beginPath();
      for (const [i, j, ri, rj] of limbs) {
        if (Math.min(points[i][1], points[j][1]) > below) continue;
        const a = flat(points[i]), b = flat(points[j]);
        capsule(g, [a[0], a[1] / tilt], [b[0], b[1] / tilt], wide * ri * a[3], wide * rj * b[3]);
      }
      g.fill();
    }
    g.restore();
  }

  function path(g, track, view, night) {
    const n = track.joints, step = Math.max(1, Math.round(track.fps / 20));
    const now = at(track);
    const spot = f => view.project([0, 1, 2].map(
      a => a === 1 ? 0 : track.data[f * n * 3 + a] * spec.scale));
    for (const [from, to, alpha] of [[0, now, .75], [now, track.frames - 1, .22]]) {
      g.strokeStyle = css(night ? mix(track.rgb, WHITE, .3) : track.rgb, alpha);
      g.lineWidth = 2;
      g.lineJoin = g.lineCap = 'round';
      g.beginPath();
      for (let f = from; f <= to; f += step) g.lineTo(...spot(f).slice(0, 2));
      g.lineTo(...spot(to).slice(0, 2));
      g.stroke();
    }
  }

  // A foot stands where its toe is within 5 cm of the lowest point and slower than 0.5 m/s.
  function stands(track, toe, now) {
    const n = track.joints, { scale } = spec, { data } = track;
    const get = (f, a) => data[(f * n + toe) * 3 + a] * scale;
    track.floor ??= Math.min(...Array.from({ length: track.frames }, (_, f) =>
      Math.min(...spec.bodies[track.body].toes.map(t => data[(f * n + t) * 3 + 1] * scale))));
    const from = Math.max(0, now - 1), to = Math.min(track.frames - 1, now + 1);
    const speed = Math.hypot(get(to, 0) - get(from, 0), get(to, 2) - get(from, 2))
      / Math.max(to - from, 1) * track.fps;
    return get(now, 1) - track.floor < .05 && speed < .5;
  }

  function contacts(g, track, points, view, night) {
    const tilt = Math.max(.12, Math.abs(Math.sin(camera.pitch)));
    for (const toe of spec.bodies[track.body].toes) {
      if (!stands(track, toe, at(track))) continue;
      const [x, y, , f] = view.project([points[toe][0], 0, points[toe][2]]);
      g.beginPath();
      g.ellipse(x, y, .13 * f, .13 * f * tilt, 0, 0, 7);
      g.fillStyle = `rgba(0,158,115,${night ? .35 : .22})`;
      g.fill();
      g.strokeStyle = night ? '#3ddbab' : '#009e73';
      g.lineWidth = 1.6;
      g.stroke();
    }
  }

  // Bodies one sees through: drawn whole, then laid on the picture at once.
  let layer = null;
  function faint(g, items, alpha, canvas) {
    layer ??= document.createElement('canvas');
    Object.assign(layer, { width: canvas.width, height: canvas.height });
    const own = layer.getContext('2d');
    own.setTransform(g.getTransform());
    items.sort((p, q) => p.depth - q.depth).forEach(item => solid(own, item));
    g.save();
    g.setTransform(1, 0, 0, 1, 0, 0);
    g.globalAlpha = alpha;
    g.drawImage(layer, 0, 0);
    g.restore();
  }

  function solids(points, track, view, night) {
    const { limbs } = spec.bodies[track.body], seen = points.map(view.project);
    const middle = seen[0][2], trunk = [], items = [];
    for (const [i, j, ri, rj, side] of limbs) {
      const a = seen[i], b = seen[j], depth = (a[2] + b[2]) / 2;
      const far = Math.max(0, Math.min(1, (middle - depth) / .4));
      const color = mix(mix(track.rgb, ...TINT[side]), BLACK, .2 * far);
      const limb = { a, b, ra: ri * a[3], rb: rj * b[3], depth, color };
      if (side === 'trunk') trunk.push(limb); else items.push({ depth, limbs: [limb] });
    }
    const depth = trunk.reduce((sum, l) => sum + l.depth, 0) / trunk.length;
    items.push({ depth, limbs: trunk });
    return items.map(item => ({ ...item, night }));
  }

  // Outline, then a fill shaded across: light from the upper left. A trunk is one shape.
  function solid(g, { limbs, night }) {
    const xs = limbs.flatMap(l => [l.a[0] - l.ra, l.a[0] + l.ra, l.b[0] - l.rb, l.b[0] + l.rb]);
    const ys = limbs.flatMap(l => [l.a[1] - l.ra, l.a[1] + l.ra, l.b[1] - l.rb, l.b[1] + l.rb]);
    const { a, b, ra, rb, color } = limbs[0];
    let from, to;
    if (limbs.length > 1) {
      from = [Math.min(...xs), Math.min(...ys)];
      to = [Math.max(...xs), .5 * Math.min(...ys) + .5 * Math.max(...ys)];
    } else {
      const d = Math.hypot(b[0] - a[0], b[1] - a[1]), r = Math.max(ra, rb);
      let across = d > .5 * r ? [(b[1] - a[1]) / d, (a[0] - b[0]) / d] : [-.5, -.85];
      if (.5 * across[0] + .85 * across[1] > 0) across = across.map(x => -x);
      const c = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
      from = [c[0] + r * across[0], c[1] + r * across[1]];
      to = [c[0] - r * across[0], c[1] - r * across[1]];
    }
    const shade = g.createLinearGradient(...from, ...to);
    shade.addColorStop(0, css(mix(color, WHITE, .14)));
    shade.addColorStop(.28, css(mix(color, WHITE, .3)));
    shade.addColorStop(.62, css(color));
    shade.addColorStop(1, css(mix(color, BLACK, .26)));
    g.beginPath();
    for (const l of limbs) capsule(g, l.a, l.b, l.ra, l.rb);
    g.strokeStyle = css(night ? mix(color, BLACK, .72) : mix(color, BLACK, .55));
    g.lineWidth = 1.6;
    g.lineJoin = 'round';
    g.stroke();
    g.fillStyle = shade;
    g.fill();  // of all at once: the same way round, so that what overlaps is filled, too
  }

  function drawCell(cell, night) {
    const { g, w, h } = sized(cell.canvas);
    if (w < 2 || h < 2) return;
    const view = projector(cell, w, h), items = [];
    ground(g, view, night);
    for (const track of cell.tracks.map(i => tracks[i])) {
      if (trail.checked) path(g, track, view, night);
      const now = at(track), points = pose(track, now, spec);
      shadow(g, points, spec.bodies[track.body].limbs, view, night);
      if (feet.checked && !track.ghost) contacts(g, track, points, view, night);
      for (const [before, alpha] of past.checked ? [[.9, .12], [.6, .2], [.3, .3]] : []) {
        const then = now - Math.round(before * track.fps);
        const gone = then >= 0 && solids(pose(track, then, spec), track, view, night);
        if (gone) faint(g, gone, alpha, cell.canvas);
      }
      const body = solids(points, track, view, night);
      if (track.ghost) faint(g, body, night ? .5 : .4, cell.canvas); else items.push(...body);
    }
    items.sort((p, q) => p.depth - q.depth).forEach(item => solid(g, item));
    name(cell, g, view);
  }

  // The joint under the pointer.
  function name(cell, g, view) {
    cell.tip.hidden = true;
    if (!cell.pointer) return;
    let best = null;
    for (const track of cell.tracks.map(i => tracks[i])) {
      const points = pose(track, at(track), spec);
      for (let j = 0; j < track.joints; j++) {
        const [x, y, , f] = view.project(points[j]);
        const off = Math.hypot(x - cell.pointer[0], y - cell.pointer[1]);
        if (off < Math.max(10, .06 * f) && (!best || off < best.off))
          best = { off, x, y, track, text: spec.bodies[track.body].joints[j], high: points[j][1] };
      }
    }
    if (!best) return;
    g.beginPath();
    g.arc(best.x, best.y, 4, 0, 7);
    g.fillStyle = '#fff';
    g.strokeStyle = '#000';
    g.lineWidth = 1.5;
    g.fill();
    g.stroke();
    cell.tip.hidden = false;
    cell.tip.textContent = `${best.text.replace('_', ' ')} · ${best.high.toFixed(2)} m`;
    const room = cell.canvas.clientWidth - cell.tip.offsetWidth - 4;
    cell.tip.style.left = Math.max(0, Math.min(best.x + 10, room)) + 'px';
    cell.tip.style.top = Math.max(0, best.y - 24) + 'px';
  }

  function drawRewards(night) {
    const { g, w, h } = sized(plot), values = spec.rewards.flat();
    const high = Math.max(...values), low = Math.min(...values), room = high - low || 1;
    const knob = 8, x = f => knob + f / Math.max(last, 1) * (w - 2 * knob);
    const y = v => h - 4 - (v - low) / room * (h - 8);
    spec.rewards.forEach((row, i) => {
      if (!row.length) return;
      g.strokeStyle = css(night ? mix(tracks[i].rgb, WHITE, .25) : tracks[i].rgb);
      g.lineWidth = 1.5;
      g.beginPath();
      row.forEach((v, f) => g.lineTo(x(f / tracks[i].fps * spec.fps), y(v)));
      g.stroke();
    });
    const now = spec.rewards.map((row, i) => row[at(tracks[i])]).filter(v => v !== undefined);
    said.textContent = 'reward ' + now.map(v => v.toFixed(3)).join(' · ');
    g.strokeStyle = night ? '#a3acb8' : '#5b6470';
    g.lineWidth = 1;
    g.beginPath();
    g.moveTo(x(frame), 0);
    g.lineTo(x(frame), h);
    g.stroke();
  }

  function draw() {
    const night = isDark();
    root.dataset.theme = night ? 'dark' : 'light';
    root.dataset.frame = frame;
    root.dataset.drawn = ++drawn;
    frameAll();
    cells.forEach(cell => drawCell(cell, night));
    if (spec.rewards) drawRewards(night);
    const seconds = (frame / spec.fps).toFixed(2) + ' s';
    slider.value = frame;
    slider.setAttribute('aria-valuetext', `frame ${frame + 1} of ${last + 1}, ${seconds}`);
    time.textContent = `${seconds} · ${frame + 1}/${last + 1}`;
  }

  // --- time
  function show(to, quiet) {
    frame = Math.max(0, Math.min(last, Math.round(to)));
    draw();
    if (!quiet) hooks.onframe?.(frame, playing);
  }

  function toggle(to = !playing, quiet) {
    playing = to && last > 0;
    if (playing && frame === last) frame = 0;
    play.setAttribute('aria-pressed', playing);
    play.setAttribute('aria-label', playing ? 'Pause' : 'Play');
    cancelAnimationFrame(request);
    then = owed = 0;
    if (playing) request = requestAnimationFrame(tick);
    if (!quiet) hooks.onplay?.(playing, frame);
  }

  function tick(now) {
    if (!playing) return;
    request = requestAnimationFrame(tick);
    if (!visible) { then = 0; return; }
    owed += then ? (now - then) / 1000 * spec.fps * speed.value : 0;
    then = now;
    const whole = Math.floor(owed);
    if (!whole) return;
    owed -= whole;
    if (frame + whole <= last) show(frame + whole);
    else if (loop.checked) show((frame + whole) % (last + 1));
    else { show(last); toggle(false); }
  }

  // --- hands
  play.addEventListener('click', () => toggle(), on);
  slider.addEventListener('input', () => show(+slider.value), on);
  for (const choice of [trail, feet, past]) choice.addEventListener('change', draw, on);
  root.addEventListener('keydown', e => {
    const own = e.target.matches('select, input, button');
    const turn = (yaw, pitch) => () => {
      camera.yaw += yaw;
      camera.pitch = Math.max(-.05, Math.min(1.5, camera.pitch + pitch));
      draw();
    };
    const nearer = by => () => { camera.zoom = Math.max(.3, Math.min(6, camera.zoom * by)); draw(); };
    const keys = e.shiftKey && e.key.startsWith('Arrow') ? {
      ArrowLeft: turn(.15, 0), ArrowRight: turn(-.15, 0), ArrowUp: turn(0, .1), ArrowDown: turn(0, -.1),
    } : {
      '+': nearer(1.15), '=': nearer(1.15), '-': nearer(1 / 1.15),
      0: () => { camera = { ...home }; draw(); },
      ' ': () => toggle(), ArrowRight: () => show(frame + 1), ArrowLeft: () => show(frame - 1),
      Home: () => show(0), End: () => show(last),
    };
    if (keys[e.key] && !own) {
      keys[e.key]();
      e.preventDefault();
    }
    e.stopPropagation();  // the notebook has keys of its own
  }, on);
  for (const cell of cells) {
    const { canvas } = cell;
    let held = null;
    canvas.addEventListener('pointerdown', e => {
      held = [e.clientX, e.clientY];
      canvas.setPointerCapture(e.pointerId);
      canvas.focus({ preventScroll: true });
    }, on);
    canvas.addEventListener('pointerleave', () => { cell.pointer = null; draw(); }, on);
    canvas.addEventListener('pointermove', e => {
      cell.pointer = held ? null : [e.offsetX, e.offsetY];
      if (!held) { if (!playing) draw(); return; }
      camera.yaw -= (e.clientX - held[0]) * .008;
      camera.pitch = Math.max(-.05, Math.min(1.5, camera.pitch + (e.clientY - held[1]) * .006));
      held = [e.clientX, e.clientY];
      draw();
    }, on);
    for (const end of ['pointerup', 'pointercancel'])
      canvas.addEventListener(end, () => { held = null; }, on);
    canvas.addEventListener('dblclick', () => { camera = { ...home }; draw(); }, on);
    canvas.addEventListener('wheel', e => {
      if (document.activeElement !== canvas && !e.ctrlKey) return;  // let the page scroll
      camera.zoom = Math.max(.3, Math.min(6, camera.zoom * Math.exp(-e.deltaY * .001)));
      e.preventDefault();
      draw();
    }, { passive: false, ...on });
  }

  // --- surroundings
  let visible = true;
  const watch = new IntersectionObserver(([entry]) => { visible = entry.isIntersecting; });
  watch.observe(root);
  const resize = new ResizeObserver(() => draw());
  [grid, bar].forEach(part => resize.observe(part));
  const forget = onTheme(draw);
  frame = Math.max(0, Math.min(last, spec.frame || 0));
  draw();
  toggle(spec.autoplay && !media('(prefers-reduced-motion: reduce)')?.matches, true);

  return {
    show, toggle,
    // Other motions of the same kind, seen from where one looked.
    load(other) {
      Object.assign(spec, other);
      other.tracks.forEach((t, i) => { tracks[i] = { ...read(t), ghost: tracks[i].ghost }; });
      other.cells.forEach((c, i) => { cells[i].focus = decode(c.focus); });
      last = other.frames - 1;
      slider.max = last;
      frame = Math.min(frame, last);
      draw();
    },
    dispose() {
      toggle(false, true);
      gone.abort();
      watch.disconnect();
      forget();
      resize.disconnect();
      el.textContent = '';
    },
  };
}

export default {
  render({ model, el }) {
    let sent = 0;
    const calm = globalThis.matchMedia?.('(prefers-reduced-motion: reduce)')?.matches;
    const put = (name, value) => { model.set(name, value); model.save_changes(); };
    const player = mount(el, model.get('spec'), {
      onframe(frame, playing) {  // at most five messages a second while it plays
        if (playing && performance.now() - sent < 200) return;
        sent = performance.now();
        put('frame', frame);
      },
      onplay(playing, frame) { model.set('frame', frame); put('playing', playing); },
    });
    const toFrame = () => player.show(model.get('frame'), true);
    const toPlaying = () => player.toggle(model.get('playing'), true);
    toFrame();
    if (calm && model.get('playing')) put('playing', false);
    toPlaying();
    model.on('change:frame', toFrame);
    model.on('change:playing', toPlaying);
    return () => {
      model.off('change:frame', toFrame);
      model.off('change:playing', toPlaying);
      player.dispose();
    };
  },
};
