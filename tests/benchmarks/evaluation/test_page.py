"""A run ends in a page that needs nothing else."""

import xml.etree.ElementTree as ET

from benchmarks.evaluation import page
from benchmarks.evaluation.run import evaluate, summary
from tests.benchmarks.evaluation.inverted import inverting, items


def test_the_page_is_one_file(tmp_path):
    rows = evaluate(items(), {"icd": inverting([]), "other <x>": inverting([])}, tmp_path)
    for row in rows[::2]:
        row["seconds"] = 0.1
    pictures = {"icd": [tmp_path / row["picture"] for row in rows if row["method"] == "icd"]}
    claims = [{"claim": "a < b", "holds": False, "figures": "1 dB"}]
    path = page.write(tmp_path / "report.html", "title", {"n": 3}, summary(rows), pictures, claims)
    text = path.read_text()
    assert (
        text.count("data:image/jpeg;base64,") == 1 and "<svg" in text and "other &lt;x&gt;" in text
    )
    assert "a &lt; b<td>does not hold<td>1 dB" in text
    assert "<script" not in text and text.count("src=") == text.count('src="data:')
    assert (
        ET.parse(tmp_path / "plot.svg").getroot().tag.endswith("svg")
        and (tmp_path / "edits.jpg").is_file()
    )
