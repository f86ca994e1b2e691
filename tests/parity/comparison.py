"""Our numbers beside another's: the tolerances of docs/design.md, and what is compared with them."""

import torch
from safetensors.torch import load_file

from ranks import BUILD, run_ranks
from tiny_models import write_request

# Gradients and dX as relative norm a tensor, losses relative, final tensors. In float32 the last is the distance of
# (final - initial) over the whole adapter, as Adam turns near-zero gradients into full steps.
TOLERANCE = {
    "float64": dict(gradient=1e-12, loss=1e-10, final=1e-7),
    "float32": dict(gradient=1e-5, loss=1e-5, final=1e-3),
    "bfloat16": dict(loss=1e-2),
}
# How much further from the float64 result we may be than PEFT in the same dtype, where that is the yardstick.
TIMES_PEFTS_OWN_ERROR = 1.1


def run_ours(directory, model, adapter, samples, ranks=1, threads=1, **options):
    """What parity_tool makes of a request: logits, gradients, losses, final adapter, in float64."""
    request = write_request(directory / "request.json", model, adapter, samples, **options)
    out = directory / "out.safetensors"
    run_ranks(ranks, BUILD / "tests/support/parity_tool", request, out, threads=threads)
    result = load_file(out)
    out.unlink()  # never overwritten
    return result


def relative(ours, theirs):
    theirs = theirs.double()
    return float((ours - theirs).norm() / theirs.norm().clamp_min(1e-300))


def flat(tensors, keys):
    return torch.cat([tensors[key].double().flatten() for key in keys])


def gradients(result):
    return sorted(key for key in result if key.startswith("grad."))


def gradient_errors(result, truth):
    """Relative distance of the adapter's whole gradient, and of the gradient of the embeddings."""
    keys = gradients(truth)
    return relative(flat(result, keys), flat(truth, keys)), relative(result["dembedding"].double(), truth["dembedding"])


def assert_as_near(all_errors, what, peer):
    """Of ((ours, the peer's), each as gradient_errors has them), the means; returns the peer's. what: gradient or dX."""
    index = ("gradient", "dX").index(what)
    ours, theirs = (sum(pair[side][index] for pair in all_errors) / len(all_errors) for side in (0, 1))
    print(f"{what}: mean error {ours:.4f}, {peer} {theirs:.4f}")
    assert ours < TIMES_PEFTS_OWN_ERROR * theirs
    return theirs


def losses(result):
    return torch.as_tensor(result["losses"], dtype=torch.float64)


def loss_error(ours, theirs):
    """The largest relative difference of any step."""
    return float((losses(ours) / losses(theirs) - 1).abs().max())


def change(result, initial):
    """What training did to the whole adapter."""
    keys = sorted(key for key in result if key.startswith("final."))
    return flat(result, keys) - flat(initial, [key.removeprefix("final.") for key in keys])


def assert_same(ours, theirs, initial, tolerance, with_logits=True):
    worst = max((relative(ours[key], theirs[key]), key) for key in [*gradients(theirs), "dembedding"])
    assert worst[0] < tolerance["gradient"], worst
    if with_logits:
        assert relative(ours["logits"], theirs["logits"]) < tolerance["gradient"]
    assert loss_error(ours, theirs) < tolerance["loss"]
    assert losses(theirs)[-1] < losses(theirs)[0], "nothing was learned, so nothing was compared"
    assert relative(change(ours, initial), change(theirs, initial)) < tolerance["final"]
