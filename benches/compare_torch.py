#!/usr/bin/env python3
"""The cases of `diffattn bench` through PyTorch, as a record of the same format.

    diffattn bench --format json > record.jsonl
    python benches/compare_torch.py --cases record.jsonl -o torch.jsonl
    diffattn report record.jsonl torch.jsonl

The un-fused form is scaled_dot_product_attention over 2 * heads query heads, then the gated subtraction; the baseline
is the same over `heads` heads. Each runs on every backend that PyTorch has here (flash, cuDNN, memory-efficient and
math on CUDA and ROCm), with grouped keys and, where several query heads share them, with keys expanded beforehand too.

Every result is held against float64 before it is timed, and a swapped pair must be told from a right one. Times are
those of CUDA events (ROCm has them too), elsewhere of the host's clock around work and synchronisation; at least 20
samples, fewer where those do not fit --seconds. The limits are what PyTorch's own matrix product and copies reach.

Without PyTorch it says so and exits with 77.
"""

import argparse
import datetime
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import warnings

SKIPPED = 77
SCHEMA = 1
SAMPLES, FEWEST_SAMPLES = 20, 5
# Copies of a decode cache are rotated until they hold more than any cache of the device.
ROTATED_BYTES = 512 << 20

try:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as error:
    print(f"skipped: PyTorch 2.5 or newer is needed for its rows ({error}); see https://pytorch.org", file=sys.stderr)
    sys.exit(SKIPPED)

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
# Those that a device has at all; whether they take a case, PyTorch says.
BACKENDS_OF = {"cuda": list(BACKENDS), "mps": ["math"], "cpu": ["flash", "math"]}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# What a case gives its row.
SIZES = "batch q_len kv_len heads kv_heads head_dim value_dim".split()
COLUMNS = ["op", "form", *SIZES, "dtype", "causal", "flop", "bytes_min"]


class Skip(Exception):
    """A case that cannot be measured here, and why."""


class Device:
    """Where it runs, and how it is timed."""

    def __init__(self, wanted):
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        self.name = wanted
        self.timer = "gpu-ns" if wanted == "cuda" else "wall"

    def synchronize(self):
        if self.name == "cuda":
            torch.cuda.synchronize()
        elif self.name == "mps":
            torch.mps.synchronize()

    def lap(self, run, repeats=1):
        """Nanoseconds of one run by the device (or the host, where it has no clock), and by the host."""
        self.synchronize()
        if self.name == "cuda":
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start = time.perf_counter_ns()
        if self.name == "cuda":
            first.record()
        for _ in range(repeats):
            run()
        if self.name == "cuda":
            last.record()
        self.synchronize()
        wall = (time.perf_counter_ns() - start) / repeats
        return (first.elapsed_time(last) * 1e6 / repeats if self.name == "cuda" else wall), wall

    def best(self, run, laps=7):
        run()
        return min(self.lap(run)[0] for _ in range(laps))

    def limits(self):
        """What PyTorch reaches here at best: products, reading, copying, and an operation on one element."""
        big = self.name == "cuda"
        size, elements = (8192, 1 << 28) if big else (2048, 1 << 26)
        found = dict.fromkeys(
            ["fma_f32_tflops", "fma_f16_tflops", "matrix_tflops", "read_gb_s", "copy_gb_s", "dispatch_us"]
        )

        def product(dtype):
            a, b = (torch.randn(size, size, device=self.name).to(dtype) for _ in range(2))
            return 2 * size**3 / self.best(lambda: a @ b) / 1e3

        found["fma_f32_tflops"] = product(torch.float32)
        if self.name != "cpu":
            found["matrix_tflops"] = product(torch.float16)
        source, target = torch.randn(elements, device=self.name), torch.empty(elements, device=self.name)
        found["read_gb_s"] = 4 * elements / self.best(lambda: source.sum())
        found["copy_gb_s"] = 8 * elements / self.best(lambda: target.copy_(source))
        one = torch.zeros(1, device=self.name)
        found["dispatch_us"] = self.lap(lambda: one.add_(1), 1000)[0] / 1e3
        return found


def throttled(before, after):
    rates = ["fma_f32_tflops", "matrix_tflops", "read_gb_s", "copy_gb_s"]
    return any(before[rate] and after[rate] and after[rate] < 0.95 * before[rate] for rate in rates)


def output_of(command):
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=os.path.dirname(__file__) or "."
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def processor():
    if platform.system() == "Darwin":
        return output_of(["sysctl", "-n", "machdep.cpu.brand_string"])
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.split(":")[1].strip() for line in file if line.startswith("model name")), None)
    except OSError:
        return platform.processor() or None


def header(device, args, suite):
    commit = output_of(["git", "rev-parse", "--short=9", "HEAD"])
    rocm = device.name == "cuda" and torch.version.hip is not None
    about = {"backend": "rocm" if rocm else device.name, "vendor_id": 0, "device_type": "cpu", "subgroup": None}
    about |= {"workgroup_storage": 0, "invocations": 0, "storage_binding": 0}
    if device.name == "cuda":
        of = torch.cuda.get_device_properties(0)
        about |= {"adapter": torch.cuda.get_device_name(0), "vendor_id": 0x1002 if rocm else 0x10DE}
        about |= {"device_type": "integrated" if getattr(of, "is_integrated", 0) else "discrete"}
        about |= {"subgroup": [getattr(of, "warp_size", 32)] * 2, "storage_binding": of.total_memory}
        about |= {"workgroup_storage": getattr(of, "shared_memory_per_block", 0)}
        about |= {
            "driver": (
                f"HIP {torch.version.hip}"
                if rocm
                else f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
            )
        }
    elif device.name == "mps":
        about |= {
            "adapter": processor() or "Apple GPU",
            "vendor_id": 0x106B,
            "device_type": "integrated",
            "driver": "Metal",
        }
    else:
        about |= {"adapter": processor() or "CPU"}
        about |= {"driver": f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"}
    return about | {
        "schema": SCHEMA,
        "suite": suite["suite"],
        "suite_version": suite["suite_version"],
        "stack": "torch",
        "version": torch.__version__,
        "commit": commit,
        "dirty": bool(output_of(["git", "status", "--porcelain", "--untracked-files=no"])) if commit else None,
        "rustc": None,
        "wgpu": None,
        "device_id": 0,
        "features": [],
        "os": f"{platform.system().lower()} {platform.machine()}",
        "cpu": processor(),
        "browser": None,
        "timestamp": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seed": args.seed,
        "command": command(args),
        "skipped": [],
    }


def command(args, **chosen):
    """The command line; of a path only the file's name, which says nothing about the machine."""
    words = ["python benches/compare_torch.py", f"--cases {os.path.basename(args.cases)}", f"--device {args.device}"]
    words += [f"--threads {args.threads}"] if args.threads else []
    words += [f"--seed {args.seed}"] if args.seed != 1 else []
    words += [f"--seconds {args.seconds:g}"] if args.seconds != 20 else []
    chosen = {name: getattr(args, name) for name in ("op", "form", "path", "dtype", "shape")} | chosen
    return " ".join(words + [f"--{name} {value}" for name, value in chosen.items() if value])


class Case:
    """A line of the cases; its columns are those of a record's row."""

    def __init__(self, columns):
        self.columns = columns
        for name in ("op", "form", *SIZES, "dtype", "causal"):
            setattr(self, name, columns[name])
        values = "" if self.value_dim == self.head_dim else f"/{self.value_dim}"
        self.shape = f"b{self.batch}q{self.q_len}kv{self.kv_len}h{self.heads}/{self.kv_heads}d{self.head_dim}{values}"
        self.query_heads = self.heads * (2 if self.form == "unfused" else 1)

    def __str__(self):
        return f"{self.op} {self.form} {self.dtype} {'causal' if self.causal else 'full'} {self.shape}"


class Attention:
    """One case with its inputs, batch-head-sequence, in the storage type."""

    def __init__(self, case, device, seed):
        if case.dtype not in DTYPES:
            raise Skip(f"PyTorch's attention has no {case.dtype} cache")
        if case.columns.get("window", [None, None]) != [None, None]:
            raise Skip("PyTorch's attention has no window")
        self.case, self.device, self.dtype = case, device, DTYPES[case.dtype]
        generator = torch.Generator().manual_seed(seed)

        def tensor(scale, heads, length, dim, dtype):
            values = torch.rand(case.batch, heads, length, dim, generator=generator) * 2 * scale - scale
            return values.to(dtype).to(device.name)

        self.q = tensor(2, case.query_heads, case.q_len, case.head_dim, self.dtype)
        self.k = tensor(2, case.kv_heads, case.kv_len, case.head_dim, self.dtype)
        self.v = tensor(1, case.kv_heads, case.kv_len, case.value_dim, self.dtype)
        self.gate = torch.sigmoid(tensor(4, case.heads, case.q_len, 1, torch.float32)).to(self.dtype)
        self.dout = tensor(1, case.heads, case.q_len, case.value_dim, self.dtype)
        # Masks are aligned to the last key, PyTorch's to the first; of one query nothing is hidden.
        self.causal = case.causal and case.q_len > 1
        if self.causal and case.q_len != case.kv_len:
            raise Skip("PyTorch aligns a causal mask to the first key")

    def subtract(self, both, gate=None):
        if self.case.form == "baseline":
            return both
        return both[:, 0::2] - (self.gate if gate is None else gate) * both[:, 1::2]

    def attend(self, q, k, v, expanded):
        grouped = not expanded and self.case.query_heads != self.case.kv_heads
        both = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=grouped)
        return self.subtract(both)

    def keys(self, expanded):
        times = self.case.query_heads // self.case.kv_heads
        return [x.repeat_interleave(times, dim=1) if expanded else x for x in (self.k, self.v)]

    def tensors(self, expanded):
        leaves = [x.detach().clone() for x in (self.q, *self.keys(expanded))]
        if self.case.op == "backward":
            leaves = [x.requires_grad_() for x in leaves]
        return leaves

    def prepare(self, expanded):
        """A function without arguments to time, and one that gives what is to be judged."""
        q, k, v = self.tensors(expanded)
        if self.case.op == "backward":
            self.gate.requires_grad_(self.case.form == "unfused")
            inputs = [q, k, v] + ([self.gate] if self.case.form == "unfused" else [])
            out = self.attend(q, k, v, expanded)
            run = lambda: torch.autograd.grad(out, inputs, self.dout, retain_graph=True)
            times = self.case.query_heads // self.case.kv_heads if expanded else 1

            def results():
                dq, dk, dv = (x.detach() for x in run()[:3])
                shared = [x.unflatten(1, (-1, times)).float().sum(2) for x in (dk, dv)]
                return [dq, *shared]

            return run, results
        caches = [(k, v)]
        if self.case.op == "decode":
            bytes_each = sum(x.numel() * x.element_size() for x in (k, v))
            caches += [(k.clone(), v.clone()) for _ in range(min(63, ROTATED_BYTES // bytes_each))]
        turn = [0]

        def run():
            turn[0] = (turn[0] + 1) % len(caches)
            return self.attend(q, *caches[turn[0]], expanded)

        return run, lambda: [run()]

    def truth(self, dtype, rows):
        """Un-fused, plain, in this type, on the CPU: rows of out, and their sum of magnitudes."""
        times = self.case.query_heads // self.case.kv_heads
        k, v = (x.detach().cpu().to(dtype).repeat_interleave(times, dim=1) for x in (self.k, self.v))
        q, gate = self.q.detach().cpu()[:, :, rows].to(dtype), self.gate.detach().cpu()[:, :, rows].to(dtype)
        scores = q @ k.transpose(-1, -2) * (1 / math.sqrt(self.case.head_dim))
        if self.causal:
            hidden = torch.arange(self.case.kv_len)[None, :] > rows[:, None]
            scores = scores.masked_fill(hidden, -math.inf)
        both = torch.softmax(scores, -1) @ v
        swapped = both.unflatten(1, (-1, 2)).flip(2).flatten(1, 2) if self.case.form == "unfused" else both.flip(1)
        size = self.subtract(both.abs(), -gate)
        return self.subtract(both, gate), size, self.subtract(swapped, gate)

    def rows(self):
        """All queries of a small case; of a large one the first, the last, and some in the middle."""
        length = self.case.q_len
        if self.case.batch * self.case.query_heads * length * self.case.kv_len <= 1 << 24:
            return torch.arange(length), "whole"
        few = min(16, length)
        middle = (length - few) // 2
        return torch.cat([torch.arange(at, at + few) for at in sorted({0, middle, length - few})]).unique(), "sample"

    def slack(self):
        """What the bound adds: a rounding to the storage type, and that of the largest score in f32."""
        q, k = (x.detach().float().norm(dim=-1).max().item() for x in (self.q, self.k))
        score = q * k / math.sqrt(self.case.head_dim)
        return torch.finfo(self.dtype).eps + 2 * score * torch.finfo(torch.float32).eps

    def judge(self, out):
        """Error, bound and what was judged. The bound is twice the error of the same in the storage type, and slack."""
        rows, verified = self.rows()
        truth, size, swapped = self.truth(torch.float64, rows)
        largest = size.amax(-1, keepdim=True)
        error = lambda values: ((values.double() - truth).abs() / largest).max().item()
        bound = 2 * error(self.truth(self.dtype, rows)[0]) + self.slack()
        if error(swapped) <= bound:
            raise Skip("float64 cannot tell a swapped pair from a right one here")
        found = error(out.detach().cpu()[:, :, rows])
        return (found if math.isfinite(found) else sys.float_info.max), bound, verified

    def judge_gradients(self, gradients):
        """The same of the gradients; those of float64 come from autograd, so that only a small case is judged whole."""

        def of(dtype):
            q, k, v = (x.detach().cpu().to(dtype).requires_grad_() for x in (self.q, self.k, self.v))
            times = self.case.query_heads // self.case.kv_heads
            wide = [x.repeat_interleave(times, dim=1) for x in (k, v)]
            scores = q @ wide[0].transpose(-1, -2) * (1 / math.sqrt(self.case.head_dim))
            if self.causal:
                hidden = torch.ones(self.case.q_len, self.case.kv_len, dtype=torch.bool).triu(1)
                scores = scores.masked_fill(hidden, -math.inf)
            out = self.subtract(torch.softmax(scores, -1) @ wide[1], self.gate.detach().cpu().to(dtype))
            return torch.autograd.grad(out, [q, k, v], self.dout.cpu().to(dtype))

        truth = of(torch.float64)
        error = lambda values: max(
            ((x.detach().cpu().double() - y).abs().max() / y.abs().max()).item() for x, y in zip(values, truth)
        )
        bound = 3 * error(of(self.dtype)) + self.slack()
        wrong = [truth[0].flip(1), *truth[1:]]
        if error(wrong) <= bound:
            raise Skip("float64 cannot tell swapped heads from right ones here")
        found = error(gradients)
        return (found if math.isfinite(found) else sys.float_info.max), bound


def smaller(case):
    """A case of the same kind that float64 can differentiate."""
    length = min(case.q_len, 131)
    batch, kv_heads = min(case.batch, 2), min(case.kv_heads, 2)
    heads = kv_heads * (case.heads // case.kv_heads)
    return Case(
        case.columns | {"batch": batch, "q_len": length, "kv_len": length, "heads": heads, "kv_heads": kv_heads}
    )


def verify(attention, results, expanded, args):
    case = attention.case
    if case.op != "backward":
        return attention.judge(results()[0])
    small = smaller(case)
    whole = str(small) == str(case)
    judged = attention if whole else Attention(small, attention.device, args.seed + 1)
    error, bound = judged.judge_gradients(results() if whole else judged.prepare(expanded)[1]())
    return error, bound, "whole" if whole else "sample"


def percentile(samples, share):
    samples = sorted(samples)
    place = share * (len(samples) - 1)
    below, above = samples[math.floor(place)], samples[math.ceil(place)]
    return below + (above - below) * (place % 1)


def sample(device, run, seconds):
    """Warms up, then takes samples; `None` when not even a few fit the time."""
    warmup, spent, last = 0, 0.0, 0.0
    while warmup < 2 or (warmup < 1000 and spent < 2e8) or (warmup < 4 and spent < 1e9):
        last = device.lap(run)[1]
        warmup, spent = warmup + 1, spent + last
        if last * FEWEST_SAMPLES > seconds * 1e9:
            raise Skip(
                f"{FEWEST_SAMPLES} runs take at least {last * FEWEST_SAMPLES / 1e9:.1f} s; one may take {seconds} s"
            )
    # Long enough that launching and the clock's own steps do not show.
    least = 1e6 if device.name == "cuda" else 2e7
    repeats = max(1, min(1000, math.ceil(least / last)))
    count = int(max(FEWEST_SAMPLES, min(SAMPLES, seconds * 1e9 / (last * repeats))))
    laps = [device.lap(run, repeats) for _ in range(count)]
    return warmup, repeats, [lap[0] for lap in laps], statistics.median(lap[1] for lap in laps)


def bound_by(case, limits):
    flop, bytes_min = case.columns["flop"], case.columns["bytes_min"]
    matrix = limits["matrix_tflops"] if case.dtype != "f32" else None
    compute = ("matrix", flop / matrix / 1e3) if matrix else ("fma-f32", flop / limits["fma_f32_tflops"] / 1e3)
    return max(compute, ("read", bytes_min / limits["read_gb_s"]), key=lambda limit: limit[1])


def measure(case, backend, expanded, device, limits, args):
    attention = Attention(case, device, args.seed)
    path = backend + ("-expanded" if expanded else "")
    cuda = device.name == "cuda"
    with sdpa_kernel([BACKENDS[backend]]):
        run, results = attention.prepare(expanded)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated() if cuda else 0
        cold = device.lap(run)[1]
        scratch = torch.cuda.max_memory_allocated() - held if cuda else 0
        error, bound, verified = verify(attention, results, expanded, args)
        passed = error <= bound
        warmup, repeats, samples, wall = sample(device, run, args.seconds) if passed else (0, 0, [], 0.0)
    median = statistics.median(samples) if samples else 0.0
    flop, bytes_min = case.columns["flop"], case.columns["bytes_min"]
    by, least = bound_by(case, limits)
    rate = lambda amount: amount / median if median else 0.0
    mask = "causal" if case.causal else "full"
    return {name: case.columns[name] for name in COLUMNS} | {
        "label": f"torch.{case.op}.{case.dtype}.{mask}.d{case.head_dim}.{path}",
        "path": path,
        "tile": "",
        "window": [None, None],
        "passed": passed,
        "max_err": error,
        "err_bound": bound,
        "verified": verified,
        "timer": device.timer,
        "warmup": warmup,
        "inner_repeats": repeats,
        "cold_ns": cold,
        "samples_ns": samples,
        "median_ns": median,
        "p10_ns": percentile(samples, 0.1) if samples else 0.0,
        "p90_ns": percentile(samples, 0.9) if samples else 0.0,
        "wall_median_ns": wall,
        "tflops": rate(flop) / 1e3,
        "gb_s": rate(bytes_min),
        "bound_by": by,
        "pct_of_limit": 100 * rate(least),
        "scratch_bytes": scratch,
        "repro": command(args, op=case.op, form=case.form, path=path, dtype=case.dtype, shape=case.shape),
    }


def read_cases(args):
    """The suite, and each case in the forms that PyTorch has, once: of a fused one the un-fused form."""
    try:
        with open(args.cases, encoding="utf-8") as file:
            suite, *lines = [json.loads(line) for line in file if line.strip()]
        _ = suite["suite"], suite["suite_version"], [line[name] for line in lines for name in COLUMNS]
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"error: {args.cases} is neither a record nor a list of `diffattn bench`: {error!r}")
    cases = {}
    for columns in lines:
        # Of a backward pass it takes more operations than the fused form: such cases come with their own rows.
        fused = columns["form"] == "fused" and columns["op"] != "backward"
        case = Case(columns | {"form": "unfused"} if fused else columns)
        asked = {name: getattr(args, name) for name in ("op", "form", "dtype", "shape")}
        wanted = all(value is None or getattr(case, name) == value for name, value in asked.items())
        if wanted and case.form in ("unfused", "baseline") and case.op in ("forward", "decode", "backward"):
            cases.setdefault(str(case), case)
    return suite, list(cases.values())


def save(path, record):
    """Whole or not at all."""
    part = f"{path}.part"
    with open(part, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in record)
    os.replace(part, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cases", required=True, metavar="FILE", help="a record, or what `diffattn bench --list` printed"
    )
    parser.add_argument("-o", "--output", default="torch.jsonl", metavar="FILE", help="the record [torch.jsonl]")
    parser.add_argument("--device", default="auto", choices=["auto", "cuda", "mps", "cpu"], help="cuda is ROCm too")
    parser.add_argument("--threads", type=int, help="threads of the CPU")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20, help="time for one row; what needs more is skipped [20]")
    for name in ("op", "form", "path", "dtype", "shape"):
        parser.add_argument(f"--{name}", help=f"only this {name}")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    suite, cases = read_cases(args)
    if not cases:
        sys.exit("error: no case is left; un-fused and baseline cases are needed")
    device = Device(args.device)
    args.device = device.name
    warnings.filterwarnings("ignore")  # a backend's reasons for not taking a case
    about = header(device, args, suite)
    limits = device.limits()
    rows = []
    for case in cases:
        variants = [False] if case.query_heads == case.kv_heads else [False, True]
        for path, backend, expanded in [
            (b + "-expanded" * e, b, e) for b in BACKENDS_OF[device.name] for e in variants
        ]:
            if args.path and args.path != path:
                continue
            try:
                row = measure(case, backend, expanded, device, limits, args)
                rows.append(row)
                told = f"{row['median_ns'] / 1e6:.3f} ms" if row["passed"] else f"WRONG: {row['max_err']:.1e}"
            except (Skip, RuntimeError) as error:
                # RuntimeError: the backend does not take the case, or there is not enough memory.
                reason = re.sub(r"\s+", " ", str(error).splitlines()[0] if str(error) else type(error).__name__)
                about["skipped"].append({"case": f"{case} {path}", "reason": reason})
                told = f"skipped: {reason}"
            print(f"{case} {path}: {told}", file=sys.stderr)
    after = device.limits()
    about |= {"limits_before": limits, "limits_after": after, "throttled": throttled(limits, after)}
    save(args.output, [about, *rows])
    print(f"wrote {args.output}")
    if not all(row["passed"] for row in rows):
        sys.exit("error: some results were wrong and were not timed")


if __name__ == "__main__":
    main()
