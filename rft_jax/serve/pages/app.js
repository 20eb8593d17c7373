"use strict";
// Fills the pages from the API. What clients wrote becomes text nodes, never markup.
(() => {
  const token = document.querySelector('meta[name="rft-token"]').content;
  const main = document.getElementById("main"), status = document.getElementById("status");
  const POLL_MS = 2000, UNFINISHED = ["validating_files", "queued", "running", "paused"];

  // ---- elements -------------------------------------------------------------------------------
  function element(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
    return node;
  }
  const soft = (...children) => element("span", { class: "soft small" }, ...children);
  const facts = (pairs) => element("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));

  // ---- the API --------------------------------------------------------------------------------
  async function call(path, method = "GET", body = undefined) {
    const form = body instanceof FormData;
    const headers = { "x-rft-token": token };
    if (body !== undefined && !form) headers["content-type"] = "application/json";
    // With the origin: a page may have been opened by a URL with the password in it.
    const answer = await fetch(location.origin + path, { method, headers, body: form || body === undefined ? body : JSON.stringify(body) });
    const text = await answer.text();
    let value = text;
    try { value = JSON.parse(text); } catch { /* a log is text */ }
    if (!answer.ok) throw new Error(value?.error?.message || `status ${answer.status}`);
    return value;
  }
  async function attempt(action) {
    try {
      status.textContent = "";
      return await action();
    } catch (error) {
      status.textContent = error.message;
      return null;
    }
  }
  function poll(update) {
    const next = async () => {
      if (!document.hidden) await attempt(update);
      setTimeout(next, POLL_MS);
    };
    next();
  }
  const button = (name, action, kind = "") => element("button", { type: "button", class: kind, onclick: async (event) => {
    event.target.disabled = true;
    await attempt(action);
    event.target.disabled = false;
  } }, name);

  // ---- words ----------------------------------------------------------------------------------
  const when = (seconds) => seconds ? new Date(seconds * 1000).toLocaleString() : null;
  const number = (value, digits = 3) => value === null || value === undefined ? null : Number(value).toFixed(digits);
  function size(bytes) {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let k = 0;
    while (bytes >= 1000 && k < units.length - 1) { bytes /= 1000; k++; }
    return `${bytes.toFixed(k ? 1 : 0)} ${units[k]}`;
  }
  function left(job) {
    if (!job.estimated_finish || job.status !== "running") return null;
    const seconds = Math.max(0, job.estimated_finish - Date.now() / 1000);
    return seconds > 5400 ? `${(seconds / 3600).toFixed(1)} h left` : `${Math.ceil(seconds / 60)} min left`;
  }
  const state = (job) => element("span", { class: `state ${/^[a-z_]+$/.test(job.status) ? job.status : ""}` }, job.status.replaceAll("_", " "));

  // ---- one job in short -------------------------------------------------------------------------
  const ended = new Map();  // metrics of finished jobs do not change
  async function lastMetrics(job) {
    if (ended.has(job.id)) return ended.get(job.id);
    if (!["running", "paused", "succeeded", "cancelled", "failed"].includes(job.status)) return null;
    const events = await call(`/v1/fine_tuning/jobs/${job.id}/events?limit=20`);
    const found = { step: null, total: null, train: null, valid: null };
    for (const { type, data } of events.data) {
      if (type !== "metrics" || !data) continue;
      found.step ??= data.step;
      found.total ??= data.total_steps;
      found.train ??= data.train_mean_reward ?? data.train_loss;
      found.valid ??= data.full_valid_mean_reward ?? data.full_valid_loss;
    }
    if (!UNFINISHED.includes(job.status)) ended.set(job.id, found);
    return found;
  }
  function actions(job, again) {
    const act = (name) => async () => { await call(`/v1/fine_tuning/jobs/${job.id}/${name}`, "POST"); await again(); };
    return [
      job.status === "running" ? button("Pause", act("pause")) : null,
      job.status === "paused" ? button("Resume", act("resume")) : null,
      UNFINISHED.includes(job.status) ? button("Cancel", async () => {
        if (confirm(`Cancel ${job.id}? It cannot go on afterwards.`)) await act("cancel")();
      }, "danger") : null,
    ];
  }
  function bar(job, metrics) {
    if (!metrics?.total || !UNFINISHED.includes(job.status)) return null;
    return element("progress", { max: metrics.total, value: metrics.step, "aria-label": `step ${metrics.step} of ${metrics.total}` });
  }

  // ---- jobs -------------------------------------------------------------------------------------
  async function jobsPage() {
    const list = element("div"), disk = element("p", { class: "soft small" });
    main.append(element("h1", {}, "Jobs"), disk, list);
    let limit = 20;
    const update = async () => {
      const jobs = await call(`/v1/fine_tuning/jobs?limit=${limit}`);
      const queue = jobs.data.filter((job) => job.status === "queued").map((job) => job.id).reverse();
      const metrics = await Promise.all(jobs.data.map(lastMetrics));
      list.replaceChildren(...jobs.data.map((job, n) => jobCard(job, metrics[n], queue.indexOf(job.id) + 1, update)));
      if (!jobs.data.length) list.append(element("p", { class: "soft" }, "There are no jobs yet. Make one with the openai client: client.fine_tuning.jobs.create(...)."));
      if (jobs.has_more) list.append(button("Older jobs", async () => { limit = Math.min(100, limit + 20); await update(); }));
    };
    poll(update);
    const { used, free } = await call("/pages/state");
    disk.textContent = `${size(used)} used, ${size(free)} free`;
  }
  function jobCard(job, metrics, place, again) {
    const files = [job.training_file, job.validation_file].filter(Boolean).join(", ");
    const pairs = Object.entries(job.metadata || {}).map(([key, value]) => `${key}: ${value}`).join(" · ");
    return element("article", { class: "card" },
      element("div", { class: "row" }, element("a", { class: "id", href: `/jobs/${job.id}` }, job.id), state(job),
        place ? soft(`place ${place} in the queue`) : null, soft(left(job) || ""),
        element("span", { class: "end row" }, actions(job, again))),
      element("p", {}, job.model, soft(` · ${job.method?.type || "supervised"} · ${when(job.created_at)}`)),
      job.fine_tuned_model ? element("p", { class: "id" }, job.fine_tuned_model) : null,
      metrics?.total ? element("p", { class: "small" }, `step ${metrics.step} of ${metrics.total}`,
        metrics.train === null || metrics.train === undefined ? null : ` · training ${number(metrics.train)}`,
        metrics.valid === null || metrics.valid === undefined ? null : ` · validation ${number(metrics.valid)}`) : null,
      bar(job, metrics),
      job.error?.message ? element("p", { class: "small state failed" }, job.error.message) : null,
      element("p", { class: "soft small id" }, files), pairs ? element("p", { class: "soft small" }, pairs) : null);
  }

  // ---- one job ----------------------------------------------------------------------------------
  async function jobPage(id) {
    const head = element("div"), events = element("ul", { class: "events" }), checkpoints = element("div");
    const frame = element("iframe", { title: "Report of the run", sandbox: "allow-scripts", hidden: true });
    const report = element("div", {}, element("h2", {}, "Curves, samples, comparison"), element("p", { class: "soft" }, "They come with the first steps."), frame);
    const settings = element("pre"), given = element("pre"), log = element("pre"), ask = element("div");
    main.append(head, report, element("h2", {}, "Events"), events, element("h2", {}, "Checkpoints"), checkpoints, ask,
      element("h2", {}, "Settings"), element("div", { class: "two" },
        element("div", { class: "card" }, element("p", { class: "soft" }, "As given"), given),
        element("div", { class: "card" }, element("p", { class: "soft" }, "As they became"), settings)),
      element("details", { ontoggle: () => attempt(async () => { log.textContent = await text(`/jobs/${id}/log`); }) }, element("summary", {}, "Log"), log));
    let shown = "", count = 20, asked = false;

    async function showReport() {
      const there = await fetch(`${location.origin}/jobs/${id}/report`, { headers: { "x-rft-token": token } });
      if (!there.ok) return false;
      report.querySelector("p").replaceChildren(button("Load the newest", () => { frame.src = `/jobs/${id}/report?${Date.now()}`; }));
      frame.hidden = false;
      frame.src = `/jobs/${id}/report?${Date.now()}`;
      return true;
    }
    const update = async () => {
      const job = await call(`/v1/fine_tuning/jobs/${id}`);
      const metrics = await lastMetrics(job);
      head.replaceChildren(
        element("h1", { class: "id" }, job.id),
        element("div", { class: "row" }, state(job), soft(left(job) || ""), element("span", { class: "end row" }, actions(job, update))),
        bar(job, metrics) || "",
        job.error?.message ? element("p", { class: "state failed" }, job.error.message) : "",
        facts([["model", job.model], ["method", job.method?.type], ["tuned model", job.fine_tuned_model],
          ["step", metrics?.total ? `${metrics.step} of ${metrics.total}` : null], ["training", number(metrics?.train)],
          ["validation", number(metrics?.valid)], ["trained tokens", job.trained_tokens?.toLocaleString("en")],
          ["seed", job.seed], ["training file", job.training_file], ["validation file", job.validation_file],
          ["created", when(job.created_at)], ["finished", when(job.finished_at)],
          ...Object.entries(job.metadata || {})]));
      given.textContent = JSON.stringify(job.method, null, 2);
      const found = await call(`/v1/fine_tuning/jobs/${id}/events?limit=${count}`);
      events.replaceChildren(...found.data.map((event) => element("li", { class: ["warn", "error"].includes(event.level) ? event.level : "" },
        soft(`${when(event.created_at)} `), event.message)),
        found.has_more ? button("Older events", async () => { count = Math.min(100, count + 40); await update(); }) : "");
      const kept = await call(`/v1/fine_tuning/jobs/${id}/checkpoints?limit=10`);
      checkpoints.replaceChildren(...kept.data.map((one) => element("p", { class: "card" },
        element("span", { class: "id" }, one.fine_tuned_model_checkpoint),
        soft(` step ${one.step_number}`, one.metrics?.full_valid_mean_reward === undefined ? "" : `, validation ${number(one.metrics.full_valid_mean_reward)}`),
        button("Delete", async () => {
          if (!confirm(`Delete ${one.fine_tuned_model_checkpoint}?`)) return;
          await call(`/v1/models/${encodeURIComponent(one.fine_tuned_model_checkpoint)}`, "DELETE");
          await update();
        }, "danger"))));
      if (!kept.data.length) checkpoints.append(element("p", { class: "soft" }, "None yet."));
      if (shown !== job.status && await showReport()) shown = job.status;
      if (!settings.textContent && !["validating_files"].includes(job.status))
        settings.textContent = JSON.stringify(await call(`/jobs/${id}/settings`).catch(() => null), null, 2) || "";
      if (job.fine_tuned_model && !asked) {
        asked = true;
        ask.append(askBox([job.fine_tuned_model, ...kept.data.map((one) => one.fine_tuned_model_checkpoint)], job.model));
      }
    };
    poll(update);
  }
  const text = async (path) => { const value = await call(path); return typeof value === "string" ? value : JSON.stringify(value); };

  function askBox(tuned, base) {
    const prompt = element("textarea", { id: "prompt", placeholder: "A prompt" });
    const chosen = element("select", { "aria-label": "Tuned model" }, tuned.map((name) => element("option", { value: name }, name)));
    const answers = element("div", { class: "two" });
    const one = async (model) => {
      const pre = element("div", { class: "text" }, "…");
      answers.append(element("div", { class: "card" }, element("p", { class: "soft small id" }, model), pre));
      try {
        const answer = await call("/v1/chat/completions", "POST", { model, temperature: 0, messages: [{ role: "user", content: prompt.value }] });
        pre.textContent = answer.choices[0].message.content;
      } catch (error) {
        pre.textContent = error.message;
      }
    };
    return element("section", {}, element("h2", {}, "Ask both"), element("label", { for: "prompt" }, "Prompt"), prompt,
      element("p", { class: "row" }, chosen, button("Ask the tuned model and its base", async () => {
        answers.replaceChildren();
        await Promise.all([one(chosen.value), one(base)]);
      })), answers);
  }

  // ---- files ------------------------------------------------------------------------------------
  async function filesPage() {
    const list = element("div"), input = element("input", { type: "file", accept: ".jsonl", "aria-label": "File" });
    const update = async () => {
      const files = await call("/v1/files?limit=200");
      list.replaceChildren(...files.data.map((file) => element("article", { class: "card" },
        element("div", { class: "row" }, element("span", {}, file.filename), soft(`${size(file.bytes)} · ${file.purpose} · ${when(file.created_at)}`),
          element("span", { class: "end row" },
            button("Download", () => download(file)),
            button("Delete", async () => {
              if (!confirm(`Delete ${file.id}?`)) return;
              await call(`/v1/files/${file.id}`, "DELETE");
              await update();
            }, "danger"))),
        element("p", { class: "id soft" }, file.id))));
      if (!files.data.length) list.append(element("p", { class: "soft" }, "There are no files yet."));
    };
    main.append(element("h1", {}, "Files"), element("p", { class: "row" }, input, button("Upload for fine-tuning", async () => {
      if (!input.files.length) throw new Error("Choose a file first.");
      const form = new FormData();
      form.append("purpose", "fine-tune");
      form.append("file", input.files[0]);
      await call("/v1/files", "POST", form);
      input.value = "";
      await update();
    })), list);
    await update();
  }
  async function download(file) {
    const answer = await fetch(`${location.origin}/v1/files/${file.id}/content`, { headers: { "x-rft-token": token } });
    const link = element("a", { href: URL.createObjectURL(await answer.blob()), download: file.filename });
    link.click();
    URL.revokeObjectURL(link.href);
  }

  // ---- graders ----------------------------------------------------------------------------------
  const EXAMPLE = { type: "string_check", name: "right", operation: "eq", input: "{{ sample.output_text }}", reference: "{{ item.answer }}" };
  function gradersPage() {
    const box = (id, value) => element("textarea", { id, spellcheck: "false" }, value);
    const grader = box("grader", JSON.stringify(EXAMPLE, null, 2)), sample = box("sample", "Paris"), item = box("item", '{"answer": "Paris"}');
    const result = element("pre", { class: "card", hidden: true });
    const parsed = (area) => {
      try { return JSON.parse(area.value); } catch (error) { throw new Error(`${area.id}: ${error.message}`); }
    };
    const show = (value) => { result.hidden = false; result.textContent = JSON.stringify(value, null, 2); };
    const base = "/v1/fine_tuning/alpha/graders";
    main.append(element("h1", {}, "Graders"), element("p", { class: "soft" }, "Try a grader before a job depends on it."),
      element("label", { for: "grader" }, "Grader"), grader,
      element("div", { class: "two" }, element("div", {}, element("label", { for: "sample" }, "Answer"), sample),
        element("div", {}, element("label", { for: "item" }, "Item"), item)),
      element("p", { class: "row" },
        button("Validate", async () => { await call(`${base}/validate`, "POST", { grader: parsed(grader) }); show("The grader can be used."); }),
        button("Run", async () => show(await call(`${base}/run`, "POST", { grader: parsed(grader), model_sample: sample.value, item: parsed(item) })))),
      result);
  }

  // ---- which page -------------------------------------------------------------------------------
  const path = location.pathname, job = /^\/jobs\/([\w-]+)$/.exec(path);
  for (const link of document.querySelectorAll("nav a"))
    if (link.getAttribute("href") === (job ? "/" : path)) link.setAttribute("aria-current", "page");
  attempt(() => job ? jobPage(job[1]) : { "/": jobsPage, "/files": filesPage, "/graders": gradersPage }[path]());
})();
