"use strict";
// Draws the charts of a run, and filters charts and tables. Nothing here asks the network for anything.
(() => {
const element = (id) => document.getElementById(id);
const ARRAYS = { Uint8: Uint8Array, Uint16: Uint16Array, Uint32: Uint32Array, Int32: Int32Array,
  Float32: Float32Array, Float64: Float64Array };
const PALETTE = ["#4a7ebb", "#d98a2b", "#3f9d63", "#8a6bbd", "#2e9fb3", "#a39a2c", "#c77fa8", "#8c6d46", "#6f86d6",
  "#5f9a86"];
const OTHERS = "#8a949e";
const DONE = 0, CUT_OFF = 5, RUNNING = 6;
const data = JSON.parse(element("data").textContent, (key, value) => (value && value.b !== undefined ? unpack(value) : value));
const line = data.line, tracks = data.tracks, bars = data.bars, cells = data.cells;
const [unit, unitName] = line.length > 4 * 3600 ? [3600, "hours"] : line.length > 240 ? [60, "minutes"] : [1, "seconds"];
const chosen = { rank: null, name: null };
const configuration = { displaylogo: false, responsive: true, doubleClick: "reset",
  modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]] };
const plain = { displaylogo: false, responsive: true, displayModeBar: false };

function unpack(column) {
  const text = atob(column.b), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new ARRAYS[column.t](bytes.buffer);
}
// Plotly takes text for a kind of HTML.
const escaped = (text) => text.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colourOf = (name) => (name < PALETTE.length && data.names[name] !== "(others)" ? PALETTE[name] : OTHERS);
function lighter(colour) {
  const parts = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return "#" + parts.map((part) => Math.round(part + (255 - part) * 0.22).toString(16).padStart(2, "0")).join("");
}
function seconds(time) {
  if (time < 0.9995e-3) return (time * 1e6).toPrecision(3) + " µs";
  if (time < 0.9995) return (time * 1e3).toPrecision(3) + " ms";
  return time < 120 ? time.toPrecision(4) + " s" : Math.floor(time / 3600) + ":" +
    String(Math.floor(time / 60) % 60).padStart(2, "0") + ":" + String(Math.floor(time % 60)).padStart(2, "0");
}
const clock = (x, launch) => new Date((x + line.offsets[launch]) * 1000).toLocaleString();
const plural = (number, noun) => number.toLocaleString("en") + " " + noun + (number === 1 ? "" : "s");
const barsCounted = (number) => number.toLocaleString("en") + " " + data.bar[number === 1 ? 0 : 1];

function layoutOf(more) {
  const axis = { gridcolor: style("--grid"), linecolor: style("--line"), zerolinecolor: style("--grid"),
    tickcolor: style("--line"), automargin: true };
  const { xaxis, yaxis, ...rest } = more;
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: style("--text"), size: 12,
    family: "system-ui, Segoe UI, Roboto, sans-serif" }, margin: { l: 50, r: 20, t: 24, b: 44 }, hovermode: "closest",
    hoverlabel: { bgcolor: style("--panel"), bordercolor: style("--soft"), font: { color: style("--text") }, align: "left" },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, modebar: { bgcolor: "rgba(0,0,0,0)",
      color: style("--soft"), activecolor: style("--accent") },
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest };
}
const timeAxis = () => ({ title: { text: unitName + " of run time" + (line.cuts.some((cut) => cut) ? ", gaps cut short" : "") },
  range: [0, line.length / unit], showgrid: true, zeroline: false });

// -- calls -----------------------------------------------------------------------------------------------

// The rows of the bars of each track, by start.
const barsOfTrack = Array.from({ length: tracks.count }, () => []);
for (let i = 0; i < bars.track.length; i++) barsOfTrack[bars.track[i]].push(i);
const rankOfTrack = new Int32Array(tracks.count);
tracks.ranks.forEach((rank, i) => rankOfTrack.fill(i, tracks.first[i], tracks.first[i] + tracks.slots[i]));
const bands = Math.ceil(tracks.count / tracks.perBand);

const shows = (row) => (chosen.name === null || bars.name[row] === chosen.name) &&
  (chosen.rank === null || bars.rank[row] === chosen.rank);
const isBad = (row) => bars.outcome[row] !== DONE && bars.outcome[row] !== RUNNING;

function span() {
  if (chosen.rank === null) return [0, bands];
  const i = tracks.ranks.indexOf(chosen.rank);
  return [Math.floor(tracks.first[i] / tracks.perBand), Math.ceil((tracks.first[i] + tracks.slots[i]) / tracks.perBand)];
}

function rectangles() {
  const kinds = new Map();
  const thickness = 1 / tracks.perBand, gap = bands <= 64 ? 0.06 : 0;
  for (let track = 0; track < tracks.count; track++) {
    let parity = 0;
    for (const row of barsOfTrack[track]) {
      if (!shows(row)) continue;
      parity = 1 - parity;
      const outcome = bars.outcome[row];
      const key = outcome === DONE ? bars.name[row] * 2 + parity : 1000 + outcome;
      if (!kinds.has(key)) kinds.set(key, { key, x: [], y: [] });
      const kind = kinds.get(key), y = track / tracks.perBand;
      const x0 = bars.start[row] / unit, x1 = x0 + bars.duration[row] / unit;
      const y0 = y + gap * thickness, y1 = y + (1 - gap) * thickness;
      kind.x.push(x0, x1, x1, x0, null);
      kind.y.push(y0, y0, y1, y1, null);
    }
  }
  return [...kinds.values()].sort((a, b) => a.key - b.key);
}

function callTraces() {
  const told = new Set();
  const traces = rectangles().map(({ key, x, y }) => {
    const name = key >= 1000 ? null : Math.floor(key / 2), outcome = key - 1000;
    const base = name === null ? style(outcome === CUT_OFF ? "--soft" : outcome === RUNNING ? "--accent" : "--bad") : colourOf(name);
    const colour = name !== null && key % 2 ? lighter(base) : base;
    const title = name === null ? data.outcomes[outcome] : data.names[name];
    const showlegend = !told.has(title);
    told.add(title);
    return { type: "scatter", mode: "lines", x, y, fill: "toself", fillcolor: colour, line: { color: colour, width: name === null ? 2 : 0.6 },
      hoverinfo: "skip", name: escaped(title), legendgroup: escaped(title), showlegend };
  });
  if (cells) for (let name = 0; name < data.names.length; name++) {
    if (told.has(data.names[name]) || !cells.name.includes(name)) continue;
    traces.push({ type: "scatter", mode: "markers", x: [null], y: [null], marker: { color: colourOf(name), symbol: "square" },
      hoverinfo: "skip", name: escaped(data.names[name]) });
  }
  const marks = { x: [], y: [] };
  for (let row = 0; row < bars.start.length; row++) {
    if (!isBad(row) || !shows(row)) continue;
    marks.x.push((bars.start[row] + bars.duration[row]) / unit);
    marks.y.push((bars.track[row] + 0.5) / tracks.perBand);
  }
  if (marks.x.length && marks.x.length <= 300) traces.push({ type: "scatter", mode: "markers", ...marks, hoverinfo: "skip", showlegend: false,
    marker: { symbol: "x-thin", size: 7, line: { color: style("--text"), width: 1.2 } } });
  const losses = data.lost.filter((each) => tracks.ranks.includes(each.rank));
  if (losses.length) traces.push({ type: "scatter", mode: "markers", name: "rank lost here", x: losses.map((each) => each.x / unit),
    y: losses.map((each) => { const i = tracks.ranks.indexOf(each.rank);
      return (tracks.first[i] + tracks.slots[i] / 2) / tracks.perBand; }),
    text: losses.map((each) => escaped("rank " + each.rank + " was lost: " + each.reason)), hoverinfo: "text",
    marker: { symbol: "diamond", size: 11, color: style("--bad"), line: { color: style("--back"), width: 1 } } });
  return traces;
}

// What is added up is drawn into a picture that zooms with the axes.
function cellImage() {
  if (!cells) return [];
  const height = Math.max(2, Math.min(16, Math.floor(4096 / bands)));
  const canvas = document.createElement("canvas");
  canvas.width = cells.bins;
  canvas.height = bands * height;
  const paint = canvas.getContext("2d");
  let last = -1, filled = 0;
  for (let i = 0; i < cells.cell.length; i++) {
    const cell = cells.cell[i];
    if (cell !== last) [last, filled] = [cell, 0];
    if (chosen.name !== null && cells.name[i] !== chosen.name) continue;
    const tall = Math.min(height - filled, Math.max(1, cells.busy[i] / 255 * height));
    paint.fillStyle = colourOf(cells.name[i]);
    paint.fillRect(cell % cells.bins, (Math.floor(cell / cells.bins) + 1) * height - filled - tall, 1, tall);
    filled += tall;
  }
  return [{ source: canvas.toDataURL("image/png"), xref: "x", yref: "y", x: 0, y: 0, sizex: cells.bins * cells.width / unit,
    sizey: bands, xanchor: "left", yanchor: "top", sizing: "stretch", layer: "below" }];
}

function callLayout() {
  const [first, after] = span(), count = after - first;
  const each = count <= 8 ? 26 : count <= 32 ? 18 : count <= 64 ? 12 : count <= 128 ? 7 : 4;
  const ranks = tracks.ranks.map((rank, i) => i).filter((i) => chosen.rank === null || tracks.ranks[i] === chosen.rank);
  const step = Math.ceil(ranks.length / 40), labelled = ranks.filter((_, i) => i % step === 0);
  const shapes = [], annotations = [];
  for (let i = 1; i < line.begins.length; i++) {
    const [x0, x1] = [line.ends[i - 1] / unit, line.begins[i] / unit];
    shapes.push({ type: "rect", xref: "x", yref: "paper", x0, x1: Math.max(x1, x0), y0: 0, y1: 1, layer: "below",
      fillcolor: style("--panel"), line: { color: style("--soft"), width: 1, dash: "dot" } });
    annotations.push({ x: x1, xref: "x", y: 0, yref: "paper", yanchor: "bottom", xanchor: "left", showarrow: false, textangle: -90,
      text: "launch " + line.epochs[i] + ", after " + line.gaps[i - 1], font: { size: 10, color: style("--soft") } });
  }
  return layoutOf({ height: Math.max(190, count * each + 110), xaxis: { ...timeAxis(), showgrid: !cells }, shapes, annotations, images: cellImage(),
    yaxis: { range: [after, first], zeroline: false, showgrid: false, ticks: "",
      tickvals: labelled.map((i) => (tracks.first[i] + tracks.slots[i] / 2) / tracks.perBand),
      ticktext: labelled.map((i) => escaped("rank " + tracks.ranks[i] + (tracks.hosts[i] ? " " + tracks.hosts[i] : ""))) } });
}

function describe(row) {
  const failure = bars.failure[row] >= 0 && data.failures[bars.failure[row]];
  const name = data.names[bars.name[row]];
  return [bars.id[row] + (name === bars.id[row] ? "" : "  (" + name + ")"), data.outcomes[bars.outcome[row]] + " in " + seconds(bars.duration[row]) +
    (bars.elements[row] ? ": a lease of " + plural(bars.elements[row], "element") : "") + (bars.attempt[row] > 1 ? ", attempt " + bars.attempt[row] : ""), "rank " + bars.rank[row] + " " +
    tracks.hosts[rankOfTrack[bars.track[row]]], "from " + clock(bars.start[row], bars.launch[row]) +
    (line.epochs.length > 1 ? ", launch " + line.epochs[bars.launch[row]] : ""), failure || ""].filter(Boolean).join("\n");
}

function describeCell(band, x) {
  if (!cells || x < 0) return "";
  const cell = band * cells.bins + Math.floor(x / cells.width);
  let low = 0, high = cells.cell.length;
  while (low < high) { const middle = (low + high) >> 1; if (cells.cell[middle] < cell) low = middle + 1; else high = middle; }
  const parts = [];
  for (; low < cells.cell.length && cells.cell[low] === cell; low++) {
    if (chosen.name !== null && cells.name[low] !== chosen.name) continue;
    parts.push(data.names[cells.name[low]] + ": " + Math.round(cells.busy[low] / 2.55) + " % of the time, " +
      barsCounted(cells.count[low]) + " began");
  }
  if (!parts.length) return "";
  const [a, b] = [band * tracks.perBand, Math.min(tracks.count, (band + 1) * tracks.perBand) - 1].map((t) => tracks.ranks[rankOfTrack[t]]);
  return [(a === b ? "rank " + a : "ranks " + a + " to " + b) + ", " + seconds(cells.width) + " from " + seconds(Math.floor(x / cells.width) * cells.width), ...parts].join("\n");
}

// The bar of a track at x, or within a pixel or two of it.
function barAt(track, x, near) {
  const rows = barsOfTrack[track] || [];
  let low = 0, high = rows.length;
  while (low < high) { const middle = (low + high) >> 1; if (bars.start[rows[middle]] <= x + near) low = middle + 1; else high = middle; }
  for (let i = low - 1; i >= Math.max(0, low - 3); i--) {
    const row = rows[i];
    if (shows(row) && x <= bars.start[row] + bars.duration[row] + near) return row;
  }
  return -1;
}

const callChart = element("chart-calls"), tip = element("tip");
function showTip(text, left, top) {
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(left + 14, innerWidth - box.width - 8)) + "px";
  tip.style.top = (top + 18 + box.height > innerHeight ? top - box.height - 10 : top + 18) + "px";
}
callChart.addEventListener("mousemove", (event) => {
  const full = callChart._fullLayout;
  if (!full || !full.xaxis) return;
  const box = callChart.getBoundingClientRect();
  const px = event.clientX - box.left - full.xaxis._offset, py = event.clientY - box.top - full.yaxis._offset;
  if (px < 0 || py < 0 || px > full.xaxis._length || py > full.yaxis._length) { showTip(""); return; }
  const x = full.xaxis.p2c(px) * unit, y = full.yaxis.p2c(py), near = 2 * Math.abs(full.xaxis.p2c(1) - full.xaxis.p2c(0)) * unit;
  const row = barAt(Math.floor(y * tracks.perBand), x, near);
  showTip(row >= 0 ? describe(row) : describeCell(Math.floor(y), x), event.clientX, event.clientY);
});
callChart.addEventListener("mouseleave", () => showTip(""));
callChart.addEventListener("blur", () => showTip(""));

const at = { track: 0, index: -1 };
callChart.addEventListener("keydown", (event) => {
  const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
  if (event.key === "Escape") { showTip(""); return; }
  if (!steps[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  const [down, right] = steps[event.key];
  const before = at.index >= 0 ? (barsOfTrack[at.track] || []).filter(shows)[at.index] : undefined;
  if (down) do at.track = (at.track + down + tracks.count) % tracks.count; while (!barsOfTrack[at.track].some(shows) && bars.track.some((_, row) => shows(row)));
  const rows = barsOfTrack[at.track].filter(shows);
  if (!rows.length) return;
  if (down) { const x = before === undefined ? 0 : bars.start[before]; at.index = Math.max(0, rows.findIndex((row) => bars.start[row] >= x)); }
  else at.index = Math.max(0, Math.min(rows.length - 1, at.index + right));
  const row = rows[at.index], full = callChart._fullLayout, box = callChart.getBoundingClientRect();
  element("now").textContent = describe(row);
  showTip(describe(row), box.left + full.xaxis._offset + full.xaxis.c2p((bars.start[row] + bars.duration[row] / 2) / unit),
    box.top + full.yaxis._offset + full.yaxis.c2p((bars.track[row] + 0.5) / tracks.perBand));
});

// -- the other charts --------------------------------------------------------------------------------------

function drawUse() {
  const holder = element("charts-use");
  const mean = [];
  for (let i = 0; i + 1 < data.use.edges.length; i++) mean.push((data.use.edges[i] + data.use.edges[i + 1]) / 2 / unit);
  data.use.of.forEach((use, number) => {
    const id = "chart-use-" + number;
    if (!element(id)) {
      const chart = document.createElement("div");
      chart.className = "chart";
      chart.id = id;
      chart.setAttribute("role", "img");
      holder.append(chart);
    }
    const most = use.capacity.reduce((most, each) => Math.max(most, each[2]), 0);
    const top = use.claimed.reduce((top, each) => Math.max(top, each), 0);
    const sum = use.claimed.reduce((sum, each) => sum + each, 0) / (use.claimed.length || 1);
    element(id).setAttribute("aria-label", use.title + ": calls claimed " + sum.toPrecision(3) + " on average, " +
      top.toPrecision(3) + " at most" + (most ? ", of " + most.toPrecision(4) : ""));
    const traces = [{ type: "scatter", mode: "lines", name: "claimed by calls", x: mean, y: use.claimed, fill: "tozeroy",
      line: { shape: "hvh", width: 1.2, color: PALETTE[0] }, fillcolor: PALETTE[0] + "55", hovertemplate: "%{y:.4g}<extra>claimed</extra>" }];
    const levels = { x: [], y: [] };
    for (const [begin, end, amount] of use.capacity) { levels.x.push(begin / unit, end / unit, null); levels.y.push(amount, amount, null); }
    if (levels.x.length) traces.push({ type: "scatter", mode: "lines", name: "offered by the ranks", ...levels,
      line: { color: style("--text"), width: 1.5, dash: "dash" }, hovertemplate: "%{y:.4g}<extra>offered</extra>" });
    Object.entries(use.measured).slice(0, 20).forEach(([host, [x, y]], i) => traces.push({ type: "scatter", mode: "lines",
      name: escaped("measured on " + host), x: x.map((time) => time / unit), y, line: { width: 1.2, color: PALETTE[(i + 1) % PALETTE.length] },
      hovertemplate: "%{y:.4g}<extra>" + escaped(host) + "</extra>" }));
    const measured = Object.values(use.measured).reduce((most, [, y]) => y.reduce((a, b) => Math.max(a, b), most), 0);
    Plotly.react(id, traces, layoutOf({ height: 210, xaxis: timeAxis(), yaxis: { title: { text: escaped(use.title) }, rangemode: "tozero",
      range: [0, 1.08 * (most && most < 20 * top ? Math.max(most, top, measured) : Math.max(top, measured) || 1)] } }), configuration);
  });
}

function drawFunctions() {
  const rows = data.functions.slice(0, 12).reverse();
  const isChosen = (row) => chosen.name === null || data.names[chosen.name] === shownName(row.name);
  const height = 60 + 24 * Math.max(2, rows.length), y = rows.map((row) => escaped(short(row.name)));
  const yaxis = { automargin: true, type: "category" };
  Plotly.react("chart-functions", [{ type: "bar", orientation: "h", y, x: rows.map((row) => row.total),
    marker: { color: rows.map((row) => { const name = data.names.indexOf(row.name); return name < 0 ? OTHERS : colourOf(name); }),
      opacity: rows.map((row) => (isChosen(row) ? 1 : 0.2)) }, hovertemplate: "%{y}: %{x:.4g} s in calls<extra></extra>" }],
    layoutOf({ height, margin: { l: 50, r: 20, t: 10, b: 44 }, showlegend: false, bargap: 0.25, xaxis: { title: { text: "seconds in calls" } }, yaxis }), plain);
  const colours = ["#8a949e", "#d98a2b", "#a39a2c", "#2e9fb3", "#c77fa8"];
  const waits = Object.entries(data.causes).map(([cause, title], i) => ({ type: "bar", orientation: "h", name: title, y,
    x: rows.map((row) => row.waited[cause]), marker: { color: colours[i], opacity: rows.map((row) => (isChosen(row) ? 1 : 0.2)) },
    hovertemplate: "%{y}: %{x:.4g} s<extra>" + title + "</extra>" })).filter((trace) => trace.x.some((value) => value > 0));
  Plotly.react("chart-waiting", waits, layoutOf({ height: height + 30, margin: { l: 50, r: 20, t: 40, b: 44 }, barmode: "stack", bargap: 0.25,
    xaxis: { title: { text: "seconds, summed over calls" } }, yaxis }), plain);
}
const short = (text) => (text.length > 42 ? text.slice(0, 20) + "…" + text.slice(-20) : text);
const shownName = (name) => (data.names.includes(name) ? name : "(others)");

function drawDag() {
  const { nodes, edges, grouped } = data.dag;
  const states = { done: style("--good"), failed: style("--bad"), skipped: style("--warn"), running: style("--accent"), waiting: style("--soft") };
  const kinds = [{ critical: false, x: [], y: [] }, { critical: true, x: [], y: [] }];
  const loops = new Map();
  for (const [a, b, count, critical] of edges) {
    if (a === b) { loops.set(a, count); continue; }
    const kind = kinds[critical ? 1 : 0], p = nodes[a], q = nodes[b];
    for (let i = 0; i <= 8; i++) { // an S from node to node
      const t = i / 8, ease = t * t * (3 - 2 * t);
      kind.x.push(p.x + (q.x - p.x) * t);
      kind.y.push(p.y + (q.y - p.y) * ease);
    }
    kind.x.push(null);
    kind.y.push(null);
  }
  const traces = kinds.filter((kind) => kind.x.length).map((kind) => ({ type: "scatter", mode: "lines", x: kind.x, y: kind.y,
    hoverinfo: "skip", name: kind.critical ? "longest path" : "values", line: { color: kind.critical ? style("--bad") : style("--line"), width: kind.critical ? 2.2 : 1.2 } }));
  const layers = new Map();
  for (const node of nodes) layers.set(node.x, (layers.get(node.x) || 0) + 1);
  const tallest = Math.max(1, ...layers.values()), hasText = tallest <= 26 && layers.size <= 14;
  for (const state of Object.keys(states)) {
    const here = nodes.map((node, i) => i).filter((i) => nodes[i].state === state);
    if (!here.length) continue;
    const label = (i) => (grouped ? short(nodes[i].label) + " × " + nodes[i].count.toLocaleString("en") : short(nodes[i].label));
    traces.push({ type: "scatter", mode: hasText ? "markers+text" : "markers", name: state, x: here.map((i) => nodes[i].x), y: here.map((i) => nodes[i].y),
      text: here.map((i) => escaped(label(i))), textposition: "bottom center", textfont: { size: 10 }, cliponaxis: false,
      customdata: here.map((i) => escaped(nodes[i].label + "\n" + nodes[i].detail + (loops.has(i) ? "\n" + loops.get(i).toLocaleString("en") + " values to the same name" : "")).replace(/\n/g, "<br>")),
      hovertemplate: "%{customdata}<extra></extra>", marker: { size: here.map((i) => (grouped ? Math.min(34, 10 + 3 * Math.log10(nodes[i].count + 1)) : 12)),
        color: states[state], symbol: { done: "circle", failed: "x", skipped: "diamond", running: "triangle-right", waiting: "circle-open" }[state],
        line: { color: here.map((i) => (nodes[i].critical ? style("--bad") : style("--back"))), width: here.map((i) => (nodes[i].critical ? 2 : 1)) } } });
  }
  const blank = { visible: false, fixedrange: false };
  const xs = nodes.map((node) => node.x), most = Math.max(0, ...xs);
  Plotly.react("chart-dag", traces, layoutOf({ height: Math.min(900, Math.max(260, 46 * tallest + 80)), margin: { l: 30, r: 30, t: 40, b: 20 },
    xaxis: { ...blank, range: [-0.6, most + 0.6] }, yaxis: { ...blank, range: [1.02, -0.02] } }), configuration);
}

// -- filters and the theme ---------------------------------------------------------------------------------

function drawCalls() { Plotly.react(callChart, callTraces(), callLayout(), configuration); }
function drawAll() { drawCalls(); drawUse(); drawFunctions(); drawDag(); }

function filterTables() {
  const name = chosen.name === null ? null : data.names[chosen.name];
  const passes = (names, ranks) => (name === null || !names || names.some((each) => shownName(each) === name)) &&
    (chosen.rank === null || !ranks || ranks.includes(chosen.rank));
  for (const row of document.querySelectorAll("[data-name], [data-rank]")) {
    row.hidden = !passes("name" in row.dataset ? [row.dataset.name] : null, "rank" in row.dataset ? [Number(row.dataset.rank)] : null);
  }
  for (const row of document.querySelectorAll("[data-names]")) row.hidden = !passes(JSON.parse(row.dataset.names), JSON.parse(row.dataset.ranks));
}

function filter() {
  const rank = element("by-rank").value, name = element("by-name").value;
  chosen.rank = rank === "" ? null : Number(rank);
  chosen.name = name === "" ? null : Number(name);
  at.index = -1;
  drawCalls();
  drawFunctions();
  filterTables();
  let shown = 0;
  for (let row = 0; row < bars.start.length; row++) shown += shows(row);
  element("filtered").textContent = chosen.rank === null && chosen.name === null ? "" : barsCounted(shown) + (cells ? " drawn one by one" : "");
}

data.names.forEach((name, i) => element("by-name").append(new Option(name, String(i))));
element("by-rank").addEventListener("change", filter);
element("by-name").addEventListener("change", filter);
element("filters").addEventListener("reset", () => setTimeout(filter));
element("filters").addEventListener("submit", (event) => event.preventDefault());
const dark = matchMedia("(prefers-color-scheme: dark)");
function isDark() { const theme = document.documentElement.dataset.theme; return theme ? theme === "dark" : dark.matches; }
function tellTheme() { element("theme").setAttribute("aria-pressed", String(isDark())); }
element("theme").addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; tellTheme(); drawAll(); });
dark.addEventListener("change", () => { tellTheme(); drawAll(); });
tellTheme();
drawAll();
window.report = { bars, cells, unit, perBand: tracks.perBand }; // for those who look further, in the console
document.documentElement.dataset.ready = "yes";
})();
