"""Writes optimiser.json: five steps of AdamW and NAdam as PyTorch makes them, from weights and gradients that are in the file.

    pip install torch==2.15.0
    python make_optimiser.py                # rewrites the file beside this one
"""
import json, pathlib
import torch

LENGTH, DECAY, BETAS = 35, 0.1, (0.9, 0.9)
RATES = [0.01, 0.02, 0.03, 0.02, 0.01]


def steps(make, start, gradients):
    weight = torch.nn.Parameter(start.clone())
    optimiser = make([weight])
    for rate, gradient in zip(RATES, gradients):
        optimiser.param_groups[0]["lr"] = rate
        weight.grad = gradient.clone()
        optimiser.step()
    return weight.tolist()


def main():
    torch.manual_seed(0)
    start, gradients = torch.randn(LENGTH, dtype=torch.float64), torch.randn(len(RATES), LENGTH, dtype=torch.float64)
    found = dict(decay=DECAY, rates=RATES, start=start.tolist(), gradients=gradients.tolist())
    found["adamw"] = steps(lambda of: torch.optim.AdamW(of, betas=BETAS, weight_decay=DECAY), start, gradients)
    # PyTorch lets the first moment's decay rise over the run by `momentum_decay`: with a large one it is there at once.
    nadam = lambda of: torch.optim.NAdam(of, betas=BETAS, weight_decay=DECAY, momentum_decay=1e9, decoupled_weight_decay=True)
    found["nadamw"] = steps(nadam, start, gradients)
    (pathlib.Path(__file__).parent / "optimiser.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
