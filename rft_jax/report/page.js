"use strict";
// Draws the report out of the JSON in #data. Strings of the run become text nodes, never markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";

  // ---- elements -------------------------------------------------------------------------------
  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat(Infinity).filter((child) => child !== null));
    return node;
  }
  const element = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const shape = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

  const words = (name) => name.replaceAll("_", " ");

  // ---- numbers --------------------------------------------------------------------------------
  function format(value) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size >= 1e9) return `${(value / 1e9).toFixed(2)} G`;
    if (size >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
    if (size >= 1e4) return Math.round(value).toLocaleString("en");
    if (size >= 100) return value.toFixed(0);
    if (size >= 10) return value.toFixed(1);
    if (size >= 0.01 || value === 0) return value.toFixed(size >= 1 ? 2 : 3);
    return size >= 0.001 ? value.toFixed(4) : value.toExponential(1);
  }
  const signed = (value, digits = 2) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;

  function ticks(low, high, count) {
    const found = ticksOf(low, high, (high - low) / count);
    return found.length > 1 ? found : ticksOf(low, high, (high - low) / (2 * count));
  }
  function ticksOf(low, high, rough) {
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step + 0);  // + 0: no -0
    return found;
  }
  function tickLabel(value, values) {
    const step = values.length > 1 ? values[1] - values[0] : 1;
    if (Math.abs(value) >= 1e4) return format(value);
    if (step < 1e-4) return value === 0 ? "0" : value.toExponential(1);
    const digits = [0, 1, 2, 3, 4, 5].find((count) => Math.abs(step * 10 ** count - Math.round(step * 10 ** count)) < 1e-6);
    return value.toFixed(digits).replace("-", "−");
  }

  // ---- curves ---------------------------------------------------------------------------------
  const MANY = 40;  // points from which a curve's few extremes may lie outside of the frame
  const HEIGHT = { small: 150, hero: 260 };

  function frame(series, constant) {
    const kept = constant === null ? [] : [constant], all = [...kept];
    for (const { y, low = [], high = [] } of series) {
      all.push(...y);
      kept.push(...low, ...high);
      const sorted = [...y].sort((a, b) => a - b);
      const cut = y.length > MANY ? Math.ceil(y.length * 0.01) : 0;
      kept.push(...sorted.slice(cut, sorted.length - cut));
    }
    let low = Math.min(...kept), high = Math.max(...kept);
    // Extremes are left outside only where they would flatten everything else.
    if (Math.max(...all) < high + 0.6 * (high - low)) high = Math.max(...all);
    if (Math.min(...all) > low - 0.6 * (high - low)) low = Math.min(...all);
    if (low >= 0 && low < 0.5 * high) low = 0;
    if (high - low < 1e-12) [low, high] = [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1];
    const room = 0.06 * (high - low);
    return [low === 0 ? 0 : low - room, high + room, Math.min(...all), Math.max(...all)];
  }

  function label(series, chart) {
    const splits = { train: "training", valid: "validation" };
    const names = new Set(chart.series.map((one) => base(one)));
    if (names.size === 1) return splits[series.split] || words(series.name.split("/").at(-1));
    const short = base(series).replace(/^clip_fraction_/, "").replace("audit/reward_mean", "audit, in no reward").replace("reward_mean_all", "those not graded as 0").replace("reward_mean", "graded ones").replace("_max", " anywhere").replace(/^top(\d)/, "top $1");
    return new Set(chart.series.map((one) => one.split)).size > 1 ? `${short}, ${splits[series.split]}` : short;
  }
  const base = (series) => series.name.replace(/^(train|valid)_/, "");

  function nearest(xs, x) {
    let low = 0, high = xs.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle + 1; else high = middle;
    }
    return low > 0 && x - xs[low - 1] < xs[low] - x ? low - 1 : low;
  }

  function curveChart(chart, size, constant = null) {
    const several = new Set(chart.series.map(base)).size > 1;
    const series = chart.series.filter((one) => one.y.length).map((one, index) => ({
      ...one,
      color: several ? index % 4 : one.split === "valid" ? 1 : 0,
      label: label(one, chart),
    }));
    const plot = element("div", { class: "plot" });
    const tip = element("div", { class: "tip", role: "status", hidden: true });
    const outside = element("p", { class: "outside" });
    const names = chart.series.map((one) => one.name).join(", ");
    const figure = element("figure", { class: `chart ${size}`, title: names },
      element("figcaption", {}, chart.title, chart.note ? element("span", { class: "note" }, chart.note) : null),
      element("ul", { class: "legend" }, series.map((one) => element("li", { class: `color-${one.color}` },
        element("i", { class: one.split === "valid" ? "points" : "", "aria-hidden": "true" }), `${one.label} `,
        element("b", {}, format((one.trend || one).y.at(-1)))))),
      plot, outside);
    const problems = chart.series.filter((one) => one.not_finite);
    if (problems.length) outside.append(problems.map((one) => `${one.name}: not finite at ${one.not_finite} steps. `).join(""));
    if (!series.length) return figure;

    const summary = series.map((one) => `${one.label}: ${format(one.y[0])} at step ${one.x[0]}, ${format(one.y.at(-1))} at step ${one.x.at(-1)}`).join("; ");
    const [low, high, lowest, highest] = frame(series, constant);
    if (highest > high) outside.append(`Highest ${format(highest)}, outside of the frame. `);
    if (lowest < low) outside.append(`Lowest ${format(lowest)}, outside of the frame.`);
    const first = Math.min(...series.map((one) => one.x[0])), last = Math.max(...series.map((one) => one.x.at(-1)));
    const steps = [...new Set(series.flatMap((one) => one.x))].sort((a, b) => a - b);
    let chosen = steps.length - 1;

    function draw() {
      const width = Math.max(plot.clientWidth, 160), height = HEIGHT[size];
      const yTicks = ticks(low, high, size === "hero" ? 5 : 3);
      const labels = yTicks.map((value) => tickLabel(value, yTicks));
      const left = 8 + 6.6 * Math.max(...labels.map((text) => text.length)), right = 10, top = 8, bottom = 22;
      const px = (x) => left + (width - left - right) * (last > first ? (x - first) / (last - first) : 0.5);
      const py = (y) => height - bottom - (height - top - bottom) * (y - low) / (high - low);
      const path = ({ x, y }) => "M" + x.map((step, k) => `${px(step).toFixed(1)} ${py(Math.max(Math.min(y[k], high + (high - low)), low - (high - low))).toFixed(1)}`).join("L");
      const clip = `clip-${curveChart.count = (curveChart.count || 0) + 1}`;
      const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", tabindex: 0, "aria-label": `${chart.title}. ${summary}` },
        shape("clipPath", { id: clip }, shape("rect", { x: left - 6, y: 0, width: width - left + 6, height: height - bottom + 6 })));
      yTicks.forEach((value, k) => svg.append(
        shape("line", { class: "rule", x1: left, x2: width - right, y1: py(value), y2: py(value) }),
        shape("text", { x: left - 6, y: py(value) + 4, "text-anchor": "end" }, labels[k])));
      const xTicks = (last > first ? ticks(first, last, Math.max(2, Math.floor(width / 95))) : [first]).filter(Number.isInteger);
      xTicks.forEach((value) => svg.append(shape("text", {
        x: px(value), y: height - 5, "text-anchor": px(value) > width - 24 ? "end" : "middle",
      }, value.toLocaleString("en"))));
      if (constant !== null) svg.append(
        shape("line", { class: "constant", x1: left, x2: width - right, y1: py(constant), y2: py(constant), "stroke-dasharray": "6 4", stroke: "currentColor" }),
        shape("text", { x: width - right, y: py(constant) - 4, "text-anchor": "end" }, `best constant answer ${format(constant)}`));
      const curves = shape("g", { "clip-path": `url(#${clip})` });
      for (const one of series) {
        const group = shape("g", { class: `color-${one.color}` });
        group.append(shape("path", { class: one.trend ? "raw" : "line", d: path(one) }));
        if (one.trend) group.append(shape("path", { class: "line", d: path(one.trend) }));
        if (one.x.length === 1 || (one.split === "valid" && one.x.length <= MANY * 1.5)) {
          if (one.low) group.append(...one.x.map((x, k) => shape("line", { class: "whisker", x1: px(x), x2: px(x), y1: py(one.low[k]), y2: py(one.high[k]) })));
          group.append(...one.x.map((x, k) => shape("circle", { class: "dot", cx: px(x), cy: py(one.y[k]), r: size === "hero" ? 4 : 3 })));
        }
        curves.append(group);
      }
      const cursor = shape("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
      svg.append(curves, cursor);

      function show(step) {
        const lines = [element("div", {}, `step ${step.toLocaleString("en")}`)];
        for (const one of series) {
          const k = nearest(one.x, step);
          const ends = one.low ? ` (${format(one.low[k])} – ${format(one.high[k])})` : "";
          if (one.x[k] === step) lines.push(element("div", {}, `${one.label} ${format(one.y[k])}${ends}`));
          if (one.trend) {
            const t = nearest(one.trend.x, step);
            if (Math.abs(one.trend.x[t] - step) <= (last - first) * 0.01) lines.push(element("div", {}, `trend ${format(one.trend.y[t])}`));
          }
        }
        tip.replaceChildren(...lines);
        tip.hidden = false;
        const x = px(step);
        tip.style.left = `${Math.max(0, Math.min(x + 10, width - tip.offsetWidth))}px`;
        if (x + 10 > width - tip.offsetWidth) tip.style.left = `${Math.max(0, x - 10 - tip.offsetWidth)}px`;
        cursor.setAttribute("x1", x);
        cursor.setAttribute("x2", x);
        cursor.setAttribute("visibility", "visible");
      }
      function hide() {
        tip.hidden = true;
        cursor.setAttribute("visibility", "hidden");
      }
      const point = (event) => {
        const box = svg.getBoundingClientRect();
        const x = first + (last - first) * ((event.clientX - box.left) * width / box.width - left) / (width - left - right);
        chosen = nearest(steps, x);
        show(steps[chosen]);
      };
      svg.addEventListener("pointermove", point);
      svg.addEventListener("pointerdown", point);
      svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
      svg.addEventListener("blur", hide);
      svg.addEventListener("keydown", (event) => {
        const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!move) return;
        event.preventDefault();
        chosen = Math.max(0, Math.min(steps.length - 1, chosen + move));
        show(steps[chosen]);
      });
      plot.replaceChildren(svg, tip);
    }
    drawings.push(draw);
    return figure;
  }

  let drawings = [];
  const drawAll = () => drawings.forEach((draw) => draw());
  let resizing = 0, drawnWidth = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === drawnWidth) return;  // a phone's address bar comes and goes
    drawnWidth = innerWidth;
    cancelAnimationFrame(resizing);
    resizing = requestAnimationFrame(drawAll);
  });

  // ---- a stage --------------------------------------------------------------------------------
  function showStage(index) {
    const stage = data.stages[index];
    drawings = [];
    const overview = byId("overview"), curves = byId("curves");
    overview.replaceChildren(stageTabs(index));
    overview.append(element("dl", { class: "facts" }, stage.facts.map((fact) => element("div", {},
      element("dt", {}, fact.label),
      element("dd", {}, element("div", { class: "value" }, fact.value), element("div", { class: "note" }, fact.note))))));
    if (stage.sections.length) {
      overview.append(curveChart(stage.sections[0].charts[0], "hero", stage.constant ? stage.constant.reward : null));
      overview.append(element("p", { class: "note key" }, `Faint: every step${stage.thinned ? ", of which each short stretch keeps its lowest and highest" : ""}. Line: the mean over the steps around it. Points: validation${stage.sections[0].charts[0].series.some((one) => one.low) ? ", with 95 % intervals" : ""}.`));
    }
    curves.replaceChildren(curves.firstElementChild);
    const grid = element("div", { class: "grid" });
    stage.sections.forEach((section, k) => {
      const charts = k === 0 ? section.charts.slice(1) : section.charts;
      if (!charts.length) return;
      grid.append(element("div", { class: `part span-${Math.min(charts.length, 3)}` }, element("h3", {}, section.title), charts.map((chart) => curveChart(chart, "small"))));
    });
    curves.append(grid);
    if (stage.zero.length) curves.append(element("details", {}, element("summary", {}, `Always 0: ${stage.zero.length} ${stage.zero.length === 1 ? "metric" : "metrics"}`), element("p", { class: "note" }, stage.zero.join(", "))));
    curves.hidden = false;
    drawAll();
  }

  function stageTabs(index) {
    if (data.stages.length < 2) return element("div", { hidden: true });
    const choose = (k) => {
      showStage(k);
      byId("overview").querySelectorAll("[role=tab]")[k].focus();
    };
    return element("div", { class: "tabs", role: "tablist", "aria-label": "Stages" }, data.stages.map((stage, k) => element("button", {
      type: "button", role: "tab", "aria-selected": String(k === index), "aria-controls": "curves", tabindex: k === index ? 0 : -1,
      onclick: () => choose(k),
      onkeydown: (event) => {
        const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (move) choose((k + move + data.stages.length) % data.stages.length);
      },
    }, stage.name)));
  }

  // ---- comparison -----------------------------------------------------------------------------
  const RATES = ["top1", "top5", "top_max"];
  const lowerIsBetter = (name) => ["malformed_rate", "truncated_fraction"].includes(name) || name.startsWith("errors/");
  const neither = (name) => ["parameters", "mean_list_length"].includes(name) || name.endsWith("_tokens_mean");
  const modelName = (name) => name.includes("/") ? name : words(name);  // a path, or a name

  function cell(name, value) {
    if (typeof value !== "number") return value === null || value === undefined ? "–" : String(value);
    if (name === "parameters") return value ? format(value) : "–";
    if (neither(name)) return format(value);
    return Number.isInteger(value) && value > 1 ? value.toLocaleString("en") : value.toFixed(3);
  }

  function comparison() {
    const section = byId("comparison");
    for (const [name, evaluation] of Object.entries(data.evaluations)) {
      const models = Object.entries(evaluation.models || {});
      if (!models.length) continue;
      section.hidden = false;
      const columns = [...new Set(models.flatMap(([, row]) => Object.keys(row)))].filter((column) => column !== "intervals");
      const best = Object.fromEntries(columns.filter((column) => !neither(column)).map((column) => {
        const values = models.map(([, row]) => row[column]).filter((value) => typeof value === "number");
        const [least, most] = [Math.min(...values), Math.max(...values)];
        return [column, least === most ? null : lowerIsBetter(column) ? least : most];
      }));
      const table = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Table: ${words(name)}` }, element("table", {},
        element("thead", {}, element("tr", {}, ["model", ...columns].map((column) => element("th", { scope: "col" }, words(column))))),
        element("tbody", {}, models.map(([model, row]) => element("tr", {}, element("th", { scope: "row" }, modelName(model)),
          columns.map((column) => element("td", { class: typeof row[column] === "number" && row[column] === best[column] ? "best" : null }, cell(column, row[column]), interval(row, column))))))));
      const charts = [bars(models), differences(evaluation.paired || [])].filter(Boolean);
      section.append(element("h3", {}, words(name), evaluation.cases ? element("span", { class: "soft" }, ` · ${evaluation.cases} cases${evaluation.samples ? `, ${evaluation.samples} ${evaluation.samples === 1 ? "sample" : "samples"} each` : ""}`) : null),
        element("div", { class: "evaluation" }, element("div", { class: `pair ${charts.length > 1 ? "two" : ""}` }, charts), table));
    }
  }

  function interval(row, column) {
    const [low, high] = (row.intervals || {})[column] || [];
    return low === undefined ? null : element("span", { class: "interval" }, `${cell(column, low)} – ${cell(column, high)}`);
  }

  function bars(models) {
    const rates = RATES.filter((rate) => models.some(([, row]) => typeof row[rate] === "number"));
    const shown = rates.length ? rates : models.some(([, row]) => typeof row.reward_mean === "number") ? ["reward_mean"] : [];
    if (!shown.length) return null;
    const rows = models.map(([model, row]) => {
      const track = element("div", { class: "track" });
      // The longest first, so that the shorter ones lie on top of it.
      [...shown].reverse().forEach((rate) => {
        const bar = element("div", { class: `bar depth-${shown.indexOf(rate)}` });
        bar.style.width = `${100 * Math.max(0, Math.min(1, row[rate] || 0))}%`;
        track.append(bar);
      });
      const [low, high] = (row.intervals || {})[shown[0]] || [];
      if (low !== undefined) {
        const whisker = element("div", { class: "whisker" });
        whisker.style.left = `${100 * Math.max(0, low)}%`;
        whisker.style.width = `${100 * (Math.min(1, high) - Math.max(0, low))}%`;
        track.append(whisker);
      }
      return [element("div", {}, modelName(model)), track, element("div", { class: "number" }, cell(shown[0], row[shown[0]]))];
    });
    return element("div", { class: "panel" }, element("h4", {}, rates.length ? "Right answer among the first k" : "Mean reward"),
      element("ul", { class: "legend" }, shown.map((rate, k) => element("li", {}, element("span", { class: `swatch depth-${k}`, "aria-hidden": "true" }), words(rate))),
        shown.length > 1 ? element("li", {}, `figure: ${words(shown[0])}`) : null,
        models.some(([, row]) => row.intervals) ? element("li", {}, `line: 95 % interval of ${words(shown[0])}`) : null),
      element("div", { class: "bars" }, rows));
  }

  function differences(pairs) {
    if (!pairs.length) return null;
    const metrics = [...new Set(pairs.map((pair) => pair.metric))];
    const first = [...RATES, "reward_mean"].find((metric) => metrics.includes(metric)) || metrics[0];
    const rows = element("div", {});
    const show = (metric) => rows.replaceChildren(...forest(pairs.filter((pair) => pair.metric === metric)));
    const choice = element("select", { "aria-label": "Metric of the differences", onchange: (event) => show(event.target.value) },
      metrics.map((metric) => element("option", { value: metric }, words(metric))));
    choice.value = first;
    show(first);
    return element("div", { class: "panel" }, element("h4", {}, "Paired differences, with intervals"),
      element("p", { class: "legend" }, choice, "Right of the dotted line the first one has more; green is better."), rows);
  }

  function forest(pairs) {
    const reach = Math.max(...pairs.flatMap((pair) => [Math.abs(pair.low), Math.abs(pair.high)]), 1e-9);
    const x = (value) => `${50 + 49 * value / reach}%`;
    return pairs.map((pair) => {
      const sign = pair.low > 0 ? 1 : pair.high < 0 ? -1 : 0;
      const better = neither(pair.metric) ? 0 : lowerIsBetter(pair.metric) ? -sign : sign;
      const kind = better > 0 ? "above" : better < 0 ? "below" : "open";
      return element("div", { class: "difference" },
        element("span", {}, `${modelName(pair.a)} − ${modelName(pair.b)}`),
        element("span", { class: "number" }, `${signed(pair.difference, 3)}  [${signed(pair.low, 3)}, ${signed(pair.high, 3)}]`),
        shape("svg", { "aria-hidden": "true" }, shape("line", { class: "axis", x1: "50%", x2: "50%", y1: 0, y2: 14 }),
          shape("g", { class: kind }, shape("line", { class: "interval", x1: x(pair.low), x2: x(pair.high), y1: 7, y2: 7 }),
            shape("circle", { cx: x(pair.difference), cy: 7, r: 4 }))));
    });
  }

  // ---- samples --------------------------------------------------------------------------------
  const PAGE = 8;  // groups shown at once
  const LONG = 700;  // characters of a text shown at first
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const when = (group) => group.step ?? Number.MAX_SAFE_INTEGER;  // an evaluation comes last
  const rewards = (group) => group.samples.map((sample) => sample.reward ?? 0);
  const ORDERS = {
    newest: ["newest first", (a, b) => when(b) - when(a)],
    oldest: ["oldest first", (a, b) => when(a) - when(b)],
    best: ["highest mean reward", (a, b) => mean(rewards(b)) - mean(rewards(a))],
    worst: ["lowest mean reward", (a, b) => mean(rewards(a)) - mean(rewards(b))],
    spread: ["most spread", (a, b) => spread(b) - spread(a)],
  };
  const spread = (group) => Math.max(...rewards(group)) - Math.min(...rewards(group));

  function longText(text, className) {
    const block = element("div", { class: className });
    const body = element("p", { class: "text", dir: "auto" });
    block.append(body);
    if (text.length <= LONG * 1.25) {
      body.append(text || "–");
      return block;
    }
    let open = false;
    const button = element("button", { type: "button", class: "link", onclick: () => { open = !open; set(); } });
    function set() {
      body.textContent = open ? text : `${text.slice(0, LONG)}…`;
      button.textContent = open ? "Show less" : `Show all ${text.length.toLocaleString("en")} characters`;
      button.setAttribute("aria-expanded", String(open));
    }
    set();
    block.append(button);
    return block;
  }

  function sampleCard(sample) {
    const meter = element("div", {});
    meter.style.width = `${100 * Math.max(0, Math.min(1, sample.reward ?? 0))}%`;
    const advantage = sample.advantage ?? 0;
    const scores = Object.entries(sample.scores || {}), errors = sample.errors || [];
    const chips = [
      ...errors.map((error) => element("li", { class: "error" }, words(error))),
      sample.valid === false ? element("li", { class: "error" }, "not counted") : null,
      sample.stop_reason === "length" ? element("li", { class: "error" }, "cut at the limit") : null,
      ...scores.map(([name, score]) => element("li", {}, `${name} ${score === null ? "–" : score.toFixed(2)}`)),
    ].filter(Boolean);
    const learned = element("span", { class: advantage > 0.005 ? "up" : advantage < -0.005 ? "down" : "soft" }, `${advantage > 0.005 ? "▲ " : advantage < -0.005 ? "▼ " : ""}${signed(advantage)} advantage`);
    return element("article", { class: "sample", "aria-label": `${sample.model ? `${modelName(sample.model)}, reward` : "Reward"} ${format(sample.reward)}` },
      element("div", { class: "meter" }, meter),
      element("div", { class: "head" }, element("span", { class: "reward" }, sample.reward === null ? "–" : sample.reward.toFixed(2)), element("span", { class: "soft" }, "reward"),
        sample.audit !== undefined ? [element("span", { class: "reward" }, sample.audit === null ? "–" : sample.audit.toFixed(2)), element("span", { class: "soft" }, "audit")]
          : sample.model ? element("b", {}, modelName(sample.model)) : learned),
      element("div", { class: "body" },
        chips.length ? element("ul", { class: "chips" }, chips) : null,
        sample.thought ? element("div", {}, element("p", { class: "role" }, "thought"), longText(sample.thought, "thought")) : null,
        element("div", {}, element("p", { class: "role" }, "answer"), longText(sample.answer || "", "answer")),
        sample.expected ? element("div", {}, element("p", { class: "role" }, "expected"), longText(sample.expected, "answer")) : null));
  }

  function groupBlock({ group, samples }) {
    const hidden = group.samples.length - samples.length;
    const evaluated = group.step === null, learned = !evaluated && group.samples[0].audit === undefined;
    const order = evaluated ? () => 0 : (a, b) => (b.reward ?? 0) - (a.reward ?? 0);
    return element("div", { class: "group" },
      element("p", { class: "where" }, element("b", {}, evaluated ? "Evaluation" : `Step ${group.step.toLocaleString("en")}`), ` · ${group.stage} · mean reward ${mean(rewards(group)).toFixed(2)}`,
        learned && spread(group) === 0 && group.samples.length > 1 ? " · all rewards equal, so nothing is learned here" : null,
        hidden ? ` · ${samples.length} of ${group.samples.length} answers match` : ` · ${samples.length} answers`),
      data.prompts[group.prompt].map((message) => element("div", { class: "message" }, element("p", { class: "role" }, message.role), longText(message.content, ""))),
      element("div", { class: "answers" }, [...samples].sort(order).map(sampleCard)));
  }

  function audit() {
    if (!data.audit.length) return;
    const section = byId("audit");
    section.hidden = false;
    const views = new Map(data.audit.map((group) => [`${group.stage}, step ${group.step.toLocaleString("en")}`, []]));
    for (const group of data.audit) views.get(`${group.stage}, step ${group.step.toLocaleString("en")}`).push(group);
    const names = [...views.keys()].reverse();
    const list = element("div", {});
    const show = (name) => list.replaceChildren(...views.get(name).map((group) => groupBlock({ group, samples: group.samples })));
    section.append(element("p", { class: "note" }, "Validation samples on which the reward and a grader that is in no reward differ most, the largest difference first."),
      element("form", { "aria-label": "Choose a validation", onsubmit: (event) => event.preventDefault() },
        element("label", {}, "Validation", element("select", { name: "validation", onchange: (event) => show(event.target.value) },
          names.map((name) => element("option", { value: name }, name))))), list);
    show(names[0]);
  }

  function browser() {
    if (!data.groups.length) return;
    const section = byId("samples");
    section.hidden = false;
    const everyReward = data.groups.flatMap(rewards);
    const low = Math.min(0, ...[...new Set(everyReward)]), high = Math.max(1, ...[...new Set(everyReward)]);
    const select = (name, options) => element("select", { name }, Object.entries(options).map(([value, text]) => element("option", { value }, text)));
    const stages = [...new Set(data.groups.map((group) => group.stage))];
    const steps = [...new Set(data.groups.map((group) => group.step))].filter((step) => step !== null).sort((a, b) => a - b);
    const errors = [...new Set(data.groups.flatMap((group) => group.samples.flatMap((sample) => sample.errors || [])))].sort();
    const fields = {
      stage: select("stage", { "": "all", ...Object.fromEntries(stages.map((stage) => [stage, stage])) }),
      step: element("select", { name: "step" }, element("option", { value: "" }, "all"), steps.map((step) => element("option", { value: step }, step.toLocaleString("en")))),
      error: select("error", { "": "any or none", none: "no error", any: "some error", ...Object.fromEntries(errors.map((error) => [error, words(error)])) }),
      order: select("order", Object.fromEntries(Object.entries(ORDERS).map(([value, [text]]) => [value, text]))),
      from: element("input", { type: "range", name: "from", min: low, max: high, step: (high - low) / 100, value: low, "aria-label": "Lowest reward" }),
      to: element("input", { type: "range", name: "to", min: low, max: high, step: (high - low) / 100, value: high, "aria-label": "Highest reward" }),
      text: element("input", { type: "search", name: "text", placeholder: "contains" }),
    };
    fields.to.value = high;
    const BINS = 20, bins = Array(BINS).fill(0);
    const bin = (reward) => Math.min(BINS - 1, Math.floor((reward - low) / (high - low) * BINS));
    everyReward.forEach((reward) => bins[bin(reward)]++);
    const columns = bins.map((count) => {
      const column = element("span", { title: `${count} samples` });
      column.style.height = `${100 * Math.sqrt(count / Math.max(...bins))}%`;
      return column;
    });
    const rewardText = element("span", {});
    const field = (text, control) => element("label", {}, text, control);
    const form = element("form", { "aria-label": "Filter the samples", onsubmit: (event) => event.preventDefault() },
      element("div", { class: "field wide" }, rewardText, element("div", { class: "histogram", "aria-hidden": "true" }, columns), element("div", { class: "range" }, fields.from, fields.to)),
      field("Step", fields.step), stages.length > 1 ? field("Stage", fields.stage) : null,
      field("Errors", fields.error), field("Order", fields.order), element("label", { class: "wide" }, "Text", fields.text));
    const count = element("p", { class: "count", role: "status" });
    const list = element("div", {});
    const more = element("button", { type: "button", class: "more", onclick: () => { shown += PAGE; draw(shown - PAGE); } }, "Show more prompts");
    section.append(element("p", { class: "note" }, data.sampling.join(" ")), form, count, list, more);

    let found = [], shown = PAGE;
    function draw(start) {
      if (start === 0) list.replaceChildren();
      list.append(...found.slice(start, shown).map(groupBlock));
      more.hidden = shown >= found.length;
    }
    function filter() {
      const from = Number(fields.from.value), to = Math.max(from, Number(fields.to.value));
      fields.from.style.zIndex = from > (low + high) / 2 ? 1 : 0;  // where both thumbs are, the one that can still move
      const wanted = fields.text.value.toLowerCase(), error = fields.error.value;
      const slack = 1e-6 * (high - low);
      const matches = (sample, inPrompt) => {
        const reward = sample.reward ?? 0, flags = sample.errors || [];
        if (reward < from - slack || reward > to + slack) return false;
        if (error === "none" ? flags.length : error === "any" ? !flags.length : error && !flags.includes(error)) return false;
        return inPrompt || `${sample.thought}\n${sample.answer}`.toLowerCase().includes(wanted);
      };
      found = [];
      for (const group of data.groups) {
        if (fields.stage.value && group.stage !== fields.stage.value) continue;
        if (fields.step.value && group.step !== Number(fields.step.value)) continue;
        const inPrompt = !wanted || data.prompts[group.prompt].some((message) => message.content.toLowerCase().includes(wanted));
        const samples = group.samples.filter((sample) => matches(sample, inPrompt));
        if (samples.length) found.push({ group, samples });
      }
      const order = ORDERS[fields.order.value][1];
      found.sort((a, b) => order(a.group, b.group));
      columns.forEach((column, k) => column.classList.toggle("in", k >= bin(from) && k <= bin(to)));
      rewardText.textContent = `Reward from ${from.toFixed(2)} to ${to.toFixed(2)}`;
      const samples = found.reduce((sum, { samples }) => sum + samples.length, 0);
      count.textContent = `${samples.toLocaleString("en")} ${samples === 1 ? "sample" : "samples"} of ${found.length.toLocaleString("en")} ${found.length === 1 ? "prompt" : "prompts"}`;
      shown = PAGE;
      draw(0);
    }
    // The filter is part of the address, so that a view can be passed on: #samples?step=20&to=0.3
    function read() {
      const [, query] = location.hash.split("?");
      for (const [name, value] of new URLSearchParams(query || "")) if (fields[name]) fields[name].value = value;
      if (query) section.scrollIntoView();
    }
    function write() {
      const query = new URLSearchParams(Object.entries(fields)
        .filter(([name, control]) => control.value !== { from: String(low), to: String(high), order: "newest" }[name] && control.value !== "")
        .map(([name, control]) => [name, control.value]));
      history.replaceState(null, "", `#samples?${query}`);
    }
    form.addEventListener("input", () => { filter(); write(); });
    addEventListener("hashchange", () => { read(); filter(); });
    read();
    filter();
  }

  // ---- the page -------------------------------------------------------------------------------
  byId("name").textContent = data.name;
  byId("about").textContent = data.about;
  if (data.stages.length) {
    const sampling = data.stages.findLastIndex((stage) => stage.kind !== "SFTStage");
    showStage(sampling >= 0 ? sampling : data.stages.length - 1);
  } else if (data.config) {
    byId("overview").append(element("p", { class: "empty" }, "No step is done yet."));
  } else {
    byId("overview").hidden = true;
  }
  comparison();
  audit();
  browser();
  byId("settings").hidden = !data.config;
  byId("settings").append(element("details", {}, element("summary", {}, "The whole configuration"),
    element("pre", { class: "settings" }, JSON.stringify(data.config, (key, value) => key === "class" ? undefined : value, 2))));
  const sections = [...document.querySelectorAll("main > section:not([hidden])")];
  sections[0].classList.add("first");
  document.querySelector("nav").hidden = sections.length < 2;
  document.querySelector("nav").append(element("ul", {}, sections.map((section) =>
    element("li", {}, element("a", { href: `#${section.id}` }, section.id[0].toUpperCase() + section.id.slice(1))))));
  document.documentElement.dataset.ready = Math.round(performance.now());
})();
