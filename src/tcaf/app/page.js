// What the page does in the browser: seeks, shows where a clip is, copies, saves, sorts, tells.
// Everything is delegated: the parts of the page come and go with each answer.
(() => {
  "use strict";
  const near = (element) => element.closest(".t-clip-box") || document;
  const player = (element) => near(element).querySelector(".t-media");

  function seek(element, seconds) {
    const media = player(element);
    if (media) media.currentTime = seconds;
    showPlace(near(element), seconds);
  }

  function showPlace(box, seconds) {
    for (const time of box.querySelectorAll(".t-time")) {
      const length = Number(time.dataset.tLength) || 1;
      const share = Math.min(Math.max(seconds / length, 0), 1);
      const head = time.querySelector(".t-head");
      if (head) head.style.left = `${100 * share}%`;
      const range = time.querySelector(".t-range");
      if (range && document.activeElement !== range) range.value = seconds;
    }
    for (const button of box.querySelectorAll("[data-t-seek]")) {
      const next = button.parentElement.nextElementSibling?.querySelector("[data-t-seek]");
      const here = Number(button.dataset.tSeek) <= seconds + 0.001 &&
        (!next || Number(next.dataset.tSeek) > seconds + 0.001);
      if (here) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  async function copy(text) {
    if (navigator.clipboard && window.isSecureContext) {
      await navigator.clipboard.writeText(text);
      return;
    }
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }

  function say(button, text) {
    const place = button.parentElement.querySelector("[role=status]");
    if (!place) return;
    place.textContent = text;
    setTimeout(() => { place.textContent = ""; }, 2500);
  }

  const KINDS = { json: "application/json", csv: "text/csv", vtt: "text/vtt" };

  function save(name, text) {
    const kind = KINDS[name.split(".").pop()] || "text/plain";
    const url = URL.createObjectURL(new Blob([text], { type: `${kind};charset=utf-8` }));
    const link = document.createElement("a");
    link.href = url;
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  // How each table is sorted, by its name: rows that come later are put in their place too.
  const sorted = new Map();

  function sortTable(table) {
    const how = sorted.get(table.dataset.tTable);
    const heads = [...table.querySelectorAll("thead th")];
    heads.forEach((head, number) => {
      const wanted = how && how.column === number ? (how.down ? "descending" : "ascending") : "none";
      if (head.getAttribute("aria-sort") !== wanted) head.setAttribute("aria-sort", wanted);
    });
    if (!how) return;
    const body = table.tBodies[0];
    const value = (row) => row.cells[how.column]?.dataset.tValue ?? "";
    const rows = [...body.rows];
    const before = rows.slice();
    rows.sort((one, other) => {
      const a = value(one), b = value(other);
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = how.number ? Number(a) - Number(b) : a.localeCompare(b);
      return how.down ? -order : order;
    });
    if (rows.some((row, place) => row !== before[place])) body.append(...rows);
  }

  document.addEventListener("click", async (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!target) return;
    const jump = target.closest("[data-t-seek]");
    if (jump) { seek(jump, Number(jump.dataset.tSeek)); return; }
    const rows = target.closest("[data-t-seekable]");
    if (rows) {
      const box = rows.getBoundingClientRect();
      const length = Number(rows.parentElement.dataset.tLength);
      seek(rows, length * Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1));
      return;
    }
    const copied = target.closest("[data-t-copy]");
    if (copied) {
      await copy(document.getElementById(copied.dataset.tCopy).textContent);
      say(copied, "Copied");
      return;
    }
    const saved = target.closest("[data-t-save]");
    if (saved) {
      save(saved.dataset.tName, document.getElementById(saved.dataset.tSave).textContent);
      say(saved, "Saved");
      return;
    }
    const button = target.closest("[data-t-sort]");
    if (button) {
      const table = button.closest("table");
      const column = button.closest("th").cellIndex;
      const number = button.dataset.tSort === "number";
      const how = sorted.get(table.dataset.tTable);
      const down = how && how.column === column ? !how.down : number;
      sorted.set(table.dataset.tTable, { column, number, down });
      sortTable(table);
    }
  });

  document.addEventListener("input", (event) => {
    if (event.target.matches?.(".t-range")) seek(event.target, Number(event.target.value));
  });

  document.addEventListener("timeupdate", (event) => {
    if (event.target.matches?.(".t-media")) showPlace(near(event.target), event.target.currentTime);
  }, true);

  document.addEventListener("error", (event) => {
    if (!event.target.matches?.(".t-media")) return;
    const told = near(event.target).querySelector(".t-unplayable");
    if (told) told.hidden = false;
    event.target.hidden = true;
  }, true);

  let tip = null;
  document.addEventListener("pointerover", (event) => {
    const mark = event.target instanceof Element ? event.target.closest("[data-t-tip]") : null;
    if (!mark) { if (tip) tip.hidden = true; return; }
    if (!tip) {
      tip = document.createElement("div");
      tip.className = "t-tip";
      tip.setAttribute("role", "status");
      document.body.append(tip);
    }
    tip.textContent = mark.dataset.tTip;
    tip.hidden = false;
    const width = Math.min(tip.offsetWidth, window.innerWidth - 16);
    tip.style.left = `${Math.min(event.clientX + 12, window.innerWidth - width - 8)}px`;
    tip.style.top = `${event.clientY + 14}px`;
  });

  // Parts that Gradio makes without a name for who does not see them.
  function name(root) {
    for (const [selector, label] of Object.entries(window.tcafLabels || {})) {
      for (const element of root.querySelectorAll(selector)) {
        if (!element.getAttribute("aria-label")) element.setAttribute("aria-label", label);
      }
    }
  }

  // The captions of a recording follow from its stretches, which change while it plays.
  function caption(place) {
    const media = player(place);
    if (!media) return;
    let track = media.querySelector("track");
    if (track && track.getAttribute("src") === place.dataset.tCaptions) return;
    if (track) track.remove();
    track = document.createElement("track");
    Object.assign(track, { kind: "captions", srclang: "en", label: "Answers", default: true });
    track.setAttribute("src", place.dataset.tCaptions);
    media.append(track);
  }

  let waiting = false;
  function changed() {
    waiting = false;
    document.querySelectorAll("table.t-sortable").forEach(sortTable);
    document.querySelectorAll("[data-t-captions]").forEach(caption);
    name(document);
  }
  new MutationObserver(() => {
    if (!waiting) { waiting = true; requestAnimationFrame(changed); }
  }).observe(document, { childList: true, subtree: true });
})();
