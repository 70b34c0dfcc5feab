"""Reads the metrics page, the dashboard, the alerting rules and the examples of the guide."""
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/reference/metrics.md"
DASHBOARD = ROOT / "docs/grafana/plugsocket.json"
RULES = ROOT / "docs/prometheus/alerts.yml"
GUIDE = ROOT / "docs/guides/operate-a-host.md"

# Metrics and labels that Prometheus itself adds.
PROMETHEUS = {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}}
TARGET = {"job", "instance"}
KEYWORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right",
            "offset", "bool", "inf", "nan"}


def metrics():
    """Returns the labels of each series that the reference page lists, by its name."""
    row = re.compile(r"^\| `(\w+)` \| (\w+) \| (.*?) \| ", re.M)
    found = {}
    for name, kind, labels in row.findall(PAGE.read_text()):
        labels = set(re.findall(r"`(\w+)`", labels)) | TARGET
        if kind == "histogram":
            found[f"{name}_bucket"] = labels | {"le"}
            found[f"{name}_sum"] = found[f"{name}_count"] = labels
        else:
            found[name] = labels
    return found


def dashboard_queries():
    """Returns the queries of the dashboard: (place, expression)."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = []
    for panel in dashboard["panels"]:
        found += [(panel["title"], target["expr"]) for target in panel.get("targets", [])]
    for annotation in dashboard["annotations"]["list"]:
        if "expr" in annotation:
            found.append((annotation["name"], annotation["expr"]))
    return found


def dashboard_variables():
    """Returns the selector and the label of each variable of the dashboard, by its name."""
    variables = json.loads(DASHBOARD.read_text())["templating"]["list"]
    parts = re.compile(r"label_values\((.*), (\w+)\)")
    return {variable["name"]: parts.fullmatch(variable["query"]["query"]).groups()
            for variable in variables if variable["type"] == "query"}


def rules():
    """Returns the alerting rules: (name, expression). Reads `expr: …` and `expr: >-` blocks."""
    found, name, block, indent = [], "", None, 0
    for line in RULES.read_text().splitlines():
        text = line.strip()
        if block is not None:
            if len(line) - len(line.lstrip()) > indent:
                block.append(text)
                continue
            found.append((name, " ".join(block)))
            block = None
        if text.startswith("- alert: "):
            name = text.removeprefix("- alert: ")
        elif text == "expr: >-":
            block, indent = [], len(line) - len(line.lstrip())
        elif text.startswith("expr: "):
            found.append((name, text.removeprefix("expr: ")))
    return found


def examples(language):
    """Returns the code blocks of the guide in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.M | re.S)


def mistakes(expression, known):
    """Returns what is wrong with the metrics and labels of a query."""
    found = []
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    used = set()
    for name, selector in re.findall(r"([a-zA-Z_:][\w:]*)\s*\{(.*?)\}", text):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        used.add(name)
        if name in known and not labels <= known[name]:
            found.append(f"{name} has no label {', '.join(sorted(labels - known[name]))}")
    text = re.sub(r"\{.*?\}|\[.*?\]", " ", text)
    grouping = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\((.*?)\)")
    groups = {label.strip() for labels in grouping.findall(text) for label in labels.split(",")}
    text = re.sub(r"\boffset\s+\w+", " ", grouping.sub(" ", text))
    words = re.findall(r"(?<![\w.$])([a-zA-Z_:][\w:]*)\b(?!\s*\()", text)
    used |= {word for word in words if word.lower() not in KEYWORDS}
    found += [f"there is no metric {name}" for name in sorted(used - known.keys())]
    labels = set().union(*(known.get(name, set()) for name in used))
    found += [f"no metric of the query has the label {label}" for label in sorted(groups - labels - {""})]
    return found
