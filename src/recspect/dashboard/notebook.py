"""The dashboard's looks in a notebook: its pictures without a server, and a widget that asks why and what if."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from recspect.dashboard.explaining import explained, some_users
from recspect.dashboard.hiding import SMALLEST
from recspect.dashboard.looking import Looks
from recspect.dashboard.shelf import Shelf
from recspect.errors import MissingExtraError, RecspectError, UsageError, listing
from recspect.report.notebook import Pictures, framed

ESM = """
function render({ model, el }) {
  const box = document.createElement("div");
  const form = document.createElement("form");
  const view = document.createElement("div");
  const gone = document.createElement("fieldset");
  const legend = document.createElement("legend");
  legend.textContent = "What if this had not been?";
  function field(name, label) {
    const outer = document.createElement("label");
    const input = document.createElement("input");
    input.value = model.get(name);
    input.addEventListener("change", () => { model.set("gone", []); model.set(name, input.value); model.save_changes(); });
    model.on("change:" + name, () => { input.value = model.get(name); });
    outer.append(label + " ", input, " ");
    return outer;
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.append(field("user", "User"), field("item", "Item"), field("over", "above"));
  function show() {
    view.innerHTML = model.get("html");
    gone.replaceChildren(legend);
    model.get("units").forEach(([number, text]) => {
      const outer = document.createElement("label");
      const tick = document.createElement("input");
      tick.type = "checkbox";
      tick.checked = model.get("gone").includes(number);
      tick.addEventListener("change", () => {
        const kept = model.get("gone").filter((one) => one !== number);
        model.set("gone", tick.checked ? [...kept, number] : kept);
        model.save_changes();
      });
      outer.append(tick, " " + text + " ");
      gone.append(outer);
    });
  }
  model.on("change:html", show);
  model.on("change:units", show);
  show();
  box.append(form, view, gone);
  el.append(box);
}
export default { render };
"""


def look(run: str | Path, stage: str, slug: str = "closer", *, smallest: int = SMALLEST, **asked: str) -> Pictures:
    """What a closer look of the dashboard shows: `look("runs/a", "embeddings", "table", field="item", near="12")`.

    Args:
        run: A run directory.
        stage: Whose page has the look.
        slug: Which look: `closer`, `table` or `states`.
        smallest: Groups of fewer rows or people are not shown.
        asked: What to choose, by the names that its address has.

    Raises:
        UsageError: There is no such look.
    """
    folder = Path(run)
    entry = Shelf(folder).entry(folder.resolve().name)
    looks = Looks(smallest=smallest)
    if entry is None:
        raise UsageError(f"{folder} is no run directory")
    found = looks.look(entry, stage, slug, {key: str(value) for key, value in asked.items()})
    if found is None:
        raise UsageError(f"{entry.name} has no look {slug!r} at {stage!r}", hint=f"looks: {listing(one.slug for one in looks.offered(entry, stage)) or 'none'}")
    which, shown = found
    return Pictures(title=f"{entry.name}: {which.title}", pieces=shown.pictures, lines=(shown.problem,) if shown.problem else ())


def explain_widget(explainer: Any, user: Any = "", *, item: Any = "", language: str = "en") -> Any:
    """A widget that says why a user's list is as it is, and makes it again without what is ticked.

    Args:
        explainer: A `RecommendationExplainer`.
        user: Whose list; by default the first that is known.
        item: Whose place is explained; by default the first of the list.
        language: Of the sentences.

    Raises:
        MissingExtraError: anywidget is not installed.
    """
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise MissingExtraError(error.name or "anywidget", extra="notebook", purpose="A widget in a notebook") from None

    class ExplainWidget(anywidget.AnyWidget):  # type: ignore[misc]
        _esm = ESM
        user = traitlets.Unicode("").tag(sync=True)
        item = traitlets.Unicode("").tag(sync=True)
        over = traitlets.Unicode("").tag(sync=True)
        gone = traitlets.List(traitlets.Int()).tag(sync=True)
        units = traitlets.List().tag(sync=True)
        html = traitlets.Unicode("").tag(sync=True)

        @traitlets.observe("user", "item", "over", "gone")
        def _asked(self, _: Any) -> None:
            self.html, self.units = told(explainer, self.user, self.item, self.over, self.gone, language)

    users = some_users(explainer, 1)
    return ExplainWidget(user=str(user) or (users[0] if users else ""), item=str(item))


def told(explainer: Any, user: str, item: str, over: str, gone: list[int], language: str) -> tuple[str, list[list[Any]]]:
    """What the widget shows, as HTML in which everything of the data is escaped, and what can be taken away as (number, text)."""
    try:
        shown = explained(explainer, user.strip(), item=item.strip(), over=over.strip(), gone=gone, language=language)
    except RecspectError as error:
        return f"<p role='alert'>{escape(' '.join(filter(None, (error.message, error.hint))))}</p>", []
    parts = [_list("The list", shown["places"])]
    if shown["after"] is not None:
        parts.append(_list("Without what was taken away", shown["after"]))
    title = f"Why {shown['item']} for user {shown['user']}?"
    return "".join(parts) + framed(shown["pictures"], title=title, lines=shown["sentences"], height=520), [
        [number, f"{'wanted' if kind == 'action' else f'{field}:'} {value}"] for number, kind, field, value in shown["units"]]


def _list(title: str, places: Any) -> str:
    rows = "".join(f"<li>{escape(place.name or place.item)}{'' if not place.moved else f' ({place.moved:+d})'}</li>" for place in places)
    return f"<div style='display:inline-block;vertical-align:top;margin-right:2rem'><b>{escape(title)}</b><ol>{rows}</ol></div>"


__all__ = ["explain_widget", "look", "told"]
