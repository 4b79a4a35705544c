// The page of the service: what was asked, what is answered, alarms, drift and the shadow bundle. It talks to the HTTP
// API only. Everything that comes from outside becomes text nodes, never HTML.

import { ask, Failure, follow, useKey } from "/page/api.js";
import { firstLanguage, keepLanguage, TEXTS } from "/page/texts.js";

const PAGE_ROWS = 10; // reports of a page of the list
const BATCH = 64; // reports of a request
const RETRIES = 20; // of a request that found the queue full
const SHOWN_ALARMS = 200;
const REFRESH = 15000; // milliseconds between two looks at drift and shadow
const LEAST = 100; // rows from which drift is judged, as in drift.py
const TOP = 8; // contributions in the table

const state = {
  language: firstLanguage(),
  info: null,
  answers: [], // {id, content, values, spread}
  row: 0,
  label: null,
  explanation: null, // of the row and the label
  explanations: 0, // asked for so far; only the last one is shown
  question: 0, // asked so far; answers of an earlier one are dropped
  alarms: null, // by id; null: the service has none
  heard: 0, // predictions since the page was opened
  live: "connecting",
  notice: null, // [key, ...] of a text
  status: null, // likewise
  error: null, // likewise, or a sentence of the service
};

const $ = id => document.getElementById(id);
const t = (key, ...values) => {
  const text = TEXTS[state.language][key];
  return typeof text === "function" ? text(...values) : text;
};
const said = message => (Array.isArray(message) ? t(...message) : message ?? "");

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter(child => child !== null));
  return made;
}

const number = (value, options) => new Intl.NumberFormat(state.language, options).format(value);
const percent = value => number(value, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const plain = value => number(value, { maximumSignificantDigits: 3 });
const hundredths = value => number(value, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const whole = value => number(value, { maximumFractionDigits: 0 });
const signed = value => number(value, { maximumFractionDigits: 2, minimumFractionDigits: 2, signDisplay: "exceptZero" });
const clock = time => new Date(time).toLocaleString(state.language, { dateStyle: "short", timeStyle: "medium" });
const isDays = () => state.info.task.kind === "regression";
const valueText = value => (isDays() ? `${plain(value)} ${t("days")}` : percent(value));
const labelName = label => t("label_name", label);
const rowName = id => t("row", state.info.task.input_kind, id);

// ---------------------------------------------------------------------------------------------------------------- words

function showWords() {
  document.documentElement.lang = state.language;
  for (const one of document.querySelectorAll("[data-text]")) one.textContent = t(one.dataset.text);
  $("language").textContent = t("other");
  $("language").lang = t("other_code");
  showInfo();
  showMessages();
  showAnswer();
  showAlarms();
  showLive();
}

function showInfo() {
  const info = state.info;
  const kind = info?.task.input_kind === "stays" ? "stays" : "reports";
  $("text-label").textContent = t(`text_${kind}`);
  $("text-hint").textContent = t(`hint_${kind}`);
  if (!info) return;
  $("title").textContent = document.title = t("titles")[info.task.name] ?? info.task.title;
  $("served").textContent = t("served", info.bundle.name, info.bundle.version, info.engine);
  showDrift(info.drift);
  showShadow(info.shadow);
}

function showMessages() {
  $("notice").hidden = !state.notice;
  $("notice").textContent = said(state.notice);
  $("status").textContent = said(state.status);
  $("error").hidden = !state.error;
  $("error").textContent = said(state.error);
}

function showLive() {
  if ($("live").textContent !== t(state.live)) $("live").textContent = t(state.live); // read out when it changes
  $("live").className = state.live;
  $("heard").textContent = state.heard ? t("heard", whole(state.heard)) : "";
}

// ------------------------------------------------------------------------------------------------------------ questions

// Rows of a text: {id, content}; the id is null where the text has none.
function rowsOf(text, name) {
  if (state.info.task.input_kind === "stays") {
    const id = name && /^[!-~]{1,256}$/.test(name) ? name.replace(/\.[^.]*$/, "") : null;
    return text.trim() ? [{ id: id || null, content: text }] : [];
  }
  const rows = [];
  for (const line of text.replace(/^\uFEFF/, "").split(/\r\n|\r|\n/)) {
    const fields = line.split("|,|");
    const [id, tokens] = fields.length > 1 ? fields : [null, fields[0]];
    if (line.trim()) rows.push({ id: id?.trim() || null, content: tokens.trim().replaceAll("\t", " ") });
  }
  return rows;
}

async function predict(rows) {
  const question = ++state.question;
  const isCurrent = () => question === state.question;
  const started = performance.now();
  Object.assign(state, { answers: [], row: 0, label: null, explanation: null, error: null, status: null });
  if (!rows.length) state.error = ["nothing"];
  showMessages();
  showAnswer();
  const found = [];
  let at = 0;
  const { kind, content } = state.info.task.input_kind === "stays"
    ? { kind: "stays", content: "series" } : { kind: "reports", content: "tokens" };
  try {
    while (at < rows.length) {
      const part = nextPart(rows, at);
      const body = { [kind]: part.map(row => ({ id: row.id ?? undefined, [content]: row.content })) };
      const { predictions } = await patiently(() => ask("/predict", body), isCurrent);
      if (!isCurrent()) return;
      // Rows without an id are numbered here alone: to the alarms of the service, equal ids are one patient.
      predictions.forEach((one, i) => found.push({ ...one, id: part[i].id ?? String(at + i + 1), content: part[i].content }));
      at += part.length;
      if (at < rows.length) state.status = ["working", whole(found.length), whole(rows.length)];
      showMessages();
    }
    if (rows.length) state.status = ["answered", whole(found.length), hundredths((performance.now() - started) / 1000)];
  } catch (error) {
    if (!isCurrent()) return;
    state.status = null;
    state.error = sentence(error);
    if (at) state.error = ["part", said(state.error), whole(at + 1), whole(rows.length)];
  }
  state.answers = found;
  showMessages();
  showAnswer();
}

// Rows from `at` on for one request: as many as the service takes, in number and in bytes, and one at least.
function nextPart(rows, at) {
  const { limits } = state.info;
  const part = [];
  let bytes = 0;
  for (const row of rows.slice(at, at + Math.min(BATCH, limits.reports))) {
    bytes += 1.1 * row.content.length + 300; // breaks of lines take two bytes in JSON; the id may be long
    if (part.length && bytes > limits.bytes) break;
    part.push(row);
  }
  return part;
}

// Asks again, after the time that the service names, while its queue is full.
async function patiently(question, isCurrent) {
  for (let tries = 0; ; tries++) {
    try {
      return await question();
    } catch (error) {
      if (error.status !== 429 || tries === RETRIES || !isCurrent()) throw error;
      await new Promise(resolve => setTimeout(resolve, 1000 * error.retryAfter));
    }
  }
}

function sentence(error) {
  if (!(error instanceof Failure)) throw error;
  if (error.status === 401) askForKey();
  if (error.sentence) return error.sentence;
  return error.status ? ["status", error.status] : ["unreachable"];
}

async function predictFiles(files) {
  const rows = [];
  for (const file of files) {
    const text = new TextDecoder("utf-8", { fatal: true });
    try {
      rows.push(...rowsOf(text.decode(await file.arrayBuffer()), file.name));
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      state.error = ["not_text", file.name];
      return showMessages();
    }
  }
  return predict(rows);
}

// -------------------------------------------------------------------------------------------------------------- answers

function showAnswer() {
  const answer = state.answers[state.row];
  $("answer").hidden = !answer;
  if (!answer) return;
  $("row-title").textContent = rowName(answer.id);
  showList();
  showBars(answer);
  showExplanation();
}

function highest(answer) {
  return Object.entries(answer.values).reduce((best, one) => (one[1] > best[1] ? one : best));
}

function showList() {
  const all = state.answers.length;
  $("list").hidden = all < 2;
  if (all < 2) return;
  const from = state.row - (state.row % PAGE_ROWS);
  const to = Math.min(from + PAGE_ROWS, all);
  const rows = state.answers.slice(from, to).map((answer, i) => {
    const [label, value] = highest(answer);
    const choose = () => chooseRow(from + i);
    const current = from + i === state.row ? "true" : null;
    const button = element("button", { type: "button", onclick: choose, "aria-current": current }, answer.id);
    return element("tr", {}, element("th", { scope: "row" }, button), element("td", {}, labelName(label)),
      element("td", { class: "figure" }, valueText(value)));
  });
  const head = [["", t("rows", state.info.task.input_kind)], ["", t("highest")], ["figure", t("value")]];
  const table = element("table", { class: "reports" }, element("caption", {}, t("choose_row")),
    element("thead", {}, element("tr", {}, ...head.map(([kind, word]) => element("th", { scope: "col", class: kind }, word)))),
    element("tbody", {}, ...rows));
  const pages = element("div", { class: "row" },
    element("button", { type: "button", id: "before", disabled: from === 0, onclick: () => turn(from - PAGE_ROWS, "before") }, t("before")),
    element("span", { class: "hint" }, t("shown", whole(from + 1), whole(to), whole(all))),
    element("button", { type: "button", id: "next", disabled: to === all, onclick: () => turn(to, "next") }, t("next")));
  replace($("list"), table, all > PAGE_ROWS ? pages : null);
}

function chooseRow(row) {
  Object.assign(state, { row, label: null, explanation: null });
  showAnswer();
}

function turn(row, button) {
  chooseRow(row);
  if ($(button).disabled) $(button === "next" ? "before" : "next").focus();
}

function showBars(answer) {
  const numbers = state.info.labels.map(label => [label, answer.values[label], answer.spread[label] ?? 0]);
  const end = isDays() ? 1.25 * Math.max(1, ...numbers.map(([, value, spread]) => value + spread)) : 1;
  const explains = state.info.explains;
  $("bars-caption").textContent = [t("bars_caption"), isDays() ? null : t("half"), explains ? t("choose_label", state.info.task.input_kind) : null]
    .filter(Boolean).join(t("space"));
  replace($("bars"), ...numbers.map(([label, value, spread]) => {
    const track = element("div", { class: "track", "aria-hidden": "true" });
    const place = share => `${100 * Math.min(Math.max(share, 0), 1)}%`;
    const fill = element("div", { class: "fill" });
    fill.style.width = place(value / end);
    const line = element("div", { class: "spread" });
    const [low, high] = [Math.max(value - spread, 0) / end, Math.min((value + spread) / end, 1)];
    line.style.left = place(low);
    line.style.width = place(high - low);
    track.append(fill, ...(isDays() ? [] : [element("div", { class: "half" })]), ...(spread > 0 ? [line] : []));
    const pressed = String(label === state.label);
    const name = explains
      ? element("button", { type: "button", "aria-pressed": pressed, onclick: () => explain(label) }, labelName(label))
      : labelName(label);
    const text = isDays() ? `${plain(value)} ± ${plain(spread)} ${t("days")}` : `${percent(value)} ± ${percent(spread)}`;
    return element("tr", { class: value >= 0.5 && !isDays() ? "high" : "" }, element("th", { scope: "row" }, name),
      element("td", {}, track), element("td", { class: "figure" }, text));
  }));
}

async function explain(label) {
  const answer = state.answers[state.row];
  const asked = ++state.explanations;
  Object.assign(state, { label, explanation: "asked" });
  showAnswer();
  const content = state.info.task.input_kind === "stays" ? "series" : "tokens";
  let found;
  try {
    found = await ask("/explain", { [content]: answer.content, label });
  } catch (error) {
    found = { error: sentence(error) };
  }
  if (asked !== state.explanations || state.answers[state.row] !== answer || state.label !== label) return;
  state.explanation = found;
  showExplanation();
}

function showExplanation() {
  const found = state.explanation;
  $("explained").textContent = "";
  if (!found) return replace($("explanation"));
  if (found === "asked") return replace($("explanation"), element("p", { class: "hint" }, t("explaining")));
  if (found.error) return replace($("explanation"), element("p", { class: "error" }, said(found.error)));
  const most = Math.max(...found.weights.map(Math.abs)) || 1;
  const heat = element("p", { class: "heat" });
  found.tokens.forEach((token, i) => {
    const strength = found.weights[i] / most;
    const span = element("span", { title: signed(found.weights[i]) }, token);
    span.style.background = `rgb(${strength > 0 ? "61 126 219" : "224 138 44"} / ${(0.6 * Math.abs(strength)).toFixed(2)})`;
    heat.append(span, " ");
  });
  const order = found.weights.map((_, i) => i).sort((i, k) => Math.abs(found.weights[k]) - Math.abs(found.weights[i]));
  const isStay = state.info.task.input_kind === "stays"; // its parameters have no order
  const rows = order.slice(0, TOP).map(i => [...(isStay ? [] : [whole(i + 1)]), found.tokens[i], signed(found.weights[i])]);
  const head = [...(isStay ? [t("parameter")] : [t("place"), t("token")]), t("weight")];
  const title = t("carries", labelName(found.label), valueText(found.value), state.info.task.input_kind);
  const spoken = rows.slice(0, 3).map(row => row.slice(-2).join(" ")).join(", ");
  $("explained").textContent = `${title}: ${spoken}`; // the whole text would be long to listen to
  return replace($("explanation"),
    element("h3", {}, title),
    heat,
    element("p", { class: "hint" }, element("span", { class: "key up" }, t("up")), " ",
      element("span", { class: "key down" }, t("down")), " ", t(isDays() ? "heat_note_days" : "heat_note")),
    table(t("contributions"), head, rows, head.map((_, i) => (i === head.length - 1 ? "figure" : "")), "narrow"));
}

// --------------------------------------------------------------------------------------------------------------- alarms

const aboutAlarm = alarm => `${labelName(alarm.label)} ${valueText(alarm.value)}, ${rowName(alarm.message)}`;

function takeAlarm(alarm, isNews) {
  const isNew = !state.alarms.has(alarm.id);
  state.alarms.set(alarm.id, alarm);
  if (isNews && isNew && !alarm.acknowledged) $("alarm-news").textContent = t("new_alarm", aboutAlarm(alarm));
}

function showAlarms() {
  $("alarms").hidden = !state.alarms;
  if (!state.alarms || !state.info) return;
  const newest = [...state.alarms.values()].sort((one, other) => (one.time < other.time ? 1 : -1)).slice(0, SHOWN_ALARMS);
  state.alarms = new Map(newest.map(alarm => [alarm.id, alarm]));
  $("alarms-title").textContent = t("alarms", newest.filter(alarm => !alarm.acknowledged).length, newest.length === SHOWN_ALARMS ? SHOWN_ALARMS : 0);
  $("alarm-link").textContent = $("alarms-title").textContent;
  $("alarm-link").hidden = !newest.length;
  $("no-alarm").hidden = newest.length > 0;
  const focused = document.activeElement?.dataset?.alarm;
  replace($("alarm-list"), ...newest.map(alarm => {
    const times = [element("time", { datetime: alarm.time }, clock(alarm.time))];
    for (const what of ["ended", "acknowledged"]) if (alarm[what]) times.push(", ", t(what, clock(alarm[what])));
    const button = alarm.acknowledged ? null : element("button", {
      type: "button", "data-alarm": alarm.id, "aria-label": t("acknowledge_this", aboutAlarm(alarm)),
      onclick: () => acknowledge(alarm.id),
    }, t("acknowledge"));
    return element("li", { class: alarm.acknowledged ? "" : "open" },
      element("div", {}, element("strong", {}, `${labelName(alarm.label)} ${valueText(alarm.value)}`),
        element("span", { class: "about" }, rowName(alarm.message), ", ", ...times)), button);
  }));
  if (focused) document.querySelector(`[data-alarm="${CSS.escape(focused)}"]`)?.focus();
}

async function loadAlarms() {
  if (!("alarms" in state.info)) return; // a service without alarms
  state.alarms ??= new Map(); // what happens from now on is shown even if the history cannot be read
  try {
    const { alarms } = await ask(`/alarms?limit=${SHOWN_ALARMS}`);
    state.alarms.clear();
    for (const alarm of alarms) takeAlarm(alarm, false);
  } catch (error) {
    state.error = sentence(error);
    showMessages();
  }
  showAlarms();
}

async function acknowledge(id) {
  const buttons = [...document.querySelectorAll("[data-alarm]")];
  const next = buttons[buttons.findIndex(button => button.dataset.alarm === id) + 1]?.dataset.alarm;
  try {
    takeAlarm(await ask(`/alarms/${encodeURIComponent(id)}/acknowledge`, {}), false);
  } catch (error) {
    state.error = sentence(error);
    showMessages();
  }
  showAlarms();
  // The button is gone: the focus goes on to the next one, or to the heading.
  if (document.activeElement === document.body) {
    $("alarms-title").tabIndex = -1;
    (document.querySelector(`[data-alarm="${CSS.escape(next ?? "")}"]`) ?? $("alarms-title")).focus();
  }
}

// ----------------------------------------------------------------------------------------------------- drift and shadow

const SHARES = new Set(["noise", "unseen_words", "unseen_bigrams", "unseen_trigrams"]);

function figureTexts({ group, name, value, reference, z }) {
  const isShare = SHARES.has(name) || group === "observed" || group === "known" || (group === "labels" && !isDays());
  const shown = given => (given === null ? "–" : isShare ? percent(given) : plain(given));
  const title = group === "labels" ? t("mean_of", labelName(name)) : t("figure_name", group, name);
  return [title, shown(value), shown(reference), z === null ? "–" : signed(z)];
}

function showDrift(drift) {
  if (!drift) return replace($("drift"), element("p", { class: "hint" }, t("no_drift")));
  const differing = drift.figures.filter(figure => figure.drifted);
  const summary = drift.rows < LEAST ? t("too_few", LEAST) : differing.length ? t("differs", differing.length) : t("alike");
  const first = drift.figures.filter(figure => figure.drifted || ["text", "series"].includes(figure.group));
  const head = [t("figure"), t("now"), t("training"), t("z")];
  const kinds = ["", "figure", "figure", "figure"];
  const isOpen = $("drift").querySelector("details")?.open ?? false;
  const lines = figures => figures.map(figure => (
    figure.drifted ? [...figureTexts(figure), t("differing")] : figureTexts(figure)
  ));
  return replace($("drift"),
    element("p", { class: "hint" }, t("window", whole(drift.rows), whole(drift.window)) + t("space") + summary),
    table(t("drift"), head, lines(first), kinds),
    element("details", { open: isOpen }, element("summary", {}, t("all_figures", drift.figures.length)),
      table(t("drift"), head, lines(drift.figures), kinds)));
}

function showShadow(shadow) {
  $("shadow-section").hidden = !shadow;
  if (!shadow) return;
  const difference = given => (given === null ? "–" : isDays() ? valueText(given) : percent(given));
  const share = given => (given === null ? "–" : percent(given));
  const rows = [
    ...(isDays() ? [] : [[t(state.info.task.kind === "multiclass" ? "shadow_classes" : "shadow_disagree"), share(shadow.disagree)]]),
    [t("shadow_mean"), difference(shadow.mean_difference)],
    [t("shadow_largest"), difference(shadow.largest)],
    [t("shadow_dropped"), whole(shadow.dropped)],
    [t("shadow_failed"), whole(shadow.failed)],
  ];
  const labels = shadow.labels.map(label => [
    labelName(label.name), share(label.disagree), difference(label.mean_difference), difference(label.largest),
  ]);
  const isOpen = $("shadow").querySelector("details")?.open ?? false;
  replace($("shadow"),
    element("p", { class: "hint" }, t("shadow_about", shadow.bundle.name, shadow.bundle.version, whole(shadow.rows))),
    table(t("shadow"), [t("figure"), t("value")], rows, ["", "figure"]),
    labels.length > 1 ? element("details", { open: isOpen }, element("summary", {}, t("by_label")),
      table(t("by_label"), [t("label"), t("disagree"), t("mean"), t("largest")], labels, ["", "figure", "figure", "figure"])) : null);
}

// A table of texts. A row with one text more than there are columns is marked, and the text read out.
function table(caption, head, rows, kinds, kind = "") {
  return element("table", { class: kind }, element("caption", { class: "hidden" }, caption),
    element("thead", {}, element("tr", {}, ...head.map((word, i) => element("th", { scope: "col", class: kinds[i] }, word)))),
    element("tbody", {}, ...rows.map(row => element("tr", { class: row.length > head.length ? "drifted" : "" },
      ...row.slice(0, head.length).map((text, i) => (i ? element("td", { class: kinds[i] }, text)
        : element("th", { scope: "row", class: kinds[i] }, text,
          row.length > head.length ? element("span", { class: "hidden" }, ` (${row.at(-1)})`) : null)))))));
}

function replace(parent, ...children) {
  parent.replaceChildren(...children.filter(child => child !== null));
}

// ----------------------------------------------------------------------------------------------------------------- life

async function loadInfo() {
  try {
    state.info = await ask("/info");
  } catch (error) {
    state.error = sentence(error);
    showMessages();
    return false;
  }
  showInfo();
  return true;
}

// Draws once a frame at most, however many events come.
const due = new Set();
function later(draw) {
  if (!due.size) {
    requestAnimationFrame(() => {
      const draws = [...due];
      due.clear();
      for (const one of draws) one();
    });
  }
  due.add(draw);
}

const EVENTS = {
  prediction: () => {
    state.heard += 1;
    later(showLive);
  },
  alarm: alarm => {
    if (!state.alarms) return;
    takeAlarm(alarm, true);
    later(showAlarms);
  },
  drift: () => loadInfo(),
  reload: found => {
    const { bundle, error } = found;
    state.notice = error ? ["reload_failed", error] : ["reloaded", bundle.name, bundle.version];
    showMessages();
    loadInfo();
  },
};

function askForKey() {
  $("key-form").hidden = false;
  state.notice = ["wrong_key"];
  $("key").focus();
  showMessages();
}

async function start() {
  if (!(await loadInfo())) {
    if (!$("key-form").hidden) return;
    setTimeout(start, 3000); // the service may just be starting
    return;
  }
  state.error = null;
  await loadAlarms();
  showWords();
  follow({
    on: (kind, data) => EVENTS[kind]?.(data),
    isLive: live => {
      const wasLost = state.live === "lost";
      state.live = live ? "live" : "lost";
      showLive();
      if (live && wasLost) Promise.all([loadInfo(), loadAlarms()]); // what happened meanwhile
    },
    failed: sentence,
  });
}

setInterval(() => document.hidden || state.live !== "live" || loadInfo(), REFRESH);

$("ask").addEventListener("submit", event => {
  event.preventDefault();
  if (state.info) predict(rowsOf($("text").value));
});
$("text").addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
$("clear").addEventListener("click", () => {
  state.question++;
  Object.assign(state, { answers: [], error: null, status: null });
  $("text").value = "";
  $("text").focus();
  showMessages();
  showAnswer();
});
$("file").addEventListener("change", async event => {
  const files = [...event.target.files];
  event.target.value = ""; // the same file can be opened again
  if (state.info) await predictFiles(files);
});
for (const kind of ["dragenter", "dragover"]) {
  $("ask").addEventListener(kind, event => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    $("ask").classList.add("drop");
  });
}
for (const kind of ["dragleave", "drop"]) $("ask").addEventListener(kind, () => $("ask").classList.remove("drop"));
$("ask").addEventListener("drop", event => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  if (state.info) predictFiles([...event.dataTransfer.files]);
});
$("language").addEventListener("click", () => {
  state.language = t("other_code");
  keepLanguage(state.language);
  showWords();
});
$("key-form").addEventListener("submit", event => {
  event.preventDefault();
  useKey($("key").value);
  $("key").value = "";
  $("key-form").hidden = true;
  state.notice = null;
  showMessages();
  start();
});

showWords();
start();
