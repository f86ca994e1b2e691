"""What a rank holds and receives of a frozen base: docs/design.md, "Bytes", from the shapes in the model's files."""

import json
from dataclasses import dataclass
from math import prod

from safetensors import safe_open

LEAF = 2048  # elements; matrices begin, and shards are cut, at multiples of it
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def rounded_up(elements, multiple):
    return -(-elements // multiple) * multiple


@dataclass
class FrozenBase:
    """Elements, not bytes: a dtype is the caller's."""

    layers: int
    block: int  # the matrices of one block
    ends: list[int]  # embedding and head; one entry where they are tied
    replicated: int  # norms and biases
    stored: int  # all tensors, without padding

    @classmethod
    def read(cls, model):
        sizes = {}
        for file in model.glob("*.safetensors"):
            with safe_open(file, "pt") as weights:
                sizes |= {name: weights.get_slice(name).get_shape() for name in weights.keys()}
        matrices = {name: prod(shape) for name, shape in sizes.items() if len(shape) == 2}
        return cls(
            layers=json.loads((model / "config.json").read_text())["num_hidden_layers"],
            block=sum(rounded_up(size, LEAF) for name, size in matrices.items() if ".layers.0." in name),
            ends=[matrices[name] for name in (EMBEDDING, HEAD) if name in matrices],
            replicated=sum(prod(shape) for shape in sizes.values() if len(shape) == 1),
            stored=sum(map(prod, sizes.values())),
        )

    def units(self, ranks):
        """Padded sizes of one block and of the ends."""
        return rounded_up(self.block, ranks * LEAF), [rounded_up(end, ranks * LEAF) for end in self.ends]

    def shard(self, ranks):
        """Held by a rank, norms and biases not counted."""
        block, ends = self.units(ranks)
        return (self.layers * block + sum(ends)) // ranks

    def buffers(self, ranks, prefetch):
        block, ends = self.units(ranks)
        return (prefetch + 1) * block + max(ends) if ranks > 1 else 0

    def received_a_micro_batch(self, ranks, prefetch):
        """By a rank. An embedding and a head share a buffer, so each is gathered once; a tied table stays there. Each
        block is gathered twice, less those that lie in the ring of prefetch + 1 buffers at the turns."""
        block, ends = self.units(ranks)
        ends_each = 0 if len(ends) == 1 else sum(ends)
        return (ends_each + 2 * (self.layers - self.ring(prefetch)) * block) * (ranks - 1) // ranks

    def received_once(self, ranks, prefetch):
        """By a rank in addition, before its first micro-batch is over: what is there as each later one begins. An
        embedding beside a head is asked for again when the head was last used."""
        block, ends = self.units(ranks)
        return (ends[0] + self.ring(prefetch) * block) * (ranks - 1) // ranks

    def ring(self, prefetch):
        return min(self.layers, prefetch + 1)
