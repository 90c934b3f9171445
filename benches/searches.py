"""Real searches beside each other: every strategy below, on every task of the quickstart, over several seeds of distillation.

    cargo xtask run configs/quickstart.toml          # builds target/release/dtr
    python benches/searches.py --seeds 0 1 2 3 4

Per row, over seeds: layers replaced (mean and 95 % interval by Student's t), share of the parent kept on the test split, searches whose
result is below the floor there, work in full evaluations and as a share of one full evaluation a layout, seconds of search.
"""
import argparse, json, pathlib, statistics, subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]
T = [float("nan"), 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]    # 97.5 % quantiles by degrees of freedom
GATED, WINDOW = "{ gated-delta = { convolution = 4 } }", "{ sliding-window = { window = 32, sinks = 2 } }"
PAPER = {"search.strategy": '"greedy"', "search.rank": '"score"', "search.racing": '"exact"', "search.acceptance": '"point"'}
confirmed = lambda training: {"search.acceptance": f"{{ bound = {{ confirm = {{ training = {training} }}, confidence = 0.9, retries = 0 }} }}"}
BOUND = {"search.rank": '"divergence"'} | confirmed(512)
RANKED = BOUND | {"search.strategy": '{ ranked = "swap-divergence" }', "search.racing": '"off"'}
RACED = BOUND | {"search.racing": "{ statistical = { error = 0.05 } }"}
GREEDY, FLOATING = (RACED | {"search.strategy": f'"{name}"'} for name in ["greedy", "floating"])
REFIT = confirmed(256) | {"search.refit": '{ every = 3, tokens = 256_000, learning-rate = 3e-3, towards = "outputs", answer-weight = 8.0 }'}
ROWS = {
    "Algorithm 1": (f"[{GATED}]", PAPER),
    # As much training as the refits below take, but in front of the search.
    "Algorithm 1, students of 712 k tokens": (f"[{GATED}]", PAPER | {"distill.tokens": 712_000}),
    "one-swap divergence, bound": (f"[{GATED}]", RANKED),
    "greedy by divergence, bound, refitted": (f"[{GATED}]", GREEDY | REFIT),
    "floating by divergence, bound": (f"[{GATED}]", FLOATING),
    "floating by divergence, bound, both operators": (f"[{GATED}, {WINDOW}]", FLOATING),
    "floating by divergence, point, both operators": (f"[{GATED}, {WINDOW}]", FLOATING | {"search.acceptance": '"point"'}),
    "Control: Algorithm 1 over a window alone": (f"[{WINDOW}]", PAPER),
}


def search(arguments, operators, settings, seed):
    sets = {"operators": operators, "seed": seed, "search.tasks": json.dumps(arguments.tasks), "search.random-layouts": 0,
            "efficiency.contexts": "[512]", "efficiency.repetitions": 1, **settings}
    sets |= dict(pair.split("=", 1) for pair in arguments.set)
    command = [arguments.dtr, "run", ROOT / "configs/quickstart.toml", "--quiet", "--runs", arguments.runs]
    output = subprocess.run([*map(str, command), *(part for key, value in sets.items() for part in ("--set", f"{key}={value}"))],
                            stdout=subprocess.PIPE, text=True, check=True)
    page = output.stdout.rsplit("report: ", 1)[1].strip()
    return json.loads(pathlib.Path(page).with_suffix(".json").read_text())["tasks"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtr", type=pathlib.Path, default=ROOT / "target/release/dtr")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs/searches")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--tasks", nargs="+", default=["phonebook", "snippet-origin", "rust-text"])
    parser.add_argument("--only", default="", help="rows whose name begins with this")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the experiment, for all rows")
    arguments = parser.parse_args()
    found = {name: [search(arguments, *row, seed) for seed in arguments.seeds] for name, row in ROWS.items() if name.startswith(arguments.only)}
    print("| task | search | layers replaced | of parent on test | floors broken | layouts (m_opt, by seed) | evaluations | of plain | seconds |")
    print("|---" * 9 + "|")
    for task in arguments.tasks:
        for name, runs in found.items():
            runs = [run[task] for run in runs]
            replaced = [run["m_opt"]["replaced"] for run in runs]
            kept = [run["m_opt"]["test"] / run["parent"]["test"] for run in runs]
            mean = lambda key: statistics.mean(run["search"][key] for run in runs)
            margin = T[len(runs) - 1] * statistics.stdev(replaced) / len(runs) ** 0.5 if len(runs) > 1 else float("nan")
            broken = sum(share < run["search"]["floor"] for share, run in zip(kept, runs))
            layouts = " ".join(run["m_opt"]["layout"] for run in runs)
            work = mean("full_evaluation_equivalents")
            print(f"| {task} | {name} | {statistics.mean(replaced):.1f} ± {margin:.1f} | {100 * statistics.mean(kept):.1f} % | {broken} of {len(runs)} | {layouts} "
                  f"| {work:.1f} | {100 * work / mean('evaluations'):.0f} % | {mean('seconds'):.0f} |")


if __name__ == "__main__":
    main()
