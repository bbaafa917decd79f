"""What findings say in Chinese: the catalogue holds the sentences of every diagnostic, and puts the numbers of a finding where they belong."""

import ast
import re
from importlib.resources import files

import pytest

from recspect.dashboard.findings_texts import asker, catalogue, questions, teller, translated

FOLDER = files("recspect.diagnosis").joinpath("diagnostics")


def template(node):
    """A literal of the source as the catalogue writes it, `{}` for what is filled in; None where it is no literal."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def literals(node):
    found = template(node)
    if found is not None:
        yield found
    elif isinstance(node, ast.Tuple | ast.List):
        for part in node.elts:
            yield from literals(part)
    elif isinstance(node, ast.IfExp):
        yield from (*literals(node.body), *literals(node.orelse))


def sentences():
    """Meanings, causes and remedies as the diagnostics write them."""
    for path in sorted(FOLDER.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                for word in node.keywords:
                    if word.arg in ("meaning", "causes") or (word.arg == "text" and called == "Remedy"):
                        yield from ((path.name, text) for text in literals(word.value) if len(text.replace("{}", "").strip()) > 8)


def test_most_of_what_diagnostics_say_has_a_translation():
    """New diagnostics may come before their translation; what lacks one is shown in English and marked so."""
    every = list(sentences())
    lacking = [(name, text) for name, text in every if text not in catalogue("zh")]
    assert len(every) > 350
    assert len(lacking) <= 0.1 * len(every), lacking[:20]
    known = questions()
    assert sum(bool(asker("zh")(code)) for code in known) >= 0.9 * len(known)


def test_every_translation_holds_what_is_filled_in_as_often_and_has_chinese_in_it():
    for original, form in catalogue("zh").items():
        assert form.count("{") == original.count("{}"), original
        numbered = re.findall(r"\{(\d+)\}", form)
        assert sorted(map(int, numbered)) == list(range(original.count("{}"))) if numbered else True
        assert re.search("[\u4e00-\u9fff]", form), original


def test_the_numbers_and_names_of_a_finding_stand_in_its_translation():
    assert translated("Train on 服务 as it was served: read served:a{b}.", "zh") == "用服务时的 服务 训练：读取 served:a{b}。"
    assert translated("Fit a Platt calibration on recent rows: logit q = -0.31 + 1.07 logit p.", "zh") == "在最近的行上拟合 Platt 校准：logit q = -0.31 + 1.07 logit p。"
    assert translated("Activation of mlp.0: has its distribution moved?", "zh") == "mlp.0 的 Activation：分布是否移动了？"
    assert translated("Train without age and compare on held-out rows. The same for 3 other places.", "zh") == "不用 age 训练，并在留出行上比较。其他 3 处相同。"
    assert translated("Clip gradients.", "zh") == "裁剪梯度。"
    assert translated("Nobody wrote this.", "zh") is None
    assert translated("Clip gradients.", "en") is None


def test_a_sentence_that_is_not_there_is_marked_as_english_and_escaped():
    said = teller("zh")('<img src=x onerror="1">')
    assert said == '<span lang="en" dir="auto">&lt;img src=x onerror=&#34;1&#34;&gt;</span>'
    assert teller("en")("Clip gradients.") == "Clip gradients."
    filled = teller("zh")("Train without <img> and compare on held-out rows.")
    assert "<img>" in filled
    assert not hasattr(filled, "__html__")  # so the template escapes what was filled in


def test_the_pages_say_it(tmp_path):
    pytest.importorskip("fastapi", reason="the extra dashboard is not installed")
    from fastapi.testclient import TestClient

    from dashboard_samples import make_run
    from recspect.dashboard.app import create_app
    from recspect.dashboard.shelf import Shelf
    from recspect.dashboard.views import Views
    from recspect.diagnosis.finding import Finding, Place, Remedy, Report, Verdict

    finding = Finding(code="features.canary", verdict=Verdict.WARN, claim="Noise <counts>: seen.", place=Place(kind="field", name="<b>"), meaning="What does not add up cannot be read as shares of the score.",
                      causes=("no warm-up",), remedies=(Remedy(code="drop", text="Train without <b> and compare on held-out rows."),))
    make_run(tmp_path / "runs" / "one", Report(findings=(finding,)))
    web = TestClient(create_app(Views(Shelf(tmp_path / "runs"))), base_url="http://127.0.0.1", headers={"accept": "text/html"})
    text = web.get("/runs/one/features?lang=zh").text
    for said in ("加不起来的东西不能当作分数的份额来读。", "没有预热", "不用 &lt;b&gt; 训练，并在留出行上比较。", "哪些字段对模型来说不比纯随机的字段更有用？",
                 '<span lang="en" dir="auto">Noise &lt;counts&gt;</span>'):
        assert said in text, said
    assert "<b> 训练" not in text
    for page in ("findings", ""):
        assert '<span lang="en" dir="auto">Noise &lt;counts&gt;</span>' in web.get(f"/runs/one/{page}".rstrip("/") + "?lang=zh").text
    english = web.get("/runs/one/features?lang=en").text
    assert "What does not add up cannot be read as shares of the score." in english
    assert 'lang="en" dir="auto">Noise' not in english
