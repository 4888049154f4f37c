# Measures this machine and packs what came out into one file to share: benches/run.sh for Windows.
#
#   powershell -ExecutionPolicy Bypass -File benches\run.ps1 [-Suite quick|standard|full] [-Adapter NAME|INDEX]
param(
    [ValidateSet('quick', 'standard', 'full')][string]$Suite = 'quick',
    [string]$Adapter = ''
)
$ErrorActionPreference = 'Stop'
Set-Location (Join-Path $PSScriptRoot '..')
if (-not (Get-Command cargo -ErrorAction SilentlyContinue)) { throw 'Rust is needed; https://rustup.rs installs it' }

$name = 'diffattn-' + (Get-Date).ToUniversalTime().ToString('yyyy-MM-dd-HHmmss')
$results = "target/results/$name"
New-Item -ItemType Directory -Force $results | Out-Null
$diffattn = 'target/release/diffattn.exe'
$chosen = if ($Adapter) { @('--adapter', $Adapter) } else { @() }
function Step($what) { Write-Host "`n== $what" }

Step 'building (some minutes the first time)'
# The record names the commit and the compiler.
$env:DIFFATTN_COMMIT = git describe --always --dirty --exclude '*'
$env:DIFFATTN_RUSTC = rustc --version
cargo build --release --locked --quiet --bin diffattn
if ($LASTEXITCODE) { exit 1 }

# The quick suite is of f16, and a software driver compiles the kernels of one type for minutes.
$types = if ($Suite -eq 'quick') { @('--dtype', 'f16') } else { @() }
Step 'checking every kernel against the reference'
& $diffattn check @types @chosen | Out-File -Encoding utf8 "$results/check.txt"
if ($LASTEXITCODE) { 'Not all is right here: see check.txt. What is wrong will not be timed.' }

Step "measuring: suite $Suite"
# Ends with 1 when a kernel was wrong; what was right is in the record all the same.
& $diffattn bench --suite $Suite -o $results @chosen | Out-File -Encoding utf8 "$results/bench.md"
$records = @(Get-ChildItem $results -Recurse -Filter *.jsonl | ForEach-Object FullName)
if (-not $records) { exit 1 }

Step 'the same through PyTorch'
$seconds = if ($Suite -eq 'quick') { 4 } else { 20 }
if (Get-Command python -ErrorAction SilentlyContinue) {
    # Where there is no PyTorch it says so.
    python benches/compare_torch.py --cases $records[0] --seconds $seconds -o "$results/torch.jsonl"
    if (Test-Path "$results/torch.jsonl") { $records += "$results/torch.jsonl" }
} else { 'skipped: there is no Python here' }

Step 'report'
& $diffattn report @records -o "$results/report.html"
& $diffattn report @records -o "$results/report.md" --format md
Compress-Archive -Force $results "$results.zip"
@"

Done. To read it, open $results/report.html.
To share it, attach this one file to an issue:

  $results.zip

It names the device and its driver, but neither you nor this machine. To add the record to the project, see
benches/record/README.md.
"@
