// Draws each chart anew, to fit its place, when it comes near the window, the others when the browser has nothing else to do.
// Until then, and where it cannot be drawn, the still picture stays. `root` holds the charts and, as data, their specifications.
window.recspectShow = function (root) {
  "use strict";
  const block = root.querySelector("script.drawing");
  if (!block) return;
  const drawing = JSON.parse(block.textContent);
  const waiting = new Set(root.querySelectorAll("[data-chart]"));
  const options = {
    mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false, config: drawing.config,
    tooltip: { disableDefaultStyle: true },
    loader: { load: () => Promise.reject(new Error("a report loads nothing")) },
  };
  function draw(place) {
    if (!waiting.delete(place)) return Promise.resolve();
    if (watcher) watcher.unobserve(place);
    const still = [...place.childNodes];
    place.style.minHeight = place.offsetHeight + "px";
    return window.vegaEmbed(place, drawing.specs[place.dataset.chart], options).then(
      (drawn) => {
        place.style.minHeight = ""; place.dataset.drawn = "yes";
        place.dispatchEvent(new CustomEvent("recspect:drawn", { bubbles: true, detail: drawn.view }));
      },
      (error) => { place.style.minHeight = ""; place.replaceChildren(...still); console.error(error); },
    );
  }

  const watcher = "IntersectionObserver" in window ? new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) draw(entry.target);
  }, { rootMargin: "600px" }) : null;
  const later = (work) => window.requestIdleCallback ? window.requestIdleCallback(work, { timeout: 1000 }) : setTimeout(work, 50);

  function drawNext() {
    // Where what is folded away has no width, the watcher sees it when it is unfolded.
    for (const place of waiting) {
      if (place.offsetParent !== null) { draw(place).then(() => later(drawNext)); return; }
    }
  }
  for (const place of [...waiting]) {
    if (!watcher || place.getBoundingClientRect().top < window.innerHeight) draw(place);
    else watcher.observe(place);
  }
  later(drawNext);
};
(function () {
  "use strict";
  window.recspectShow(document);

  // A link to something folded unfolds it.
  function unfold() {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    if (target) target.scrollIntoView();
  }
  window.addEventListener("hashchange", unfold);
  if (location.hash) unfold();
})();
