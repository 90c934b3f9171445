"""What make_mixers.py and make_family.py share. To be imported in front of transformers."""
import importlib.metadata, importlib.util, pathlib, sys, types
import torch
from safetensors.torch import save_file

sys.modules["fla"] = None    # else transformers puts fla's Triton kernels in place of its own torch functions

torch.set_num_threads(1)    # the order of a sum, so the last bits, depends on their number
generator = torch.Generator().manual_seed(0)


def load(distribution, path, stubs={}):
    """One file of an installed distribution. `stubs`: modules it imports and does not need here, with what it takes from them."""
    spec = importlib.util.spec_from_file_location(path.removesuffix(".py").replace("/", "_"), importlib.metadata.distribution(distribution).locate_file(path))
    module = importlib.util.module_from_spec(spec)
    modules = {name: types.ModuleType(name) for name in stubs}
    for name, attributes in stubs.items():
        vars(modules[name]).update(attributes)
    sys.modules.update(modules)
    spec.loader.exec_module(module)
    for name in stubs:
        del sys.modules[name]
    return module


def naive(name):
    """fla.ops.<name>.naive by its path: importing the package needs Triton."""
    return load("fla-core", f"fla/ops/{name}/naive.py")


def normal(*shape):
    return torch.randn(shape, generator=generator)


def swap(*tensors):
    """[B, H, T, ..] <-> [B, T, H, ..]."""
    return [x.transpose(1, 2) for x in tensors]


def save(folder, name, tensors, conventions):
    """`folder`/`name`.safetensors beside this file."""
    folder = pathlib.Path(__file__).parent / folder
    folder.mkdir(exist_ok=True)
    metadata = dict(conventions="\n".join(f"{k}: {v}" for k, v in conventions.items()))    # one entry: the order of several varies
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors", metadata=metadata)
    print(f"{name:26}", {k: list(v.shape) for k, v in tensors.items()})


def run(function, inputs, weights):
    """Outputs by name, and gradients of the weighted sum of the outputs."""
    inputs = {k: v.clone().requires_grad_() for k, v in inputs.items()}
    outputs = function(**inputs)
    sum((outputs[k] * w).sum() for k, w in weights.items()).backward()
    return {k: v.detach() for k, v in outputs.items()} | {f"grad_{k}": v.grad for k, v in inputs.items()}


def agree(first, second, atol=2e-5):
    for name in first:
        torch.testing.assert_close(second[name], first[name], rtol=1e-4, atol=atol, msg=lambda m: f"{name}: {m}")


def with_weights(weights):
    return {f"w_{k}": v for k, v in weights.items()}
