"use strict";
// The embeddings of the page: places and colours of the samples, what is hidden, and the same in words and numbers.
(() => {
  const { points, figure, palettes } = JSON.parse(document.getElementById("run-data").textContent);
  const MISSING = 65535;
  const by = (id) => document.getElementById(id);
  const three = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 }); // making one takes long
  const format = (value) => (value === null ? "no value" : three.format(value));
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  const codesOf = (text) => {
    const raw = atob(text);
    const codes = new Uint16Array(raw.length / 2);
    for (let i = 0; i < codes.length; i++) codes[i] = raw.charCodeAt(2 * i) | (raw.charCodeAt(2 * i + 1) << 8);
    return codes;
  };
  const numbersOf = ({ low, high, codes }) =>
    Float64Array.from(codesOf(codes), (code) => (code === MISSING ? NaN : low + ((high - low) * code) / (MISSING - 1)));
  const known = new Map(); // columns that were unpacked
  const columnOf = (column) => {
    if (!known.has(column.name)) {
      known.set(column.name, column.kind === "levels" ? codesOf(column.codes) : numbersOf(column));
    }
    return known.get(column.name);
  };
  const quantile = (sorted, share) => {
    const place = (sorted.length - 1) * share;
    const floor = Math.floor(place);
    const next = sorted[Math.min(floor + 1, sorted.length - 1)];
    return sorted[floor] + (next - sorted[floor]) * (place - floor);
  };
  const sortedOf = (values) => Float64Array.from(values).filter((value) => !Number.isNaN(value)).sort();

  function colourer(column) {
    const values = columnOf(column);
    if (column.kind === "levels") {
      const n = palettes.levels.length;
      const shade = (code) => (code === MISSING ? palettes.missing : palettes.levels[code % n]);
      const shape = (code) =>
        code === MISSING ? "circle" : palettes.markers[(code + Math.floor(code / n)) % palettes.markers.length];
      const text = (code) => (code === MISSING ? "no value" : column.levels[code]);
      return { values, shade: (i) => shade(values[i]), shape: (i) => shape(values[i]), text: (i) => text(values[i]),
        levelShade: shade, levelShape: shape };
    }
    const sorted = sortedOf(values);
    let [low, high] = [quantile(sorted, 0.01), quantile(sorted, 0.99)];
    if (column.signed) [low, high] = [-Math.max(-low, high, 1e-9), Math.max(-low, high, 1e-9)];
    const ramp = column.signed ? palettes.signed : palettes.number;
    const shade = (i) => {
      if (Number.isNaN(values[i])) return palettes.missing;
      const share = high > low ? (values[i] - low) / (high - low) : 0.5;
      return ramp[Math.round(Math.min(Math.max(share, 0), 1) * (ramp.length - 1))];
    };
    const text = (i) => format(Number.isNaN(values[i]) ? null : values[i]);
    return { values, shade, shape: () => "circle", text, ramp, low, high };
  }

  const SHAPES = { // of a legend, in a box of 12 by 12
    circle: "M6 1.5a4.5 4.5 0 1 0 0.01 0Z", square: "M2 2h8v8h-8Z", triangle: "M6 1.5 11 10.5H1Z", diamond: "M6 .8 10.2 6 6 11.2 1.8 6Z",
    inverted_triangle: "M6 10.5 1 1.5H11Z", plus: "M4.5 1h3v3.5H11v3H7.5V11h-3V7.5H1v-3h3.5Z", hex: "M3.5 1.6h5L11 6 8.5 10.4h-5L1 6Z",
    star: "M6 .5 7.5 4.3 11.6 4.5 8.4 7.1 9.5 11 6 8.8 2.5 11 3.6 7.1.4 4.5 4.5 4.3Z",
  };
  function icon(shape, shade) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    for (const [name, value] of Object.entries({ width: 12, height: 12, viewBox: "0 0 12 12", "aria-hidden": "true" })) svg.setAttribute(name, value);
    path.setAttribute("d", SHAPES[shape]);
    path.setAttribute("fill", shade);
    svg.append(path);
    return svg;
  }

  const state = { hidden: new Set() };
  let plot = null;
  const own = points.n ? codesOf(points.own_class.codes) : [];
  const places = { shared: points.shared.map(numbersOf), specific: points.specific.map(numbersOf) };
  const columns = new Map(points.columns.map((column) => [column.name, column]));
  const split = columns.get("split");

  function views() {
    const found = [];
    if (points.shared_axes[0]) found.push(["shared", "shared embedding"]);
    for (const name of points.with_block) found.push([`own ${points.own_class.levels.indexOf(name)}`, `own block of ${name}`]);
    return found;
  }

  function legendOfLevels(column, colours, counts) {
    const set = make("fieldset", {}, make("legend", {}, column.title));
    const tick = (code) => {
      const box = make("input", { type: "checkbox", value: code });
      box.checked = !state.hidden.has(code);
      box.addEventListener("change", () => {
        box.checked ? state.hidden.delete(code) : state.hidden.add(code);
        draw();
      });
      const name = code === MISSING ? "no value" : column.levels[code];
      return make("label", {}, box, icon(colours.levelShape(code), colours.levelShade(code)), `${name} (${counts.get(code).toLocaleString("en")})`);
    };
    const codes = [...counts.keys()].sort((a, b) => a - b);
    const all = make("button", { type: "button" }, "all");
    const none = make("button", { type: "button" }, "none");
    all.addEventListener("click", () => { state.hidden.clear(); legend(); draw(); });
    none.addEventListener("click", () => { codes.forEach((code) => state.hidden.add(code)); legend(); draw(); });
    set.append(make("div", { class: "all" }, "Show:", all, none), ...codes.map(tick));
    return set;
  }

  function legend() {
    const column = columns.get(by("colour").value);
    const colours = colourer(column);
    if (column.kind === "levels") {
      const counts = new Map();
      for (const i of candidates()) counts.set(colours.values[i], (counts.get(colours.values[i]) ?? 0) + 1);
      by("legend").replaceChildren(legendOfLevels(column, colours, counts));
      return;
    }
    const ramp = make("div", { class: "ramp", "aria-hidden": "true" });
    ramp.style.background = `linear-gradient(to right, ${colours.ramp.join(",")})`;
    const ends = make("div", { class: "ends" }, make("span", {}, `≤ ${format(colours.low)}`), make("span", {}, `≥ ${format(colours.high)}`));
    const gone = candidates().filter((i) => Number.isNaN(colours.values[i])).length;
    const missing = gone ? [make("label", {}, icon("circle", palettes.missing), `no value (${gone.toLocaleString("en")})`)] : [];
    by("legend").replaceChildren(make("strong", {}, column.title), ramp, ends, ...missing);
  }

  // samples of the view, class and split that are chosen, with a place there
  function candidates() {
    const view = by("view").value;
    const [x, y] = view === "shared" ? places.shared : places.specific;
    const block = view === "shared" ? -1 : Number(view.split(" ")[1]);
    const chosen = by("class").value === "" ? -1 : Number(by("class").value);
    const part = by("split").value === "" ? -1 : Number(by("split").value);
    const splits = part < 0 ? null : columnOf(split);
    const found = [];
    for (let i = 0; i < points.n; i++) {
      if (block >= 0 && own[i] !== block) continue;
      if (chosen >= 0 && own[i] !== chosen) continue;
      if (splits && splits[i] !== part) continue;
      if (!Number.isNaN(x[i]) && !Number.isNaN(y[i])) found.push(i);
    }
    return found;
  }

  function shuffled(rows) { // so that no level lies above the others; the same each time
    let seed = 1;
    for (let i = rows.length - 1; i > 0; i--) {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      const j = seed % (i + 1);
      [rows[i], rows[j]] = [rows[j], rows[i]];
    }
    return rows;
  }

  function setRange(range, values) {
    let [low, high] = [Infinity, -Infinity];
    for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
    if (!(high >= low)) [low, high] = [0, 1];
    const margin = 0.04 * (high - low) || 1;
    range.setv({ start: low - margin, end: high + margin, reset_start: low - margin, reset_end: high + margin });
  }

  function draw(fit = false) {
    const column = columns.get(by("colour").value);
    const colours = colourer(column);
    const view = by("view").value;
    const [x, y] = view === "shared" ? places.shared : places.specific;
    const axes = view === "shared" ? points.shared_axes : points.specific_axes;
    const title = by("view").selectedOptions[0].textContent;
    const all = candidates();
    const rows = shuffled(column.kind === "levels" ? all.filter((i) => !state.hidden.has(colours.values[i])) : [...all]);
    if (plot) {
      if (column.kind !== "levels") rows.sort((a, b) => Number.isNaN(colours.values[b]) - Number.isNaN(colours.values[a])); // those without lie below
      const source = plot.renderers[0].data_source;
      source.data = {
        x: rows.map((i) => x[i]), y: rows.map((i) => y[i]), color: rows.map(colours.shade), marker: rows.map(colours.shape),
        name: rows.map((i) => points.names[i]), label: rows.map((i) => (own[i] === MISSING ? "no class" : points.own_class.levels[own[i]])),
        value: rows.map((i) => `${column.title}: ${colours.text(i)}`),
      };
      plot.renderers[0].glyph.size = { value: rows.length > 8000 ? 3.5 : rows.length > 2000 ? 5 : 7 };
      plot.below[0].axis_label = axes[0];
      plot.left[0].axis_label = axes[1];
      if (fit) {
        const prior = view !== "shared" && points.on_prior_scale ? [-3.3, 3.3] : []; // an unused block looks like the point that it is
        setRange(plot.x_range, [...prior, ...all.map((i) => x[i])]);
        setRange(plot.y_range, [...(points.n_private > 1 ? prior : []), ...all.map((i) => y[i])]);
      }
    }
    by("status").textContent = `${rows.length.toLocaleString("en")} of ${points.n_all.toLocaleString("en")} shown: ${title}, coloured by ${column.title}.`;
    by("plot").setAttribute("aria-label", `Scatter plot: ${title} (${axes.join(", ")}), coloured by ${column.title}; the numbers are in the table below.`);
    byClass(column, colours, rows);
  }

  // the same in numbers: a row a class
  function byClass(column, colours, rows) {
    const of = new Map();
    for (const i of rows) of.has(own[i]) ? of.get(own[i]).push(i) : of.set(own[i], [i]);
    const head = column.kind === "levels" ? ["class", "shown", "largest levels"] : ["class", "shown", "median", "quartiles", "no value"];
    const body = [...of.keys()].sort((a, b) => a - b).map((code) => {
      const own = of.get(code);
      const name = code === MISSING ? "no class" : points.own_class.levels[code];
      const cells = [own.length.toLocaleString("en")];
      if (column.kind === "levels") {
        const counts = new Map();
        for (const i of own) counts.set(colours.text(i), (counts.get(colours.text(i)) ?? 0) + 1);
        const most = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 4);
        cells.push(most.map(([level, n]) => `${level} ${((100 * n) / own.length).toFixed(0)} %`).join(", "));
      } else {
        const sorted = sortedOf(own.map((i) => colours.values[i]));
        const has = sorted.length > 0;
        cells.push(has ? format(quantile(sorted, 0.5)) : "–");
        cells.push(has ? `${format(quantile(sorted, 0.25))} to ${format(quantile(sorted, 0.75))}` : "–");
        cells.push((own.length - sorted.length).toLocaleString("en"));
      }
      return make("tr", {}, make("th", { scope: "row" }, name), ...cells.map((text) => make("td", {}, text)));
    });
    const row = make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)));
    const caption = make("caption", {}, `${column.title}, of the samples shown`);
    by("by-class").replaceChildren(make("table", {}, caption, make("thead", {}, row), make("tbody", {}, ...body)));
  }

  function fill(select, options, group = false) {
    const groups = new Map();
    for (const [value, text, name] of options) {
      const option = make("option", { value }, text);
      if (!group) { select.append(option); continue; }
      if (!groups.has(name)) { groups.set(name, make("optgroup", { label: name })); select.append(groups.get(name)); }
      groups.get(name).append(option);
    }
  }

  function recolour() {
    state.hidden.clear();
    legend();
    draw();
  }

  async function start() {
    const shown = views();
    const viewer = document.querySelector(".viewer");
    if (!viewer || !shown.length) return;
    viewer.hidden = false;
    fill(by("view"), shown);
    fill(by("colour"), points.columns.map((column) => [column.name, column.title, column.group]), true);
    fill(by("class"), [["", "all classes"], ...points.own_class.levels.map((name, i) => [i, name])]);
    fill(by("split"), [["", "all splits"], ...(split ? split.levels.map((name, i) => [i, name]) : [])]);
    by("view").addEventListener("change", () => { state.hidden.clear(); by("class").value = ""; legend(); draw(true); });
    by("colour").addEventListener("change", recolour);
    for (const id of ["class", "split"]) by(id).addEventListener("change", () => { legend(); draw(); });
    document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
    for (const button of document.querySelectorAll("button[data-colour]")) {
      if (!columns.has(button.dataset.colour)) continue;
      button.hidden = false;
      button.addEventListener("click", () => {
        by("colour").value = button.dataset.colour;
        recolour();
        by("embeddings").scrollIntoView();
        by("colour").focus({ preventScroll: true });
      });
    }
    legend();
    draw();
    const views_ = await Bokeh.embed.embed_item(figure, "plot");
    plot = (views_.roots ? views_.roots[0] : [...views_][0]).model;
    draw(true);
    document.documentElement.dataset.drawn = "yes";
  }

  // everything is open on paper, and closed again as it was
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const part of opened) part.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const part of opened) part.open = false;
  });

  // what is wider than its place is scrolled by keys, and nothing else takes the focus for it
  const focusable = () => {
    for (const part of document.querySelectorAll(".scroll")) {
      part.scrollWidth > part.clientWidth ? part.setAttribute("tabindex", "0") : part.removeAttribute("tabindex");
    }
  };
  window.addEventListener("resize", focusable);
  document.addEventListener("toggle", focusable, true);
  focusable();

  // where one reads
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const [id, link] of links) id === entry.target.id ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-10% 0px -80% 0px" });
  for (const part of document.querySelectorAll("main > section")) seen.observe(part);

  start();
})();
