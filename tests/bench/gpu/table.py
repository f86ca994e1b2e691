"""The measurements of the GPU benchmark as a table. A measurement: {"case", "round", and "result" or "failed"}."""

import statistics

COLUMNS = {
    "row": None,
    "ranks": None,
    "settings": None,
    "tokens/s a GPU, each round": None,
    "mean": None,
    "peak GiB": "peak_gib",
    "planned": "plan_gib",
    "driver's": "driver_gib",
    "first step after, s": "seconds_to_first_step",
    "loaded GB/s a rank": "loaded_gb_per_second",
    "exposed gather, ms": "exposed_gather_ms",
    "gathered bytes a micro-batch": "gathered_bytes_per_micro_batch",
    "reduced bytes a step": "reduced_bytes_per_step",
    "loss": None,
    "note": None,
}


def speed(measurement):
    return measurement["result"]["tokens_per_second_per_gpu"]


def mean_speed(measurements, name):
    """Of the rounds of a row that came to an end; None if none did."""
    speeds = [speed(m) for m in measurements if m["case"] == name and "result" in m]
    return statistics.mean(speeds) if speeds else None


def shared_rounds_ratio(measurements, name, other):
    """How fast a row is beside another in the rounds that have both; None without such a round."""
    by_round = [
        {m["round"]: speed(m) for m in measurements if m["case"] == case and "result" in m} for case in (name, other)
    ]
    common = by_round[0].keys() & by_round[1].keys()
    return statistics.mean(by_round[0][r] / by_round[1][r] for r in common) if common else None


def at_least(wanted, unit, seen):
    missed = seen / wanted - 1
    return f"{wanted:,g} {unit} wanted: " + ("met" if missed >= 0 else f"{missed:.1%}")


def at_most(allowed, unit, seen):
    over = seen - allowed
    return f"{allowed:g} {unit} allowed: " + ("met" if over <= 0 else f"+{over:.1f} {unit}")


def plan_note(allowed, planned, seen):
    off = planned / seen - 1
    return f"plan {off:+.1%}, {allowed:.0%} allowed" + ("" if abs(off) <= allowed else ": missed")


def notes(case, measurements, found):
    """What was wanted of a row, and by how much it was missed; `found`: its figures by key, the least good of each."""
    if case.tokens_per_second:
        yield at_least(case.tokens_per_second, "tokens/s", mean_speed(measurements, case.name))
    if case.peak_gib and "peak_gib" in found:
        yield at_most(case.peak_gib, "GiB", found["peak_gib"])
    if case.first_step_seconds and "seconds_to_first_step" in found:
        yield at_most(case.first_step_seconds, "s to the first step", found["seconds_to_first_step"])
    if case.loaded_gb_per_second and "loaded_gb_per_second" in found:
        yield at_least(case.loaded_gb_per_second, "GB/s a rank", found["loaded_gb_per_second"])
    if case.plan_within and "peak_gib" in found:
        yield plan_note(case.plan_within, found["plan_gib"], found["peak_gib"])
    for other, least in case.share_of:
        ratio = shared_rounds_ratio(measurements, case.name, other)
        if ratio is not None:
            wanted = "" if least is None else f", {least:g} wanted" + ("" if ratio >= least else ": missed")
            yield f"{ratio:.3f} x {other}{wanted}"


def figures(results):
    """By key, the least good of all rounds."""
    found = {}
    for key in filter(None, COLUMNS.values()):
        values = [result[key] for result in results if result.get(key) is not None]
        if values:
            found[key] = min(values) if key == "loaded_gb_per_second" else max(values)
    return found


def text_of(value):
    if value is None:
        return ""
    return f"{value:.1f}" if isinstance(value, float) else f"{value:,}"


def cells(case, measurements):
    """The texts of a row, by column."""
    mine = [m for m in measurements if m["case"] == case.name]
    done = [m["result"] for m in mine if "result" in m]
    texts = {"row": case.name, "ranks": str(case.ranks), "settings": case.arguments.replace("--", "")}
    failures = [f"round {m['round']} failed: {m['failed']}" for m in mine if "failed" in m]
    texts["tokens/s a GPU, each round"] = ", ".join(f"{speed(m):,.0f}" if "result" in m else "failed" for m in mine)
    if not done:
        return texts | {"note": "; ".join(failures)}
    texts["mean"] = f"{mean_speed(measurements, case.name):,.0f}"
    found = figures(done)
    texts |= {column: text_of(found[key]) for column, key in COLUMNS.items() if key in found}
    texts["loss"] = f"{done[-1]['loss'][0]:.3f} to {done[-1]['loss'][-1]:.3f}"
    return texts | {"note": "; ".join([*failures, *notes(case, measurements, found)])}


def parity_table(result):
    """Markdown: what parity.py found."""
    lines = ["| stack | loss of each step | gradient's distance | dX's |", "|---|---|---|---|"]
    for name, found in result["results"].items():
        loss = ", ".join(f"{value:.6f}" for value in found["loss"])
        lines.append(f"| {name} | {loss} | {found['gradient_error']:.2e} | {found['dx_error']:.2e} |")
    return "\n".join(lines)


def table(cases, measurements):
    """Markdown: the rows that were tried, in the order of `cases`."""
    tried = {m["case"] for m in measurements}
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for case in cases:
        if case.name in tried:
            texts = cells(case, measurements)
            lines.append("| " + " | ".join(texts.get(c, "").replace("|", "/") for c in COLUMNS) + " |")
    return "\n".join(lines)
