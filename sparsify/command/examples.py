"""What the help of each verb shows beside its options."""

from __future__ import annotations

__all__ = ["EXAMPLES", "NOTES"]

EXAMPLES = {
    "plan": (
        "sparsify plan my.models:make_net --budget 0.25",
        "sparsify plan llama-7b/ --rule '*.down_proj=monarch:blocks=64' --format json -o plan.json",
    ),
    "convert": (
        "sparsify convert bert/ -o bert-sparse/ --budget 0.25 --exclude 'head*'",
        "sparsify convert model.onnx -o sparse.onnx --init project",
    ),
    "export": (
        "sparsify export bert-sparse/ -o bert.onnx",
        "sparsify export my.models:make_net --weights net.safetensors -o net.onnx "
        "--input 'x:f32[batch,3,224,224]'",
    ),
    "verify": (
        "sparsify verify bert.onnx bert-sparse/",
        "sparsify verify net.onnx my.models:make_net --weights net.safetensors",
    ),
    "bench": (
        "sparsify bench --fabric monarch:blocks=32 --in 1024 --out 1024 --batch 1 16 128",
        "sparsify bench my.models:make_net --budget 0.1 --passes forward training "
        "--runtime torch onnxruntime",
    ),
    "sweep": (
        "sparsify sweep sparsify.demo.study:train topology=dense,monarch,clos lr=0.002,0.008 "
        "-o results.jsonl",
        "sparsify sweep my.study:train budget=0.1,0.25 lr=0.001,0.004 seed=0,1,2 --jobs 8 "
        "-o results.jsonl",
    ),
    "inspect": ("sparsify inspect net.safetensors", "sparsify inspect net.onnx --format json"),
    "list": ("sparsify list", "sparsify list --in 1024 --out 4096 --budget 0.1"),
    "doctor": ("sparsify doctor", "sparsify doctor --format json"),
    "demo": ("sparsify demo", "sparsify demo --quick --output demo-files"),
}

_STUDY = """\
a function to sweep, in my/study.py:
  def train(topology="auto", budget=0.1, lr=1e-3, seed=0):
      torch.manual_seed(seed)
      model = sp.sparsify(make_model(), topology=topology, budget=budget)
      optimizer = torch.optim.AdamW(sp.param_groups(model, lr=lr))
      ...
      return {"accuracy": accuracy}

exit code 4: a run failed; the others are kept, and the same command runs it again

"""

NOTES = {"sweep": _STUDY}  # before the examples
