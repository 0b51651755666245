r"""Lesson 9: many processes. Fabrics train under PyTorch's own DDP and FSDP, and survive a death.

Every process converts the model by itself: `sp.sparsify` is a pure function, and one call compares
the results. Checkpoints are PyTorch's own, with the plan in them, so that a job of another size, or
a later version of the package, rebuilds the same model. A job that lost a process is started again
by torchrun, goes on from its last checkpoint, and ends with the same bits.

Run it:  torchrun --nproc-per-node 2 examples/09_torchrun.py [--fsdp] [--out FOLDER]

Kill a process at step 70 (without the variable the second life is given the addresses of the first
one by torchrun, and waits for the dead: pytorch#135712):

TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --standalone --nproc-per-node 2 --max-restarts 1 \
    examples/09_torchrun.py --kill-at 70 --out /tmp/killed
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import sparsify as sp

STEPS, BATCH, EVERY = 150, 128, 25

arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
arguments.add_argument("--fsdp", action="store_true", help="shard the weights (default: DDP)")
arguments.add_argument(
    "--out", type=Path, default=Path("checkpoints"), help="for checkpoints and model"
)
arguments.add_argument("--kill-at", type=int, help="step at which the last process dies, once")
options = arguments.parse_args()
if "RANK" not in os.environ:
    arguments.error("run it with torchrun --nproc-per-node 2 examples/09_torchrun.py")

images, digits = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
images = (images.float() - 4.88) / 6.02
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
train, test = order[:1400], order[1400:]


def make_model() -> nn.Module:
    """The same on every process, for all of them draw from the same seed."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(64, 256), nn.GELU()]
    for _ in range(2):
        layers += [nn.Linear(256, 256), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(256, 10))


def last_checkpoint() -> Path | None:
    """The newest one that is complete: PyTorch writes `.metadata` last."""
    for step in range(STEPS, 0, -1):
        last = options.out / f"step-{step}" / ".metadata"
        if last.is_file() and last.stat().st_size:  # an empty one is torn
            return last.parent
    return None


def plan_of(checkpoint: Path | None) -> sp.Plan:
    if checkpoint is None:
        return sp.plan(make_model(), (images[:2],), budget=0.15)
    content = {"plan": ""}
    dcp.load(content, checkpoint_id=checkpoint)
    return sp.Plan.from_json(content["plan"])


def restore(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load weights and the optimizer's state, each process its part; returns the step."""
    weights, state = get_state_dict(model, optimizer)
    content = {"model": weights, "optimizer": state, "step": 0}
    dcp.load(content, checkpoint_id=checkpoint)
    weights, state = content["model"], content["optimizer"]
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
    return content["step"]


def store(step: int, plan: sp.Plan, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    weights, state = get_state_dict(model, optimizer)
    content = {"plan": plan.to_json(), "model": weights, "optimizer": state, "step": step}
    dcp.save(content, checkpoint_id=options.out / f"step-{step}")


def batch_of(step: int) -> Tensor:
    """This process's part of the batch of a step, whatever has happened before."""
    random = torch.Generator().manual_seed(step)
    chosen = train[torch.randint(len(train), (BATCH,), generator=random)]
    return chosen.chunk(dist.get_world_size())[dist.get_rank()]


def say(text: str) -> None:
    if dist.get_rank() == 0:
        print(text, flush=True)


def perhaps_die(step: int) -> None:
    """What a machine does that fails: no farewell."""
    is_first_life = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
    is_last_rank = dist.get_rank() == dist.get_world_size() - 1
    if step == options.kill_at and is_first_life and is_last_rank:
        os.kill(os.getpid(), signal.SIGKILL)


dist.init_process_group("gloo")
checkpoint = last_checkpoint()
plan = plan_of(checkpoint)
sparse = sp.sparsify(make_model(), (images[:2],), plan=plan)
sp.distributed.check_agreement(sparse)

model = sp.distributed.fully_shard(sparse) if options.fsdp else DistributedDataParallel(sparse)
optimizer = torch.optim.AdamW(sp.param_groups(model, lr=1e-3))
start = 0
if checkpoint is not None:
    start = restore(checkpoint, model, optimizer)
    say(f"resumed at step {start}")

for step in range(start, STEPS):
    perhaps_die(step)
    batch = batch_of(step)
    loss = functional.cross_entropy(model(images[batch]), digits[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if (step + 1) % EVERY == 0:
        store(step + 1, plan, model, optimizer)
        say(f"step {step + 1:>3}: loss {loss.item():.3f} on the first process's part")

gathering = StateDictOptions(full_state_dict=True, cpu_offload=True)
weights = get_model_state_dict(model, options=gathering)
if dist.get_rank() == 0:
    whole = sp.sparsify(make_model(), (images[:2],), plan=plan)
    whole.load_state_dict(weights)
    sp.save(whole, options.out / "model.safetensors")
    with torch.no_grad():
        right = (whole(images[test]).argmax(1) == digits[test]).float().mean().item()
    print(f"{right:.1%} right with {plan.density:.1%} of the weights of the replaced layers")
dist.destroy_process_group()
