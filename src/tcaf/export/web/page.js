// Classifies features of clips in the browser, by an exported model and onnxruntime-web beside it.

import * as ort from "./onnxruntime/ort.wasm.min.mjs";
import { readJson, readNpz } from "./arrays.js";

ort.env.wasm.wasmPaths = new URL("./onnxruntime/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need headers that a plain server does not send

const MOST = 20;
const byId = (id) => document.getElementById(id);
const state = { known: null, further: new Map(), model: null, text: null, clip: null, found: null };

function say(text, wrong = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("wrong", wrong);
}

async function json(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} is missing beside the page`);
  return answer.json();
}

function facts(list, entries) {
  for (const [term, text] of entries) {
    list.append(
      Object.assign(document.createElement("dt"), { textContent: term }),
      Object.assign(document.createElement("dd"), { textContent: text }),
    );
  }
}

async function load() {
  const known = (state.known = await json("classes.json"));
  [state.model, state.text] = await Promise.all(
    [known.model, known.text_model].map((name) => ort.InferenceSession.create(encodeURIComponent(name))),
  );
  if (known.sha256["vocabulary.json"]) {
    const words = await json("vocabulary.json");
    words.names.forEach((name, i) => state.further.set(name, embeddingOf(words, i)));
    for (const name of words.names) {
      byId("vocabulary").append(Object.assign(document.createElement("option"), { value: name }));
    }
    byId("more").hidden = false;
  }
  const read = Object.keys(known.features);
  byId("arrays").textContent = read.join(" and ");
  byId("about").textContent =
    `${known.system} reads ${read.join(" and ")}; ${known.names.length} classes, ` +
    `${known.seen.filter(Boolean).length} of them seen in training.`;
  byId("names").value = known.names.join("\n");
  const widest = Math.max(0.1, 2 * Math.abs(known.gamma), 3 * (known.temperature ?? 0));
  Object.assign(byId("bias"), { min: -widest, max: widest, step: widest / 100, value: 0 });
  byId("biased").hidden = !known.seen.some(Boolean);
  facts(byId("provenance"), [
    ["system", known.system],
    ["written by", `tcaf ${known.tcaf}`],
    ...Object.entries(known.features).map(([m, f]) => [
      m,
      `${f.backbone}: ${f.dim} numbers a token, ${f.step_s ? `a token every ${f.step_s} s` : "a token a clip"}`,
    ]),
    ["gamma", String(known.gamma)],
    ["temperature", known.temperature === null ? "none: there are no probabilities" : String(known.temperature)],
    ["SHA-256 of the model", known.sha256[known.model]],
    ...known.notes.map((note) => ["note", note]),
  ]);
  byId("file").disabled = byId("names").disabled = false;
  document.body.dataset.ready = "yes";
}

function embeddingOf(content, i) {
  const spaces = Object.entries(content.text_embedding);
  return Object.fromEntries(spaces.map(([space, rows]) => [space, rows[i]]));
}

function wanted() {
  const lines = byId("names").value.split("\n").map((line) => line.trim()).filter(Boolean);
  const names = [...new Set(lines)];
  if (!names.length) throw new Error("Name at least one class.");
  const place = new Map(state.known.names.map((name, i) => [name, i]));
  const strange = names.filter((name) => !place.has(name) && !state.further.has(name));
  if (strange.length) {
    throw new Error(
      `There is no text embedding of ${strange.map((name) => `“${name}”`).join(", ")}; names come from ` +
        "the model's classes and from the vocabulary that it was exported with.",
    );
  }
  return names.map((name) => ({ name, at: place.get(name) }));
}

async function classEmbeddings(names) {
  const added = names.filter(({ at }) => at === undefined).map(({ name }) => state.further.get(name));
  let made = [];
  if (added.length) {
    const feeds = {};
    for (const space of Object.keys(added[0])) {
      const flat = Float32Array.from(added.flatMap((text) => text[space]));
      feeds[space] = new ort.Tensor("float32", flat, [added.length, added[0][space].length]);
    }
    const { class_embedding: found } = await state.text.run(feeds);
    const dim = found.dims[1];
    made = added.map((_, i) => found.data.slice(i * dim, (i + 1) * dim));
  }
  return names.map(({ at }) => (at === undefined ? made.shift() : state.known.class_embedding[at]));
}

function clipFeeds(clip) {
  const feeds = {};
  for (const name of state.known.inputs.filter((n) => n.endsWith("_mask"))) {
    const modality = name.replace("_mask", "");
    const { rows = 0, dim = 0, data } = clip[modality] ?? {};
    const length = Math.max(1, rows);
    feeds[name] = new ort.Tensor("bool", Uint8Array.from({ length }, (_, i) => +(i < rows)), [1, length]);
    const wide = state.known.features[modality]?.dim;
    if (wide === undefined) continue; // only its length is read
    if (rows && dim !== wide) {
      throw new Error(`The model reads ${modality} features of ${wide} numbers; the file has ${dim}.`);
    }
    feeds[modality] = new ort.Tensor("float32", rows ? data : new Float32Array(wide), [1, length, wide]);
  }
  return feeds;
}

async function classify() {
  const names = wanted();
  const rows = await classEmbeddings(names);
  const seen = names.map(({ at }) => at !== undefined && state.known.seen[at]);
  const flat = Float32Array.from(rows.flatMap((row) => [...row]));
  const found = await state.model.run({
    ...clipFeeds(state.clip),
    class_embedding: new ort.Tensor("float32", flat, [rows.length, rows[0].length]),
    seen: new ort.Tensor("bool", Uint8Array.from(seen, Number), [seen.length]),
  });
  const distances = [...found.distances.data];
  if (!distances.every(Number.isFinite)) throw new Error("The clip has no token that the model reads.");
  state.found = names.map(({ name }, i) => ({ name, seen: seen[i], distance: distances[i] }));
}

/** Returns what the slider adds to gamma; in its middle exactly nothing. */
function bias() {
  const { value, step } = byId("bias");
  return Math.abs(value) < step / 2 ? 0 : Number(value);
}

function ranked() {
  const { gamma, temperature } = state.known;
  const held = gamma + bias();
  const all = state.found.map((each) => ({ ...each, calibrated: each.distance + (each.seen ? held : 0) }));
  all.sort((a, b) => a.calibrated - b.calibrated);
  if (temperature !== null) {
    const shares = all.map((each) => Math.exp((all[0].calibrated - each.calibrated) / temperature));
    const sum = shares.reduce((a, b) => a + b, 0);
    all.forEach((each, i) => (each.probability = shares[i] / sum));
  }
  return all;
}

function show() {
  const all = ranked();
  const furthest = Math.max(...all.map((each) => each.calibrated));
  const span = furthest - all[0].calibrated || 1;
  byId("answers").replaceChildren(
    ...all.slice(0, MOST).map((each) => {
      const item = document.createElement("li");
      item.className = each.seen ? "seen" : "unseen";
      const share = each.probability ?? (furthest - each.calibrated) / span;
      const line = document.createElement("div");
      line.className = "name";
      const name = document.createElement("span");
      name.textContent = each.name;
      name.append(Object.assign(document.createElement("span"), { className: "kind", textContent: item.className }));
      const number = document.createElement("span");
      number.textContent =
        each.probability === undefined ? each.distance.toFixed(3) : `${(100 * each.probability).toFixed(1)} %`;
      line.append(name, number);
      const bar = document.createElement("div");
      bar.className = "bar";
      const inner = document.createElement("span");
      inner.style.width = `${Math.max(0, 100 * share)}%`;
      bar.append(inner);
      item.append(line, bar);
      return item;
    }),
  );
  byId("keep").hidden = false;
  const held = bias();
  byId("bias-value").textContent = held === 0 ? "as validation chose" : (held > 0 ? "+" : "") + held.toFixed(2);
  const more = all.length > MOST ? `, the best ${MOST} of ${all.length} classes` : "";
  say(`${all[0].name} is the answer${more}.`);
  const text = JSON.stringify({ clip: state.clip.name, answers: all }, null, 2);
  byId("save").href = `data:application/json;charset=utf-8,${encodeURIComponent(text)}`;
  state.text_of_answer = text;
}

async function answer() {
  if (!state.clip) return;
  try {
    say("The model looks at the clip.");
    await classify();
    show();
  } catch (error) {
    byId("answers").replaceChildren();
    byId("keep").hidden = true;
    say(error.message, true);
  }
}

async function take(file) {
  try {
    const isJson = file.name.toLowerCase().endsWith(".json");
    const arrays = isJson ? readJson(await file.text()) : await readNpz(await file.arrayBuffer());
    const read = Object.keys(state.known.features);
    if (!read.some((modality) => arrays[modality]?.rows)) {
      throw new Error(`expected an array ${read.join(" or ")}, found ${Object.keys(arrays).join(", ") || "none"}`);
    }
    state.clip = { name: file.name, ...arrays };
    const told = read.map((m) => `${arrays[m]?.rows ?? 0} ${m} tokens`);
    byId("clip").textContent = `${file.name}: ${told.join(", ")}.`;
  } catch (error) {
    state.clip = null;
    byId("answers").replaceChildren();
    byId("keep").hidden = true;
    byId("clip").textContent = "No clip.";
    say(`${file.name} cannot be read: ${error.message}.`, true);
    return;
  }
  await answer();
}

byId("file").addEventListener("change", (event) => event.target.files[0] && take(event.target.files[0]));
byId("names").addEventListener("change", answer);
byId("bias").addEventListener("input", () => state.found && state.clip && show());
byId("add").addEventListener("click", () => {
  const name = byId("further").value.trim();
  if (!name) return;
  byId("names").value = `${byId("names").value.trimEnd()}\n${name}`.trimStart();
  byId("further").value = "";
  answer();
});
byId("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(state.text_of_answer);
  say("The answer is copied.");
});
const drop = byId("drop");
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) {
  drop.addEventListener(kind, () => drop.classList.remove("over"));
}
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0] && !byId("file").disabled) take(event.dataTransfer.files[0]);
});

load().catch((error) => {
  byId("about").textContent = "The model could not be loaded.";
  say(error.message, true);
});
