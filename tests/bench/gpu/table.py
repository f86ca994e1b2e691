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


def notes(case, measurements, peak):
    """What was wanted of a row, and by how much it was missed."""
    mean = mean_speed(measurements, case.name)
    if case.tokens_per_second:
        missed = mean / case.tokens_per_second - 1
        yield f"{case.tokens_per_second:,} tokens/s wanted: " + ("met" if missed >= 0 else f"{missed:.1%}")
    if case.peak_gib and peak is not None:
        over = peak - case.peak_gib
        yield f"{case.peak_gib:g} GiB allowed: " + ("met" if over <= 0 else f"+{over:.1f} GiB")
    for other, least in case.share_of:
        ratio = shared_rounds_ratio(measurements, case.name, other)
        if ratio is not None:
            yield f"{ratio:.3f} x {other}, {least:g} wanted" + ("" if ratio >= least else ": missed")


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
    for column, key in COLUMNS.items():
        values = [result[key] for result in done if result.get(key) is not None]
        if values:
            texts[column] = text_of(max(values))
    texts["loss"] = f"{done[-1]['loss'][0]:.3f} to {done[-1]['loss'][-1]:.3f}"
    peaks = [result["peak_gib"] for result in done if result["peak_gib"] is not None]
    return texts | {"note": "; ".join([*failures, *notes(case, measurements, max(peaks, default=None))])}


def table(cases, measurements):
    """Markdown: the rows that were tried, in the order of `cases`."""
    tried = {m["case"] for m in measurements}
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for case in cases:
        if case.name in tried:
            texts = cells(case, measurements)
            lines.append("| " + " | ".join(texts.get(c, "").replace("|", "/") for c in COLUMNS) + " |")
    return "\n".join(lines)
