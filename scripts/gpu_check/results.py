"""The results: a line of JSON each as they come, and a page for people that is written anew after every phase."""

import json
import time

PAGE = "results" ".md"


class PhaseResults:
    def __init__(self, results, name):
        self.results, self.name = results, name

    def add(self, **facts):
        self.results.add(self.name, facts)


class Results:
    def __init__(self, out):
        self.out = out
        self.began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        self.phases = {}  # in the order in which they ran
        for name in ("results.jsonl", PAGE):  # those of the run before stay beside the new ones
            if (out / name).exists():
                (out / name).replace(out / f"previous-{name}")

    def of(self, phase):
        self.phases[phase.name] = {"help": phase.help, "rows": [], "note": "", "seconds": None}
        return PhaseResults(self, phase.name)

    def add(self, name, facts):
        self.phases[name]["rows"].append(facts)
        with open(self.out / "results.jsonl", "a") as file:
            file.write(json.dumps({"phase": name, **facts}) + "\n")

    def note(self, phase, text):
        self.phases.setdefault(phase.name, {"help": phase.help, "rows": [], "note": "", "seconds": None})["note"] = text
        with open(self.out / "results.jsonl", "a") as file:
            file.write(json.dumps({"phase": phase.name, "note": text}) + "\n")
        self.write_page()

    def end(self, phase, seconds):
        self.phases[phase.name]["seconds"] = seconds
        self.write_page()

    def write_page(self):
        lines = ["# What a GPU shows", "", f"Made by `scripts/gpu-check`, {self.began}.", ""]
        for name, phase in self.phases.items():
            seconds = "" if phase["seconds"] is None else f" ({phase['seconds']:.0f} s)"
            lines += [f"## {name}: {phase['help']}{seconds}", ""]
            if phase["note"]:
                lines += [f"**{phase['note']}**", ""]
            lines += table(phase["rows"])
        partial = self.out / (PAGE + ".partial")
        partial.write_text("\n".join(lines))
        partial.replace(self.out / PAGE)


def shown(value):
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e3 else f"{value:,.0f}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def table(rows):
    """Rows with the same names are one table."""
    lines, names = [], None
    for row in rows:
        if list(row) != names:
            names = list(row)
            lines += ["", "| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"]
        lines.append("| " + " | ".join(shown(row[name]) for name in names) + " |")
    return [*lines, ""] if lines else []
