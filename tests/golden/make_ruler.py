"""Writes ruler.json: prompts with their answers as lm_eval's port of RULER (arXiv 2404.06654) makes them.

    pip install lm_eval==0.4.13 wonderwords==3.0.1 nltk datasets
    python make_ruler.py                    # rewrites the file beside this one
"""
import json, pathlib, random
import nltk
import numpy as np

nltk.data.find = lambda *_: True               # sentences are cut below: nothing has to be downloaded
from lm_eval.tasks.ruler import niah_utils, prepare_niah, vt_utils

HERE = pathlib.Path(__file__).parent
PROSE = " ".join(f"Layer {i} reads what layer {i - 1} wrote and adds a little to it." for i in range(1, 60)).split()
TASKS = {                                      # name: (haystack, keys, values), as in niah_single_1.yaml and so on
    "s1": ("repeat", 1, "numbers"), "s2": ("essay", 1, "numbers"), "s3": ("essay", 1, "uuids"),
    "mk1": ("essay", 4, "numbers"), "mk2": ("needle", 1, "numbers"), "mk3": ("needle", 1, "uuids"),
}


def needle(haystack, keys, values):
    texts = {"repeat": prepare_niah.get_haystack("repeat"), "essay": PROSE, "needle": prepare_niah.get_haystack("needle")}
    text, answers, query = prepare_niah.generate_input_output(
        20, texts[haystack], type_haystack=haystack, num_needle_k=keys, type_needle_k="words", num_needle_v=1, type_needle_v=values,
        template=niah_utils.TEMPLATE)
    value = values[:-1]
    return dict(prompt=f"{text} The special magic {value} for {query} mentioned in the provided text is", answers=answers)


def main():
    random.seed(0)
    np.random.seed(0)
    prepare_niah.cached_sent_tokenize = lambda text: [f"{sentence}." for sentence in text.rstrip(".").split(". ")]
    data = {name: needle(*task) for name, task in TASKS.items()}
    text, answers = vt_utils.generate_input_output(20, 1, 4)
    data["vt"] = dict(prompt=text.rstrip(), answers=answers)
    (HERE / "ruler.json").write_text(json.dumps(data, indent=1) + "\n")


main()
