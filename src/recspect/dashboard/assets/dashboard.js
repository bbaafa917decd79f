// Draws the charts of parts of a page that came later, and keeps their place while they are drawn; sorts tables; a cell of a heat map leads to what stands behind it.
(function () {
  "use strict";
  const heights = new Map();
  document.addEventListener("htmx:beforeSwap", (event) => {
    const root = event.detail.target;
    heights.set(root.id, [...root.querySelectorAll("[data-chart]")].map((place) => place.offsetHeight));
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    const root = event.detail.target;
    const known = heights.get(root.id) || [];
    root.querySelectorAll("[data-chart]").forEach((place, k) => { if (known[k]) place.style.minHeight = known[k] + "px"; });
    root.removeAttribute("aria-busy");
    window.recspectShow(root);
    sortable(root);
    if (location.hash.length > 1 && root.closest(location.hash)) root.closest(location.hash).scrollIntoView();
  });

  // What is chosen by a click on a cell can be chosen in the form above it too, by keyboard.
  document.addEventListener("recspect:drawn", (event) => {
    const form = event.target.closest("section, main").querySelector("form[data-cells]");
    if (!form || !form.parentElement.contains(event.target)) return;
    event.target.dataset.follows = "cells";
    event.detail.addEventListener("click", (_, item) => {
      const cell = item && item.datum;
      if (!cell || typeof cell.row !== "string" || typeof cell.column !== "string") return;
      const choose = (select, text) => {
        const option = select && [...select.options].find((one) => one.text === text);
        if (option) select.value = option.value;
        return Boolean(option);
      };
      const [row, column] = ["row", "column"].map((name) => form.elements[name]);
      if (choose(row, cell.row) && (choose(column, cell.column) || true)) form.requestSubmit();
    });
  });

  // Numbers are written for people: 1,234.5, 12%, −3.
  function amount(text) {
    const found = text.replace(/[,\s]/g, "").replace("−", "-").match(/^[-+]?[\d.]+(e[-+]?\d+)?/i);
    return found ? Number(found[0]) : null;
  }
  function sort(table, at, button) {
    const head = button.parentElement;
    const down = head.getAttribute("aria-sort") !== "descending";
    table.querySelectorAll("th[aria-sort]").forEach((one) => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    const key = (row) => { const text = row.cells[at].textContent.trim(); return [amount(text), text]; };
    const keyed = rows.map((row) => [key(row), row]);
    keyed.sort(([[a, x]], [[b, y]]) => {
      if (a === null && b === null) return down ? y.localeCompare(x) : x.localeCompare(y);
      if (a === null || b === null) return a === null ? 1 : -1;
      return down ? b - a : a - b;
    });
    table.tBodies[0].append(...keyed.map(([, row]) => row));
  }
  function sortable(root) {
    root.querySelectorAll("main table, table").forEach((table) => {
      if (table.dataset.sortable || !table.tHead || !table.tBodies[0] || table.tBodies[0].rows.length < 3) return;
      table.dataset.sortable = "yes";
      [...table.tHead.rows[0].cells].forEach((head, at) => {
        if (!head.textContent.trim()) return;
        const button = document.createElement("button");
        button.type = "button";
        if (head.querySelector("a")) { // a link stays one, and the button stands beside it
          button.textContent = "↕";
          button.setAttribute("aria-label", head.textContent.trim());
        } else button.append(...head.childNodes);
        button.addEventListener("click", () => sort(table, at, button));
        head.append(button);
      });
    });
  }
  sortable(document);
})();
