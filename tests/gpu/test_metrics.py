"""What a page says of the GPUs is what they are and do."""

import re
import subprocess

import pytest

LONG = dict(max_steps=5000, save_steps=0)
STEPS = "rankwise_train_steps_total"
KEPT = ("base_shard", "adapter", "gradients", "optimizer")


def uuids_of_the_driver():
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=60)
    return re.findall(r"UUID: (GPU-[0-9a-f-]+)", listed.stdout)


def seconds_by_phase(page, rank):
    own = re.compile(rf'rankwise_train_phase_seconds_total{{phase="(?!eval|checkpoint)(\w+)",rank="{rank}"}}')
    return {match[1]: value for name, value in page.items() if (match := own.match(name))}


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_page_of_a_run_on_gpus(new_run, ranks):
    with new_run(train=LONG, parallel=dict(device="cuda")).start(ranks) as job:
        job.wait_for(lambda: job.metrics().get(STEPS, 0) >= 50, "50 steps")
        page = job.metrics()
    places = [dict(re.findall(r'(\w+)="(.*?)"', name)) for name in page if name.startswith("rankwise_rank_info")]
    used_gpus = {place["gpu_uuid"] for place in places}
    assert len(used_gpus) == ranks and used_gpus <= set(uuids_of_the_driver())
    for rank in range(ranks):
        used, reserved = (
            page[f'rankwise_memory_bytes{{kind="{kind}",rank="{rank}"}}'] for kind in ("allocator", "reserved")
        )
        assert 0 < used <= reserved
        kept = [page[f'rankwise_memory_bytes{{kind="{kind}",rank="{rank}"}}'] for kind in KEPT]
        assert all(bytes > 0 for bytes in kept) and sum(kept) < used, (kept, used)
        assert (page[f'rankwise_memory_bytes{{kind="gathered",rank="{rank}"}}'] > 0) == (ranks > 1)
        assert page[f'rankwise_allocator_retries_total{{rank="{rank}"}}'] == 0
        phases = seconds_by_phase(page, rank)
        assert all(phases[phase] > 0 for phase in ("data", "forward", "backward", "optimizer")), phases
        # The device's time, which goes on while the host reports: its steps, but for those not read yet.
        steps = page["rankwise_train_step_duration_seconds_sum"]
        assert 0.5 * steps < sum(phases.values()) < 1.05 * steps, (rank, phases, steps)
