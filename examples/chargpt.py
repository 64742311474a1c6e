"""A character-level GPT that learns to write like the standard library's documentation.

    python chargpt.py

Writes losses.tsv and chargpt.pt into the current directory; the last line is the digest of the parameters.
"""

import argparse
import ast
import hashlib
import importlib.util
import os
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler

# a fixed list, in a fixed order
# fmt: off
MODULES = [
    "argparse", "asyncio.events", "asyncio.streams", "asyncio.tasks", "calendar", "collections",
    "concurrent.futures._base", "configparser", "contextlib", "copy", "csv", "datetime", "decimal", "difflib",
    "doctest", "email.message", "enum", "fractions", "functools", "gettext", "glob", "heapq", "http.client",
    "http.server", "inspect", "ipaddress", "json", "json.decoder", "json.encoder", "locale", "logging",
    "logging.config", "logging.handlers", "mailbox", "mimetypes", "multiprocessing.connection",
    "multiprocessing.pool", "numbers", "optparse", "pathlib", "pickle", "pickletools", "pprint", "queue",
    "random", "shelve", "shlex", "shutil", "smtplib", "socket", "socketserver", "sqlite3", "ssl",
    "statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "timeit",
    "tokenize", "trace", "typing", "unittest.case", "unittest.mock", "urllib.parse", "urllib.request", "uuid",
    "warnings", "weakref", "xml.dom.minidom", "xml.etree.ElementTree", "zipfile",
]
# fmt: on


def docstrings(module):
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and (doc := ast.get_docstring(node)):
            yield doc


class Windows(Dataset):
    """Every window of `block` characters, with the same window one character on as its target."""

    def __init__(self, codes, block):
        self.codes, self.block = codes, block

    def __len__(self):
        return len(self.codes) - self.block

    def __getitem__(self, i):
        return self.codes[i : i + self.block], self.codes[i + 1 : i + self.block + 1]


class Block(nn.Module):
    def __init__(self, width, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, c))
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    def __init__(self, vocab, block, width=96, heads=4, depth=3, dropout=0.1):
        super().__init__()
        self.block = block
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(block, width)
        self.blocks = nn.Sequential(*[Block(width, heads, dropout) for _ in range(depth)])
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocab))

    def forward(self, idx):
        x = self.tokens(idx) + self.places(torch.arange(idx.shape[1]))
        return self.out(self.blocks(x))

    @torch.no_grad()
    def write(self, idx, n):
        self.eval()
        for _ in range(n):
            logits = self(idx[:, -self.block :])[:, -1] / 0.8
            idx = torch.cat([idx, torch.multinomial(logits.softmax(-1), 1)], dim=1)
        return idx


def save(state, path):
    """A reader, or a crash, sees the old checkpoint or the new one, never half of one."""
    torch.save(state, path + ".tmp")
    os.replace(path + ".tmp", path)


def digest(model):
    sha = hashlib.sha256()
    for name, p in model.named_parameters():
        sha.update(name.encode())
        sha.update(p.detach().numpy().tobytes())
    return sha.hexdigest()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--save-every", type=int, default=50)
    parser.add_argument("--sample", type=int, default=300, help="characters to write at the end")
    args = parser.parse_args()

    text = "\n\n".join(doc for module in MODULES for doc in docstrings(module))
    letters = sorted(set(text))
    code = {c: i for i, c in enumerate(letters)}
    codes = torch.tensor([code[c] for c in text])
    print(f"{len(text)} characters, {len(letters)} different", flush=True)

    torch.set_num_threads(1)  # small matrices: a second thread costs more than it brings, and changes the last bits
    torch.manual_seed(1337)
    model = GPT(len(letters), args.block)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.steps, eta_min=args.lr / 10)

    windows = Windows(codes, args.block)
    draw = RandomSampler(windows, num_samples=args.steps * args.batch, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(windows, args.batch, sampler=draw, num_workers=2, multiprocessing_context="fork")

    with open("losses.tsv", "w") as losses:
        for step, (x, y) in enumerate(loader, 1):
            loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            print(f"step {step} loss {loss.item()!r}", flush=True)
            print(step, loss.item(), schedule.get_last_lr()[0], sep="\t", file=losses, flush=True)
            if step % args.save_every == 0 or step == args.steps:
                save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, "chargpt.pt")

    start = torch.tensor([[code["\n"]]])
    sample = "".join(letters[i] for i in model.write(start, args.sample)[0].tolist())
    print(f"--- sample ---{sample}\n--- end ---", flush=True)
    print(f"digest {digest(model)}", flush=True)


if __name__ == "__main__":
    main()
