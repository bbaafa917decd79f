// Draws the charts of parts of a page that came later, and keeps their place while they are drawn.
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
  });
})();
