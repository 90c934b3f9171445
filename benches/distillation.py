"""How good students are after how many tokens, start by start and mixer by mixer: the table in docs/LOG.md.

    cargo xtask run configs/quickstart.toml          # builds target/release/dtr
    python benches/distillation.py --tokens 25600 102400 256000 1024000 --only gated-delta

Per row: held-out normalised mean squared error, mean over the layers, after each number of tokens; behind it the validation score of the
model in which every layer is replaced, as a share of the parent's, by task, after the last. Students lie in --runs and are not trained twice. The learning rate is 2e-3 where
nothing else is said.
"""
import argparse, json, pathlib, subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]
COPY = dict(projections="copy", decay="constant", write="constant", scale=False, ridge="off", **{"feature-map-steps": 0})
GATED, HEDGEHOG = "{ gated-delta = { convolution = 4 } }", "{ hedgehog = {} }"
SLOW, FAST = {"learning-rate": 2e-3}, {"learning-rate": 5e-3}
ROWS = {
    "gated-delta, random": (GATED, dict(COPY, projections="random"), {}),
    "gated-delta, copied": (GATED, COPY, {}),
    "gated-delta, copied, decay by distance": (GATED, dict(COPY, decay="distance"), {}),
    "gated-delta, copied, write by entropy": (GATED, dict(COPY, write="entropy"), {}),
    "gated-delta, copied, scale": (GATED, dict(COPY, scale=True), {}),
    "gated-delta, copied, ridge before": (GATED, dict(COPY, ridge="before"), {}),
    "gated-delta, copied, ridge before and after": (GATED, dict(COPY, ridge="both"), {}),
    "gated-delta, copied, decay, ridge before": (GATED, dict(COPY, decay="distance", ridge="before"), {}),
    "gated-delta, copied, decay, ridge both": (GATED, dict(COPY, decay="distance", ridge="both"), {}),
    "gated-delta, copied, decay, write, ridge both": (GATED, dict(COPY, decay="distance", write="entropy", ridge="both"), {}),
    "gated-delta, the same by muon": (GATED, dict(COPY, decay="distance", ridge="both"), {"optimiser": '"muon"'}),
    "gated-delta, the same by muon at 5e-3": (GATED, dict(COPY, decay="distance", ridge="both"), FAST | {"optimiser": '"muon"'}),
    "gated-delta, the same at 5e-3": (GATED, dict(COPY, decay="distance", ridge="both"), FAST),
    "gated-delta, the same, answers weigh 4": (GATED, dict(COPY, decay="distance", ridge="both"), {"answer-weight": 4.0}),
    "gated-delta, the same, cosine, at 5e-3": (GATED, dict(COPY, decay="distance", ridge="both"), FAST | {"loss": '"cosine"'}),
    "gated-delta turned by position, at 5e-3": (GATED.replace("4 }", "4, rotary = true }"), dict(COPY, decay="distance", ridge="both"), FAST),
    "gated-delta, copied, at 5e-3": (GATED, COPY, FAST),
    "hedgehog, copied, at 5e-3": (HEDGEHOG, COPY, FAST),
    "hedgehog, copied, ridge both, at 5e-3": (HEDGEHOG, dict(COPY, ridge="both"), FAST),
    "hedgehog, copied, map from attention, ridge both, at 5e-3": (HEDGEHOG, dict(COPY, ridge="both", **{"feature-map-steps": 100}), FAST),
    "window of 32 and 2 sinks, copied, at 5e-3": ("{ sliding-window = { window = 32, sinks = 2 } }", COPY, FAST),
    "linear map, ridge, at 5e-3": ("{ linear-map = {} }", dict(COPY, ridge="before"), FAST),
}


def toml(value):
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def distil(arguments, operator, start, more, tokens):
    sets = {"operators": f"[{operator}]", "distill.tokens": tokens, "seed": arguments.seed}
    sets |= {f"distill.initialise.{key}": toml(value) for key, value in start.items()}
    sets |= {f"distill.{key}": value for key, value in (SLOW | more).items()}
    command = [arguments.dtr, "distill", ROOT / "configs/quickstart.toml", "--quiet", "--json", "--runs", arguments.runs]
    output = subprocess.run([*map(str, command), *(part for key, value in sets.items() for part in ("--set", f"{key}={value}"))], stdout=subprocess.PIPE, check=True)
    return json.loads(output.stdout)[0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtr", type=pathlib.Path, default=ROOT / "target/release/dtr")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs/distillation")
    parser.add_argument("--tokens", type=int, nargs="+", default=[25_600, 102_400, 256_000, 1_024_000])
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| start | " + " | ".join(f"{tokens:,} tokens" for tokens in arguments.tokens) + " | all layers replaced |")
    print("|---" * (len(arguments.tokens) + 2) + "|")
    for name, (operator, start, more) in ROWS.items():
        if arguments.only in name:
            found = [distil(arguments, operator, start, more, tokens) for tokens in arguments.tokens]
            means = [sum(each["normalised_mse"]) / len(each["normalised_mse"]) for each in found]
            scores = ", ".join(f"{task} {100 * replaced / parent:.0f} %" for task, (parent, replaced) in found[-1]["scores"].items())
            print(f"| {name} | " + " | ".join(f"{mean:.3f}" for mean in means) + f" | {scores} |", flush=True)


if __name__ == "__main__":
    main()
