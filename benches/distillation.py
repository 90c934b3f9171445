"""How good students are after how many tokens, start by start and mixer by mixer: the tables in docs/STUDENTS.md.

    cargo xtask run configs/quickstart.toml          # builds target/release/dtr
    python benches/distillation.py
    python benches/distillation.py --tokens 25600 102400 256000 1024000 --only "random|copied$|chosen$|map|window|linear map"

A cell is the held-out normalised mean squared error, mean over the layers, and behind it the validation score of the model in which every
layer is replaced, as a share of the parent's, by task in the order of their names. A second table has the errors layer by layer after the
last number of tokens. Students lie in --runs and are not trained twice. Batches and learning rates are the quickstart's where nothing else
is said.
"""
import argparse, json, pathlib, re, subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]
COPY = dict(projections="copy", decay="constant", write="constant", gate="neutral", shrink=1.0, scale=False, ridge="off", **{"feature-map-steps": 0})
WINDOW = "{ sliding-window = { window = 32, sinks = 2 } }"
GATED, HEDGEHOG, MAMBA = "{ gated-delta = { convolution = 4 } }", "{ hedgehog = {} }", "{ mamba2 = { state = 64, convolution = 4 } }"
CHOSEN = dict(COPY, decay="distance", write="received", gate="magnitude", shrink=0.2, ridge="throughout")
BEFORE = {"rows": 4, "schedule": '"cosine"', "weight-decay": 0.0, "optimiser": '"adamw"'}
SLOW = {"learning-rates": "{ sliding-window = 1e-3 }"}
ROWS = {
    "gated-delta, random": (GATED, dict(COPY, projections="random"), {}),
    "gated-delta, copied": (GATED, COPY, {}),
    "gated-delta, copied, decay by distance": (GATED, dict(COPY, decay="distance"), {}),
    "gated-delta, copied, write by weight received": (GATED, dict(COPY, write="received"), {}),
    "gated-delta, copied, write by entropy": (GATED, dict(COPY, write="entropy"), {}),
    "gated-delta, copied, heads scaled": (GATED, dict(COPY, scale=True), {}),
    "gated-delta, copied, gate by magnitude": (GATED, dict(COPY, gate="magnitude"), {}),
    "gated-delta, copied, shrunk": (GATED, dict(COPY, shrink=0.2), {}),
    "gated-delta, copied, ridge before": (GATED, dict(COPY, ridge="before"), {}),
    "gated-delta, copied, ridge before and after": (GATED, dict(COPY, ridge="both"), {}),
    "gated-delta, copied, ridge throughout": (GATED, dict(COPY, ridge="throughout"), {}),
    "gated-delta, chosen": (GATED, CHOSEN, {}),
    "gated-delta, copied, settings of before": (GATED, COPY, BEFORE),
    "gated-delta, chosen, settings of before": (GATED, CHOSEN, BEFORE),
    "gated-delta, chosen but the copying": (GATED, dict(CHOSEN, projections="random"), {}),
    "gated-delta, chosen but the decay": (GATED, dict(CHOSEN, decay="constant"), {}),
    "gated-delta, chosen but the writes": (GATED, dict(CHOSEN, write="constant"), {}),
    "gated-delta, chosen but the gate": (GATED, dict(CHOSEN, gate="neutral"), {}),
    "gated-delta, chosen but the shrinking": (GATED, dict(CHOSEN, shrink=1.0), {}),
    "gated-delta, chosen but ridge before and after": (GATED, dict(CHOSEN, ridge="both"), {}),
    "gated-delta, chosen but the ridge": (GATED, dict(CHOSEN, ridge="off"), {}),
    "gated-delta, chosen, by adamw": (GATED, CHOSEN, {"optimiser": '"adamw"'}),
    "gated-delta, chosen, by muon": (GATED, CHOSEN, {"optimiser": '"muon"'}),
    "gated-delta, chosen, no weight decay": (GATED, CHOSEN, {"weight-decay": 0.0}),
    "gated-delta, chosen, along a cosine": (GATED, CHOSEN, {"schedule": '"cosine"'}),
    "gated-delta, chosen, answers weigh 4": (GATED, CHOSEN, {"answer-weight": 4.0}),
    "gated-delta, chosen, cosine": (GATED, CHOSEN, {"loss": '"cosine"'}),
    "gated-delta, chosen, 4 rows": (GATED, CHOSEN, {"rows": 4}),
    "gated-delta turned by position, chosen": (GATED.replace("4 }", "4, rotary = true }"), CHOSEN, {}),
    "mamba2, random": (MAMBA, dict(COPY, projections="random"), {}),
    "mamba2, copied": (MAMBA, COPY, {}),
    "mamba2, chosen": (MAMBA, CHOSEN, {}),
    "mamba2, chosen, by muon": (MAMBA, CHOSEN, {"optimiser": '"muon"'}),
    "mamba2 with a state of 32, chosen": (MAMBA.replace("64", "32"), CHOSEN, {}),
    "hedgehog, copied": (HEDGEHOG, COPY, {}),
    "hedgehog, copied, ridge throughout": (HEDGEHOG, dict(COPY, ridge="throughout"), {}),
    "hedgehog, copied, map from attention, ridge throughout": (HEDGEHOG, dict(COPY, ridge="throughout", **{"feature-map-steps": 100}), {}),
    "hedgehog, copied, map in 400 steps, ridge throughout": (HEDGEHOG, dict(COPY, ridge="throughout", **{"feature-map-steps": 400}), {}),
    "window of 32 and 2 sinks, copied": (WINDOW, COPY, {}),
    "window of 32 and 2 sinks, copied, at 1e-3": (WINDOW, COPY, SLOW),
    "linear map, ridge before": ("{ linear-map = {} }", dict(COPY, ridge="before"), {}),
    "linear map, ridge alone": ("{ linear-map = {} }", dict(COPY, ridge="throughout"), {}),
}


def toml(value):
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def distil(arguments, operator, start, more, tokens):
    sets = {"operators": f"[{operator}]", "distill.tokens": tokens, "seed": arguments.seed}
    sets |= {f"distill.initialise.{key}": toml(value) for key, value in start.items()}
    sets |= {f"distill.{key}": value for key, value in more.items()}
    command = [arguments.dtr, "distill", ROOT / "configs/quickstart.toml", "--quiet", "--json", "--runs", arguments.runs]
    output = subprocess.run([*map(str, command), *(part for key, value in sets.items() for part in ("--set", f"{key}={value}"))], stdout=subprocess.PIPE, check=True)
    return json.loads(output.stdout)[0]


def mean(numbers):
    return sum(numbers) / len(numbers)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtr", type=pathlib.Path, default=ROOT / "target/release/dtr")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs/distillation")
    parser.add_argument("--tokens", type=int, nargs="+", default=[25_600, 102_400, 256_000])
    parser.add_argument("--only", default="", help="rows whose name this regular expression finds")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| | " + " | ".join(f"{tokens:,} tokens" for tokens in arguments.tokens) + " |")
    print("|---" * (len(arguments.tokens) + 1) + "|")
    last = {}
    for name, (operator, start, more) in ROWS.items():
        if re.search(arguments.only, name):
            cells = []
            for tokens in arguments.tokens:
                found = last[name] = distil(arguments, operator, start, more, tokens)
                scores = " ".join(f"{100 * replaced / parent:.0f}" for _, (parent, replaced) in sorted(found["scores"].items()))
                cells.append(f"{mean(found['normalised_mse']):.3f}, {scores} %")
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    layers = max((len(found["normalised_mse"]) for found in last.values()), default=0)
    print(f"\n| after {arguments.tokens[-1]:,} tokens, layer | " + " | ".join(map(str, range(layers))) + " |")
    print("|---" * (layers + 1) + "|")
    for name, found in last.items():
        print(f"| {name} | " + " | ".join(f"{error:.3f}" for error in found["normalised_mse"]) + " |")


if __name__ == "__main__":
    main()
