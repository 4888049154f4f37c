"""PyTorch's side of `cargo bench --bench cpu`: attention over 2 * heads query heads, then the gated subtraction.

    python benches/compare_torch_cpu.py [THREADS]

f32, batch 1, heads 8, kv_heads 4, 1024 x 1024 causal; the faster of grouped and of expanded keys; median of 25.
"""
import statistics
import sys
import time

try:
    import torch
except ImportError:
    sys.exit("PyTorch is not installed: nothing to compare with (pip install torch)")

torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
attention = torch.nn.functional.scaled_dot_product_attention
print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads")
for dim in (64, 128):
    q, k, v = (torch.randn(1, heads, 1024, dim) for heads in (16, 4, 4))
    gate = torch.sigmoid(torch.randn(1, 8, 1024, 1))
    wide = [x.repeat_interleave(4, dim=1) for x in (k, v)]
    forms = {
        "grouped": lambda: attention(q, k, v, is_causal=True, enable_gqa=True),
        "expanded": lambda: attention(q, *wide, is_causal=True),
    }
    for name, form in forms.items():
        samples = []
        with torch.no_grad():
            for _ in range(28):
                start = time.perf_counter()
                out = form()
                out[:, 0::2] - gate * out[:, 1::2]
                samples.append(time.perf_counter() - start)
        print(f"d{dim} {name}: {1e3 * statistics.median(samples[3:]):.2f} ms")
