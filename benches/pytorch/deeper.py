"""A deeper model of the same shapes, to see what depth costs: the layers of tiny-qwen3, repeated.

    python deeper.py --layers 32 --out /tmp/deep
    cargo xtask distill ../../configs/quickstart.toml --set parent.path=/tmp/deep
"""
import argparse, json, pathlib, shutil
from safetensors.torch import load_file, save_file

MODEL = pathlib.Path(__file__).resolve().parents[2] / "assets/models/tiny-qwen3"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    config = json.loads((MODEL / "config.json").read_text())
    depth, config["num_hidden_layers"] = config["num_hidden_layers"], arguments.layers
    if "layer_types" in config:
        config["layer_types"] = (config["layer_types"] * arguments.layers)[:arguments.layers]
    weights, deeper = load_file(MODEL / "model.safetensors"), {}
    for name, weight in weights.items():
        if not name.startswith("model.layers."):
            deeper[name] = weight
    for layer in range(arguments.layers):
        prefix = f"model.layers.{layer % depth}."
        # A full copy of the layers in a row would let the residual stream grow: what comes later adds less.
        scale = depth / arguments.layers
        for name, weight in weights.items():
            if name.startswith(prefix):
                grows = name.endswith(("o_proj.weight", "down_proj.weight"))
                deeper[f"model.layers.{layer}." + name.removeprefix(prefix)] = weight * scale if grows else weight.clone()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "config.json").write_text(json.dumps(config, indent=1))
    save_file(deeper, arguments.out / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(MODEL / name, arguments.out / name)


if __name__ == "__main__":
    main()
