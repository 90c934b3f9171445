"""Writes minilm.safetensors and minilm.json: texts, and the embeddings that transformers makes of them with all-MiniLM-L6-v2.

    pip install -r requirements.txt
    python fetch_minilm.py && python make_minilm.py

As the model's card says: at most 256 tokens, the mean of the last hidden states over the tokens, to length 1. All texts go through the model
in one batch, padded on the right.
"""
import json, pathlib
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

HERE = pathlib.Path(__file__).parent
MODEL = HERE / "../../target/models/all-MiniLM-L6-v2"
TEXTS = [
    "Closes the file, and says what went wrong when it could not be written to the end.",
    "How do I split a string at its first colon?",
    "Ein Satz auf Deutsch, mit Umlauten: Grüße aus Zürich!",
    "x",
    "The queue is bounded: whoever sends into a full one waits until somebody has taken something out. " * 20,
    "fn main() { println!(\"{}\", 2 + 2); }",
]

tokenizer = AutoTokenizer.from_pretrained(MODEL)
model = AutoModel.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager").eval()
with torch.no_grad():
    batch = tokenizer(TEXTS, padding="longest", truncation=True, max_length=256, return_tensors="pt")
    hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    embeddings = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
save_file({"embeddings": embeddings.contiguous(), "lengths": batch["attention_mask"].sum(1, keepdim=True)}, HERE / "minilm.safetensors")
(HERE / "minilm.json").write_text(json.dumps(TEXTS, ensure_ascii=False, indent=1) + "\n")
print(embeddings.shape, batch["attention_mask"].sum(1).tolist())
